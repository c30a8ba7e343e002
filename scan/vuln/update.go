package vuln

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"

	"github.com/sluicegate/sluice/scan"
)

// Bounds of what a mirror may send.
const (
	maxListing  = 1 << 20 // bytes; a real one has 300
	maxArchive  = 8 << 30 // bytes; real ones have 80 to 200 MB
	maxDatabase = 64 << 30
	// idle is how long a mirror may send nothing. There is no limit on the whole
	// download: a slow line is not a fault.
	idle = 60 * time.Second
)

// Update asks the mirror for a newer build and, where it has one, fetches, checks,
// indexes and activates it. It returns the active build and whether it is another
// than before. On any error the build that was active stays so.
//
// progress, which may be nil, is called often during the download with the bytes that
// have arrived and those that are expected, 0 when that is not known.
//
// Update waits for one that another goroutine or process has under way. When ctx ends
// it returns soon, except while a build is indexed, which takes up to a minute.
func (d *Databases) Update(ctx context.Context, progress func(done, total int64)) (db scan.Database, changed bool, err error) {
	err = d.locked(ctx, func() error {
		var err error
		db, changed, err = d.update(ctx, progress)
		d.checked(err)
		return err
	})
	if err != nil {
		return db, false, fmt.Errorf("update the vulnerability database from %s: %w", redacted(d.listing()), err)
	}
	return db, changed, nil
}

func (d *Databases) update(ctx context.Context, progress func(done, total int64)) (scan.Database, bool, error) {
	client, err := d.client()
	if err != nil {
		return scan.Database{}, false, err
	}
	defer client.CloseIdleConnections()
	latest, err := d.latest(ctx, client)
	if err != nil {
		return scan.Database{}, false, err
	}
	have, err := d.Current(ctx)
	if err == nil || errors.Is(err, scan.ErrDatabaseStale) {
		if !latest.Built.After(have.Built) {
			return have, false, nil
		}
	} else if ctx.Err() != nil {
		return scan.Database{}, false, ctx.Err()
	}
	from, err := d.archive(latest)
	if err != nil {
		return scan.Database{}, false, err
	}
	stage, err := d.stage()
	if err != nil {
		return scan.Database{}, false, err
	}
	defer os.RemoveAll(stage)
	file := filepath.Join(stage, "archive")
	if err := fetch(ctx, client, from, file, latest.Checksum, progress); err != nil {
		return scan.Database{}, false, err
	}
	db, err := d.install(ctx, stage, file, redacted(from))
	return db, err == nil, err
}

// listing returns the URL of the listing.
func (d *Databases) listing() string {
	u := d.URL
	if u == "" {
		u = DefaultURL
	}
	if strings.HasSuffix(u, ".json") {
		return u
	}
	return strings.TrimRight(u, "/") + "/v" + strconv.Itoa(v6.ModelVersion) + "/" + distribution.LatestFileName
}

// latest fetches the listing.
func (d *Databases) latest(ctx context.Context, client *http.Client) (*distribution.LatestDocument, error) {
	body, stop, err := get(ctx, client, d.listing())
	if err != nil {
		return nil, err
	}
	defer stop()
	b, err := io.ReadAll(io.LimitReader(body, maxListing+1))
	if err != nil {
		return nil, fmt.Errorf("read the listing: %w", err)
	}
	if len(b) > maxListing {
		return nil, fmt.Errorf("the listing has more than %d bytes", maxListing)
	}
	var doc distribution.LatestDocument
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("the listing is no listing of grype's: %w", err)
	}
	switch {
	case doc.SchemaVersion.Model != v6.ModelVersion:
		return nil, fmt.Errorf("the listing is for databases of schema %d, and this version reads schema %d", doc.SchemaVersion.Model, v6.ModelVersion)
	case doc.Path == "" || doc.Built.IsZero():
		return nil, errors.New("the listing names no archive")
	case !strings.HasPrefix(doc.Checksum, "sha256:"):
		return nil, errors.New("the listing has no sha256 checksum of its archive")
	}
	if doc.Status != distribution.StatusActive && doc.Status != "" {
		d.log().Warn("databases of this schema will end: update sluice", "status", doc.Status, "url", redacted(d.listing()))
	}
	return &doc, nil
}

// archive returns the URL of the archive: on the listing's host, whatever the listing
// says.
func (d *Databases) archive(doc *distribution.LatestDocument) (string, error) {
	u, err := url.Parse(d.listing())
	if err != nil {
		return "", err
	}
	u.Path = path.Join(path.Dir(u.Path), path.Clean("/"+doc.Path))
	u.RawPath = ""
	return u.String(), nil
}

// redacted is a URL without its password, for people and files.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "the mirror" // what can't be parsed may hide a password anywhere
	}
	return u.Redacted()
}

// fetch downloads a file and compares its checksum.
func fetch(ctx context.Context, client *http.Client, from, to, checksum string, progress func(done, total int64)) error {
	body, stop, err := get(ctx, client, from)
	if err != nil {
		return err
	}
	defer stop()
	from = redacted(from)
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(meter(body, progress), maxArchive+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("download %s: %w", from, err)
	}
	if n > maxArchive {
		return fmt.Errorf("download %s: it has more than %d bytes", from, int64(maxArchive))
	}
	if sum := "sha256:" + hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(sum, checksum) {
		return fmt.Errorf("download %s: the checksum of its %d bytes is %s and should be %s; try again, or tell who runs the mirror", from, n, sum, checksum)
	}
	return nil
}

// client trusts CACert beside the system's certificates, and follows the environment's
// proxy.
func (d *Databases) client() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	if d.CACert != "" {
		pem, err := os.ReadFile(d.CACert)
		if err != nil {
			return nil, fmt.Errorf("read the mirror's certificates: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", d.CACert)
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return &http.Client{Transport: t}, nil
}

// A body is what a server sends, until it sends nothing for too long.
type body struct {
	io.Reader
	size  int64 // -1 when not known
	timer *time.Timer
	cause func() error // why the request was ended
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(idle)
	n, err := b.Reader.Read(p)
	if cause := b.cause(); err != nil && err != io.EOF && cause != nil {
		err = cause
	}
	return n, err
}

// get sends one request. stop ends it.
func get(ctx context.Context, client *http.Client, from string) (_ *body, stop func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			cancel(nil)
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("User-Agent", "sluice")
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, nil, fmt.Errorf("GET %s: the server answered %s", req.URL.Redacted(), res.Status)
	}
	timer := time.AfterFunc(idle, func() { cancel(fmt.Errorf("the server sent nothing for %s", idle)) })
	b := &body{res.Body, res.ContentLength, timer, func() error { return context.Cause(ctx) }}
	return b, func() { timer.Stop(); res.Body.Close(); cancel(nil) }, nil
}

// meter tells progress of what is read from b.
func meter(b *body, progress func(done, total int64)) io.Reader {
	if progress == nil {
		return b
	}
	return &metered{b, progress, 0}
}

type metered struct {
	*body
	progress func(done, total int64)
	done     int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.body.Read(p)
	m.done += int64(n)
	m.progress(m.done, max(m.size, 0))
	return n, err
}
