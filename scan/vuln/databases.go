package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"

	"github.com/sluicegate/sluice/scan"
)

// Defaults of Databases.
const (
	// DefaultURL is where grype's databases are published, once a day.
	DefaultURL = "https://grype.anchore.io/databases"
	// DefaultMaxAge is grype's own limit: five days without a new build mean that
	// updates have stopped.
	DefaultMaxAge = 120 * time.Hour
	// DefaultInterval lets a daily build arrive within two hours of its publication.
	DefaultInterval = 2 * time.Hour
)

// Databases keeps builds of the vulnerability database in a directory, one directory
// for each, and knows which one is active. Several processes may share the directory:
// what one activates, all see. The fields are set before the first call; the methods
// may be called concurrently.
type Databases struct {
	Root     string        // directory, made where it is missing; must not hold any of ?, # and %
	URL      string        // mirror: a URL that ends in .json, or one that /v6/latest.json is added to; DefaultURL when empty
	MaxAge   time.Duration // a build that is older is stale; DefaultMaxAge when 0
	Interval time.Duration // between checks for a new build; DefaultInterval when 0
	CACert   string        // file of PEM certificates that vouch for the mirror, besides the system's
	Offline  bool          // Run never asks the mirror, and only watches for imports
	Log      *slog.Logger  // what Run does; nothing when nil

	// OnChange, if set, is called by Run, from its goroutine, each time that another
	// build has become active, whichever process did that.
	OnChange func(scan.Database)

	now func() time.Time // time.Now where nil

	mu       sync.Mutex // guards all below; held while a build is hashed
	verified seal
	leases   map[string]int // by directory
}

// A seal is the state of a file whose checksum was found to be right.
type seal struct {
	dir   string
	size  int64
	mtime time.Time
}

// A record is the content of the file "current".
type record struct {
	Dir       string    `json:"dir"` // name in Root
	Checksum  string    `json:"checksum"`
	Built     time.Time `json:"built"`
	Schema    string    `json:"schema"`
	Source    string    `json:"source"`
	Activated time.Time `json:"activated"`
	Previous  string    `json:"previous,omitempty"` // name in Root of the build before
}

const (
	currentFile = "current"
	checkFile   = "last-check.json"
	stagePrefix = "staging-"
)

// remedy is what a person does when there is no good database.
const remedy = `run "sluice db update", or without internet "sluice db import FILE"`

// Current returns the active build. An error that wraps scan.ErrDatabaseMissing means
// that there is none, or that it is damaged; one that wraps scan.ErrDatabaseStale that
// it is older than MaxAge: the build is returned beside it, for those who may use it.
//
// The file is hashed when this process first sees the build, or sees it changed:
// about a second for a gigabyte. Every other call reads two small files.
func (d *Databases) Current(ctx context.Context) (scan.Database, error) {
	r, err := d.active()
	if err != nil {
		return scan.Database{}, err
	}
	if err := ctx.Err(); err != nil {
		return scan.Database{}, err
	}
	if err := d.verify(r); err != nil {
		return scan.Database{}, fmt.Errorf("%w: the build in %s is damaged: %w; %s", scan.ErrDatabaseMissing, d.dir(r), err, remedy)
	}
	db := scan.Database{Built: r.Built, Checksum: r.Checksum, Dir: d.dir(r)}
	if age := d.clock().Sub(r.Built); age > d.maxAge() {
		return db, fmt.Errorf("%w: it was built %s, %s ago, and the limit is %s; %s",
			scan.ErrDatabaseStale, stamp(r.Built), hours(age), hours(d.maxAge()), remedy)
	}
	return db, nil
}

// Lease keeps the build db from being removed by this process until release is
// called. A build that is not leased may be removed as soon as two newer ones have
// come; files that are open survive that.
func (d *Databases) Lease(db scan.Database) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leases == nil {
		d.leases = make(map[string]int)
	}
	d.leases[db.Dir]++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.leases[db.Dir]--; d.leases[db.Dir] == 0 {
			delete(d.leases, db.Dir)
		}
	})
}

// A Status tells of the active build and of the updates.
type Status struct {
	Built     time.Time `json:"built,omitzero"`
	Checksum  string    `json:"checksum,omitempty"`
	Schema    string    `json:"schema,omitempty"`
	Path      string    `json:"path,omitempty"`   // of vulnerability.db
	Source    string    `json:"source,omitempty"` // URL or file that it came from
	Age       int64     `json:"age_seconds,omitempty"`
	MaxAge    int64     `json:"max_age_seconds"`
	Stale     bool      `json:"stale"`
	Error     string    `json:"error,omitempty"` // why there is no usable build, and what to do
	URL       string    `json:"url"`             // of the listing
	LastCheck time.Time `json:"last_check,omitzero"`
	LastError string    `json:"last_error,omitempty"` // of the last check
}

// Status returns what there is to say. Like Current, it may have to hash the file.
func (d *Databases) Status(ctx context.Context) Status {
	s := Status{URL: redacted(d.listing()), MaxAge: int64(d.maxAge().Seconds())}
	c := d.lastCheck()
	s.LastCheck, s.LastError = c.Time, c.Error
	if r, err := d.active(); err == nil {
		s.Built, s.Checksum, s.Schema, s.Source = r.Built, r.Checksum, r.Schema, r.Source
		s.Path = filepath.Join(d.dir(r), v6.VulnerabilityDBFileName)
		s.Age = int64(d.clock().Sub(r.Built).Seconds())
	}
	if _, err := d.Current(ctx); err != nil {
		s.Error = err.Error()
		s.Stale = errors.Is(err, scan.ErrDatabaseStale)
	}
	return s
}

// active reads the file "current".
func (d *Databases) active() (record, error) {
	var r record
	if d.Root == "" || strings.ContainsAny(d.Root, "?#%") {
		return r, fmt.Errorf("%w: the directory %q can't hold one: choose a path without ?, # and %%", scan.ErrDatabaseMissing, d.Root)
	}
	b, err := os.ReadFile(filepath.Join(d.Root, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%w in %s; %s", scan.ErrDatabaseMissing, d.Root, remedy)
	}
	if err != nil {
		return r, fmt.Errorf("%w: %w; %s", scan.ErrDatabaseMissing, err, remedy)
	}
	err = json.Unmarshal(b, &r)
	if err == nil && (r.Dir == "" || r.Dir != filepath.Base(r.Dir) || r.Dir == ".." || r.Checksum == "") {
		err = errors.New("it names no build")
	}
	if err != nil {
		return r, fmt.Errorf("%w: %s is damaged: %w; %s", scan.ErrDatabaseMissing, filepath.Join(d.Root, currentFile), err, remedy)
	}
	return r, nil
}

// verify hashes the build that r names, unless this process has done so and the file
// looks the same.
func (d *Databases) verify(r record) error {
	name := filepath.Join(d.dir(r), v6.VulnerabilityDBFileName)
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	now := seal{d.dir(r), info.Size(), info.ModTime()}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := fits(scan.Database{Dir: d.dir(r), Checksum: r.Checksum}); err != nil {
		return err
	}
	if d.verified == now {
		return nil
	}
	sum, err := v6.CalculateDBDigest(afero.NewOsFs(), name)
	if err != nil {
		return err
	}
	if !strings.EqualFold(sum, r.Checksum) {
		return fmt.Errorf("the checksum of %s is %s and should be %s", name, sum, r.Checksum)
	}
	d.verified = now
	return nil
}

// dir is the directory that holds vulnerability.db: grype puts the model's number
// between it and the root, and so the command of grype can read it, too.
func (d *Databases) dir(r record) string {
	return filepath.Join(d.Root, r.Dir, strconv.Itoa(v6.ModelVersion))
}

func (d *Databases) clock() time.Time {
	if d.now != nil {
		return d.now()
	}
	return time.Now()
}

func (d *Databases) maxAge() time.Duration {
	if d.MaxAge > 0 {
		return d.MaxAge
	}
	return DefaultMaxAge
}

func (d *Databases) interval() time.Duration {
	if d.Interval > 0 {
		return d.Interval
	}
	return DefaultInterval
}

func (d *Databases) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.New(slog.DiscardHandler)
}

// hours formats an age for people: hours are as exact as a daily build needs.
func hours(t time.Duration) string {
	if t < time.Hour {
		return t.Round(time.Second).String()
	}
	return strconv.Itoa(int(t.Hours())) + "h"
}
