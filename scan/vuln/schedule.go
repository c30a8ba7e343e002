package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/sluicegate/sluice/scan"
)

const (
	// watch is how soon a build that another process activates is seen.
	watch = 5 * time.Second
	// retry is the wait after a check that failed; it doubles up to the interval.
	retry = time.Minute
)

// Run keeps the database fresh until ctx ends, and returns nil then. It asks the
// mirror at once when there is no usable build, and else about every Interval, give or
// take a tenth, so that many gateways don't ask in the same minute. A check that fails
// is logged and tried again; the active build stays. It tells OnChange of each build
// that becomes active while it runs.
func (d *Databases) Run(ctx context.Context) error {
	seen := ""
	if r, err := d.active(); err == nil {
		seen = r.Checksum
	}
	failures := 0
	next := time.NewTimer(d.first(ctx))
	defer next.Stop()
	if d.Offline {
		next.Stop()
	}
	tick := time.NewTicker(watch)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-next.C:
			_, changed, err := d.Update(ctx, nil)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				failures++
				d.complain(ctx, err)
			default:
				failures = 0
				d.log().Debug("asked for a new vulnerability database", "changed", changed)
			}
			next.Reset(d.wait(failures))
		}
		seen = d.announce(ctx, seen)
	}
}

// complain logs a check that failed: an error where there is nothing to go on with.
func (d *Databases) complain(ctx context.Context, err error) {
	if _, none := d.active(); none != nil {
		d.log().ErrorContext(ctx, "no vulnerability database yet; trying again", "error", err)
		return
	}
	d.log().WarnContext(ctx, "no update of the vulnerability database", "error", err)
}

// announce calls OnChange if the active build is another than the one with the
// checksum seen, and returns the checksum of what is active.
func (d *Databases) announce(ctx context.Context, seen string) string {
	r, err := d.active()
	if err != nil || r.Checksum == seen {
		return seen
	}
	db, err := d.Current(ctx)
	if err != nil && !errors.Is(err, scan.ErrDatabaseStale) {
		if ctx.Err() == nil {
			d.log().Error("the new vulnerability database can't be used", "error", err)
		}
		return seen
	}
	d.log().Info("vulnerability database", "built", stamp(db.Built), "checksum", db.Checksum, "source", r.Source)
	if d.OnChange != nil {
		d.OnChange(db)
	}
	return db.Checksum
}

// first returns how long to wait before the first check.
func (d *Databases) first(ctx context.Context) time.Duration {
	if _, err := d.Current(ctx); err != nil {
		return 0
	}
	c := d.lastCheck()
	if c.Error != "" {
		return 0
	}
	since := d.clock().Sub(c.Time)
	if since < 0 || since > d.interval() {
		return 0
	}
	return d.interval() - since
}

// wait returns how long to wait for the next check after some failures in a row.
func (d *Databases) wait(failures int) time.Duration {
	w := d.interval()
	if failures > 0 {
		w = min(w, retry<<min(failures-1, 20))
	}
	return w + time.Duration((rand.Float64()-0.5)*0.2*float64(w))
}

// An attempt is the content of the file "last-check.json".
type attempt struct {
	Time  time.Time `json:"time"`
	Error string    `json:"error,omitempty"`
}

// checked notes how a check went. It is for people: what can't be noted is no error.
func (d *Databases) checked(err error) {
	c := attempt{Time: d.clock().UTC()}
	if err != nil {
		c.Error = err.Error()
	}
	_ = writeJSON(filepath.Join(d.Root, checkFile), c)
}

func (d *Databases) lastCheck() attempt {
	var c attempt
	b, err := os.ReadFile(filepath.Join(d.Root, checkFile))
	if err != nil {
		return c
	}
	if json.Unmarshal(b, &c) != nil {
		return attempt{}
	}
	return c
}
