package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"

	"github.com/sluicegate/sluice/scan"
)

// Update asks the mirror for a newer build and, where it has one, fetches, checks,
// indexes and activates it. It returns the active build and whether it is another
// than before. On any error the build that was active stays so.
//
// progress, which may be nil, is called often during the download with the bytes that
// have arrived and those that are expected, 0 when that is not known.
//
// Update waits, for ten minutes at most, for one that another goroutine or process has
// under way; then it fails without having asked, which counts as no check. When ctx ends
// it returns soon, except while a build is indexed, which takes up to a minute.
func (d *Databases) Update(ctx context.Context, progress func(done, total int64)) (db scan.Database, changed bool, err error) {
	if err = d.valid(); err == nil {
		err = d.alone(ctx, updateLock, d.waits, func() error {
			var err error
			db, changed, err = d.update(ctx, progress)
			return err
		})
	}
	if ctx.Err() == nil && !errors.Is(err, errBusy) { // being told to stop is no failure of anybody's, nor is another one's update
		d.note(changed, err)
	}
	if err != nil {
		return db, false, fmt.Errorf("update the vulnerability database from %s: %w", d.shown(), err)
	}
	return db, changed, nil
}

// waits tells that Update waits for another one.
func (d *Databases) waits(who string) {
	d.log().Info("another update of the vulnerability database is under way; waiting for it", "holder", who, "at_most", d.within().wait)
	if d.Waiting != nil {
		d.Waiting(who, d.within().wait)
	}
}

func (d *Databases) update(ctx context.Context, progress func(done, total int64)) (scan.Database, bool, error) {
	from, err := d.mirror()
	if err != nil {
		return scan.Database{}, false, err
	}
	client, err := d.client()
	if err != nil {
		return scan.Database{}, false, err
	}
	defer client.CloseIdleConnections()
	latest, err := d.latest(ctx, client, from)
	if err != nil {
		return scan.Database{}, false, err
	}
	have, err := d.Current(ctx)
	if err := ctx.Err(); err != nil {
		return scan.Database{}, false, err
	}
	if stateOf(err) != Missing && !latest.Built.After(have.Built) {
		if err := d.past(have.Built); err != nil { // then it is no use that nothing newer is there
			return scan.Database{}, false, fail(Other, "the mirror's build, of %s, is not newer than the active one: %w", stamp(latest.Built.Time), d.Fresh(have.Built))
		}
		return have, false, nil
	}
	stage, end, err := d.stage(ctx)
	if err != nil {
		return scan.Database{}, false, err
	}
	defer end()
	file, at := filepath.Join(stage, "archive"), archive(from, latest)
	d.at("listed")
	whole, cancel := context.WithTimeoutCause(ctx, d.within().whole, fmt.Errorf("the download takes more than %s", d.within().whole))
	defer cancel()
	if err := d.fetch(whole, client, at, file, latest.Checksum, progress); err != nil {
		return scan.Database{}, false, err
	}
	d.at("fetched")
	db, changed, err := d.install(ctx, stage, file, redacted(at), func(built time.Time) error {
		have, err := d.Current(ctx)
		switch {
		case stateOf(err) == Missing || built.After(have.Built):
			return nil
		case !latest.Built.After(have.Built):
			return errThere
		}
		// Otherwise the same archive would be fetched again at each check, and a mirror
		// could bring back what is known to be outdated.
		return fail(BadListing, "its archive was built %s, the listing says %s, and the active build is of %s; tell who runs the mirror",
			stamp(built), stamp(latest.Built.Time), stamp(have.Built))
	})
	if errors.Is(err, errThere) {
		db, err = d.Current(ctx)
		if stateOf(err) != Missing { // whether it is too old is for others to say
			err = nil
		}
	}
	return db, changed, err
}

// errThere is that somebody has brought what an update has fetched, or something newer.
var errThere = errors.New("it is active already")

// listingPath is that of the listing under a mirror's root.
func listingPath() string {
	return "v" + strconv.Itoa(v6.ModelVersion) + "/" + distribution.LatestFileName
}

// latest fetches the listing.
func (d *Databases) latest(ctx context.Context, client *http.Client, from *url.URL) (*distribution.LatestDocument, error) {
	b, stop, err := d.get(ctx, client, from)
	if err != nil {
		return nil, err
	}
	defer stop()
	most := d.within().listing
	text, err := io.ReadAll(io.LimitReader(b, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the listing: %w", err)
	}
	if int64(len(text)) > most {
		return nil, fail(BadListing, "the listing has more than %d bytes", most)
	}
	var doc distribution.LatestDocument
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fail(BadListing, "the listing is no listing of grype's: %w", err)
	}
	switch {
	case doc.SchemaVersion.Model != v6.ModelVersion:
		return nil, fail(BadListing, "the listing is for databases of schema %d, and this version reads schema %d", doc.SchemaVersion.Model, v6.ModelVersion)
	case doc.Path == "" || doc.Built.IsZero():
		return nil, fail(BadListing, "the listing names no archive")
	case !strings.HasPrefix(doc.Checksum, "sha256:"):
		return nil, fail(BadListing, "the listing has no sha256 checksum of its archive")
	}
	if err := d.past(doc.Built.Time); err != nil {
		return nil, &failure{reason: BadListing, err: err}
	}
	if doc.Status != distribution.StatusActive && doc.Status != "" {
		d.log().Warn("databases of this schema will end: update sluice", "status", doc.Status, "url", redacted(from))
	}
	return &doc, nil
}

// past refuses a build from the future: it would never be stale, and nothing newer would
// come for long.
func (d *Databases) past(built time.Time) error {
	if now := d.clock(); built.Sub(now) > skew {
		return fmt.Errorf("it says that it was built %s, and this machine's clock says %s: set the clock, or tell who made it", stamp(built), stamp(now))
	}
	return nil
}

// archive returns the URL of the archive: on the listing's host, whatever the listing
// says.
func archive(listing *url.URL, doc *distribution.LatestDocument) *url.URL {
	u := *listing
	u.Path = path.Join(path.Dir(u.Path), path.Clean("/"+doc.Path))
	u.RawPath = ""
	return &u
}

// at tells a test of a step.
func (d *Databases) at(step string) {
	if d.step != nil {
		d.step(step)
	}
}

// ErrOlder is what Import wraps when the build is older than the active one.
var ErrOlder = errors.New("it is older than the active build")

// Import installs and activates a build from a file, without any network: an archive
// as mirrors serve it (.tar.zst, .tar.gz, .tar), a bare vulnerability.db, also
// compressed, or a directory that holds one, with the import.json that says its
// checksum where there is one. What was active stays so on any error. It doesn't wait
// for an update that is under way.
//
// A build that is older than the active one is refused with ErrOlder, since what was
// published in between would be missed; ImportAny takes it.
func (d *Databases) Import(ctx context.Context, file string) (scan.Database, error) {
	return d.bring(ctx, file, func(built time.Time) error {
		if have, err := d.Current(ctx); stateOf(err) != Missing && built.Before(have.Built) {
			return fmt.Errorf("%w: it was built %s, and the active one %s", ErrOlder, stamp(built), stamp(have.Built))
		}
		return nil
	})
}

// ImportAny is Import that takes an older build, too: that is how one goes back. The
// next Update goes forward again.
func (d *Databases) ImportAny(ctx context.Context, file string) (scan.Database, error) {
	return d.bring(ctx, file, func(time.Time) error { return nil })
}

func (d *Databases) bring(ctx context.Context, file string, accept func(time.Time) error) (scan.Database, error) {
	db, err := func() (db scan.Database, err error) {
		if err := d.valid(); err != nil {
			return db, err
		}
		stage, end, err := d.stage(ctx)
		if err != nil {
			return db, err
		}
		defer end()
		db, _, err = d.install(ctx, stage, file, file, accept)
		return db, err
	}()
	if err != nil {
		return db, fmt.Errorf("import the vulnerability database %s: %w", file, err)
	}
	return db, nil
}
