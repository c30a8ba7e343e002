package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"

	"github.com/sluicegate/sluice/scan"
)

// A State says in a word whether there is a build to match with.
type State string

// The states there are.
const (
	Usable  State = "usable"
	Stale   State = "stale"   // older than MaxAge: scan.ErrDatabaseStale
	Missing State = "missing" // or damaged: scan.ErrDatabaseMissing
)

// A Status tells of the active build and of the updates.
type Status struct {
	State    State     `json:"state"`
	Built    time.Time `json:"built,omitzero"`
	Checksum string    `json:"checksum,omitempty"`
	Schema   string    `json:"schema,omitempty"`
	Path     string    `json:"path,omitempty"`   // of vulnerability.db
	Source   string    `json:"source,omitempty"` // URL or file that it came from
	Age      int64     `json:"age_seconds,omitempty"`
	MaxAge   int64     `json:"max_age_seconds"`
	Stale    bool      `json:"stale"`
	Error    string    `json:"error,omitempty"`   // why there is no usable build, and what to do
	URL      string    `json:"url"`               // of the listing
	Warning  string    `json:"warning,omitempty"` // of that URL, and what to do
	Offline  bool      `json:"offline"`           // nothing is downloaded by itself

	// Of the checks for a newer build, by whichever process.
	LastCheck   time.Time `json:"last_check,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"`       // the last check that didn't fail
	LastError   string    `json:"last_error,omitempty"`        // of the last check
	LastReason  Reason    `json:"last_error_reason,omitempty"` // the same in a word
	Failures    int       `json:"failures,omitempty"`          // in a row, up to the last check

	// Unknown is set where files can't be read: another user might find a usable build.
	Unknown bool `json:"-"`
}

// Status returns what there is to say, also while another process updates. Like
// Current, it may have to hash the file.
func (d *Databases) Status(ctx context.Context) Status {
	s := Status{State: Usable, URL: d.shown(), Warning: d.exposed(), MaxAge: int64(d.maxAge().Seconds()), Offline: d.Offline}
	c := d.LastCheck()
	s.LastCheck, s.LastSuccess, s.LastError, s.LastReason, s.Failures = c.Time, c.Success, c.Error, c.Reason, c.Failures
	if r, err := d.active(); err == nil {
		s.Built, s.Checksum, s.Schema, s.Source = r.Built, r.Checksum, r.Schema, r.Source
		s.Path = filepath.Join(d.dir(r), v6.VulnerabilityDBFileName)
		s.Age = int64(d.clock().Sub(r.Built).Seconds())
	}
	if _, err := d.Current(ctx); err != nil {
		s.State, s.Error = stateOf(err), err.Error()
		s.Stale = s.State == Stale
		s.Unknown = errors.Is(err, fs.ErrPermission) || ctx.Err() != nil
	}
	return s
}

func stateOf(err error) State {
	switch {
	case err == nil:
		return Usable
	case errors.Is(err, scan.ErrDatabaseStale):
		return Stale
	}
	return Missing
}

// Counts are of what this process has done since it started.
type Counts struct {
	Checks   int64 // whatever came of them
	Updates  int64 // builds that were downloaded and activated
	Bytes    int64 // of archives, downloaded whole or in part
	Failures map[Reason]int64
}

// Counts returns them.
func (d *Databases) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.counts
	c.Failures = maps.Clone(c.Failures)
	return c
}

func (d *Databases) count(f func(*Counts)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts.Failures == nil {
		d.counts.Failures = make(map[Reason]int64)
	}
	f(&d.counts)
}

// A Check is how a check for a newer build went, by whichever process: the content of
// the file "last-check.json".
type Check struct {
	Time     time.Time `json:"time"`
	Success  time.Time `json:"success,omitzero"` // of the last one that didn't fail
	Error    string    `json:"error,omitempty"`
	Reason   Reason    `json:"reason,omitempty"`   // for the Error, in a word
	Failures int       `json:"failures,omitempty"` // in a row, up to this one
}

// note writes down how a check went, for this process and the next.
func (d *Databases) note(changed bool, err error) {
	d.count(func(c *Counts) {
		c.Checks++
		if changed {
			c.Updates++
		}
		if err != nil {
			c.Failures[reasonOf(err)]++
		}
	})
	c := Check{Time: d.clock().UTC()}
	if err == nil {
		c.Success = c.Time
	} else {
		last := d.LastCheck()
		c.Error, c.Reason, c.Failures, c.Success = err.Error(), reasonOf(err), last.Failures+1, last.Success
	}
	_ = writeJSON(filepath.Join(d.Root, checkFile), c)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = c
}

// LastCheck returns the last one, the zero value where there was none.
func (d *Databases) LastCheck() Check {
	var c Check
	b, err := os.ReadFile(filepath.Join(d.Root, checkFile))
	if err != nil || json.Unmarshal(b, &c) != nil {
		c = Check{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.Time.Before(d.last.Time) { // it could not be written
		return d.last
	}
	return c
}
