package vuln

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// bounds are those of what a mirror may send and of what an archive may hold. A zero
// field is its default.
type bounds struct {
	listing  int64         // bytes; a real one has 300
	archive  int64         // bytes; real ones have 80 to 200 MB
	database int64         // bytes; real ones have 1 to 2 GB
	reserve  int64         // bytes of the disk that are left to others: see room
	idle     time.Duration // for which a mirror may send nothing
	whole    time.Duration // of a download; a slow line is no fault, but one that never ends is
	wait     time.Duration // for another update or installation; most downloads and an index are done by then
}

func (d *Databases) within() bounds {
	b := d.bounds
	return bounds{
		listing:  cmp.Or(b.listing, 1<<20),
		archive:  cmp.Or(b.archive, 4<<30),
		database: cmp.Or(b.database, 32<<30),
		reserve:  cmp.Or(b.reserve, 256<<20),
		idle:     cmp.Or(b.idle, 60*time.Second),
		whole:    cmp.Or(b.whole, 6*time.Hour),
		wait:     cmp.Or(b.wait, 10*time.Minute),
	}
}

// A Reason says in a word why an update failed.
type Reason string

// The reasons there are.
const (
	Unreachable Reason = "unreachable" // no connection, no trust in it, or it broke or stalled
	Refused     Reason = "refused"     // an answer other than 200
	BadListing  Reason = "listing"     // what the mirror says of its archive can't be used
	BadChecksum Reason = "checksum"    // the archive is not the one that was listed
	BadArchive  Reason = "archive"     // the archive holds no database that can be used
	NoDisk      Reason = "disk"        // no room, or files that can't be written
	Other       Reason = "other"       // such as a setting that can't be used
)

// Reasons returns all of them.
func Reasons() []Reason {
	return []Reason{Unreachable, Refused, BadListing, BadChecksum, BadArchive, NoDisk, Other}
}

// A failure is an error with its Reason.
type failure struct {
	reason Reason
	after  time.Duration // not to be tried again before, where the mirror said so
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(reason Reason, format string, args ...any) error {
	return &failure{reason: reason, err: fmt.Errorf(format, args...)}
}

// mirror returns the URL of the listing.
func (d *Databases) mirror() (*url.URL, error) {
	u, err := url.Parse(cmp.Or(d.URL, DefaultURL))
	if err != nil { // the error quotes the URL, and with it a password
		return nil, errors.New("the URL of the mirror can't be read: write https://HOST/PATH, with %25 for a % in a password")
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, errors.New("the URL of the mirror must begin with https:// or http://; a file is installed by `sluice db import FILE`")
	}
	if !strings.HasSuffix(u.Path, ".json") {
		u = u.JoinPath(listingPath())
	}
	return u, nil
}

// exposed says what is wrong with asking the mirror as it is set, empty where nothing is.
func (d *Databases) exposed() string {
	u, err := d.mirror()
	if err != nil || u.Scheme != "http" {
		return ""
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return ""
	}
	return "the mirror is asked over plain HTTP, so whoever is on the way can serve a database that knows nothing: use https:// in database.url, with database.ca_file for an authority of your own"
}

// shown is the URL of the listing for people, logs and files.
func (d *Databases) shown() string {
	u, err := d.mirror()
	if err != nil {
		return "the mirror"
	}
	return redacted(u)
}

// redacted is a URL without what may be a secret: a user's name too may be a token,
// and so may a query.
func redacted(u *url.URL) string {
	bare := *u
	bare.User, bare.RawQuery, bare.Fragment = nil, "", ""
	return bare.String()
}

// client trusts CACert in place of the system's authorities, and follows the
// environment's proxy.
func (d *Databases) client() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = d.within().idle
	if d.CACert != "" {
		pem, err := os.ReadFile(d.CACert)
		if err != nil {
			return nil, fail(Other, "read the authorities of the mirror's certificate: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fail(Other, "the file %s, of authorities of the mirror's certificate, holds no PEM certificate", d.CACert)
		}
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	}
	return &http.Client{Transport: t, CheckRedirect: follow}, nil
}

// follow allows a few redirects, none of which gives up TLS: the listing vouches for the
// archive, and nothing else vouches for the listing.
func follow(r *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return errors.New("more than 5 redirects")
	}
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return fmt.Errorf("a redirect from https to %s://%s", r.URL.Scheme, r.URL.Host)
	}
	return nil
}

// get sends one request. stop ends it.
func (d *Databases) get(ctx context.Context, client *http.Client, from *url.URL) (_ *body, stop func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() {
		if err != nil {
			cancel(nil)
		}
	}()
	bare := *from
	bare.User = nil
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, bare.String(), nil)
	if err != nil {
		return nil, nil, errors.New("the URL of the mirror can't be used")
	}
	if name := from.User.Username(); name != "" { // a header stays with its host, also over redirects
		password, _ := from.User.Password()
		req.SetBasicAuth(name, password)
	}
	req.Header.Set("User-Agent", "sluice")
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, unreachable(ctx, err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, nil, refused(res)
	}
	idle := d.within().idle
	timer := time.AfterFunc(idle, func() { cancel(fmt.Errorf("the server sent nothing for %s", idle)) })
	b := &body{Reader: res.Body, ctx: ctx, size: res.ContentLength, timer: timer, idle: idle}
	return b, func() { timer.Stop(); res.Body.Close(); cancel(nil) }, nil
}

// unreachable returns what went wrong with a request, without its URL: that of a
// redirect may be signed.
func unreachable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		err = fmt.Errorf("%w; name the file with its authority in database.ca_file", err)
	}
	return &failure{reason: Unreachable, err: err}
}

// refused returns what an answer means for who reads of it.
func refused(res *http.Response) error {
	f := &failure{reason: Refused, err: fmt.Errorf("GET %s: the server answered %s", redacted(res.Request.URL), res.Status)}
	hint := ""
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		hint = "credentials go into the environment, SLUICE_DATABASE_URL=https://NAME:PASSWORD@HOST/PATH"
	case http.StatusProxyAuthRequired:
		hint = "that is the proxy: its credentials go into HTTPS_PROXY or HTTP_PROXY, http://NAME:PASSWORD@HOST:PORT"
	case http.StatusNotFound:
		hint = "the mirror's URL is that of the folder above " + listingPath() + ", or of the listing itself"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		f.after = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	if hint != "" {
		f.err = fmt.Errorf("%w; %s", f.err, hint)
	}
	return f
}

// retryAfter reads the header of that name (RFC 9110, 10.2.3), 0 where it says nothing.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// A body is what a server sends, until it sends nothing for too long. It lives for one
// download, and with its context.
type body struct {
	io.Reader
	ctx      context.Context
	size     int64 // -1 when not known
	timer    *time.Timer
	idle     time.Duration
	done     int64
	progress func(done, total int64) // may be nil
}

func (b *body) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.Reader.Read(p)
	b.done += int64(n)
	if b.progress != nil && n > 0 {
		b.progress(b.done, max(b.size, 0))
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
		err = &failure{reason: Unreachable, err: err}
	}
	return n, err
}

// fetch downloads a file and compares its checksum.
func (d *Databases) fetch(ctx context.Context, client *http.Client, from *url.URL, to, checksum string, progress func(done, total int64)) error {
	b, stop, err := d.get(ctx, client, from)
	if err != nil {
		return err
	}
	defer stop()
	b.progress = progress
	most, name := d.within().archive, redacted(from)
	if b.size > most {
		return fail(BadArchive, "download %s: it has %d bytes, and at most %d are taken", name, b.size, most)
	}
	if err := d.room(b.size); err != nil {
		return fmt.Errorf("download %s: %w", name, err)
	}
	h := sha256.New()
	n, err := d.save(ctx, to, io.TeeReader(b, h), most)
	d.count(func(c *Counts) { c.Bytes += b.done })
	if err != nil {
		return fmt.Errorf("download %s: %w", name, err)
	}
	if sum := "sha256:" + hex.EncodeToString(h.Sum(nil)); !strings.EqualFold(sum, checksum) {
		return fail(BadChecksum, "download %s: the checksum of its %d bytes is %s and should be %s; if that stays so, tell who runs the mirror", name, n, sum, checksum)
	}
	return nil
}
