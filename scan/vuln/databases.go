package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
//
// On disk there are the active build and the one before it, those that matchers have
// open or that ceased to be active less than two minutes ago, and while one is
// installed its archive and itself. A build takes 1 to 2 GB.
type Databases struct {
	Root     string        // directory, made where it is missing; must not hold any of ?, # and %
	URL      string        // mirror: a URL whose path ends in .json, or one that v6/latest.json is added to; DefaultURL when empty; may hold NAME:PASSWORD@
	MaxAge   time.Duration // a build that is older is stale; DefaultMaxAge when 0
	Interval time.Duration // between checks for a new build; DefaultInterval when 0
	CACert   string        // file of PEM certificates of the authorities that vouch for the mirror, in place of the system's
	Offline  bool          // Run never asks the mirror, and only watches for imports
	Log      *slog.Logger  // what Run does; nothing when nil

	// Progress, if set, is called by Run like the function that Update is given, while
	// there is no build to match with; and with a total of -1 when that is over, however
	// it ended.
	Progress func(done, total int64)

	// Waiting, if set, is called by Update when it has to wait for another one, with whose
	// that is and how long it waits at most.
	Waiting func(who string, most time.Duration)

	now    func() time.Time // time.Now where nil
	random func() float64   // in [0, 1); rand.Float64 where nil
	step   func(string)     // told of each step of an installation, by tests
	watch  time.Duration    // between Run's looks at what is active; the constant of that name where 0
	bounds bounds

	hurried atomic.Bool // somebody knows of a newer build

	hashing sync.Mutex // held while a build is hashed: once is enough

	mu     sync.Mutex // guards all below
	seals  map[string]seal
	counts Counts
	last   Check
}

// A seal is the state of a file whose checksum was found to be right.
type seal struct {
	checksum string
	size     int64
	mtime    time.Time
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

// skew is how far ahead of this machine's clock a build may have been made.
const skew = 24 * time.Hour

// remedy is what a person does when there is no good database.
const remedy = `run "sluice db update", or without internet "sluice db import FILE"`

// Current returns the active build. An error that wraps scan.ErrDatabaseMissing means
// that there is none, or that it is damaged; one that wraps scan.ErrDatabaseStale that
// it is older than MaxAge, or that its age can't be known since it was built after what
// this machine's clock says; then the build is returned beside the error, for those who
// may use it.
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
	switch err := d.verify(r); {
	case errors.Is(err, fs.ErrPermission):
		return scan.Database{}, fmt.Errorf("%w: the build in %s can't be read: %w; be the user whom it belongs to, or give it to this one", scan.ErrDatabaseMissing, d.dir(r), err)
	case err != nil:
		return scan.Database{}, fmt.Errorf("%w: the build in %s is damaged: %w; %s", scan.ErrDatabaseMissing, d.dir(r), err, remedy)
	}
	db := scan.Database{Built: r.Built, Checksum: r.Checksum, Dir: d.dir(r)}
	return db, d.Fresh(r.Built)
}

// Fresh returns an error that wraps scan.ErrDatabaseStale if what was built then is too
// old to be relied on.
func (d *Databases) Fresh(built time.Time) error {
	age := d.clock().Sub(built)
	if age < -skew {
		return fmt.Errorf("%w, or its age can't be known: it was built %s, and this machine's clock says %s; set the clock, or where that is right, take a build that is older by \"sluice db import --force FILE\"",
			scan.ErrDatabaseStale, stamp(built), stamp(d.clock()))
	}
	if age > d.maxAge() {
		return fmt.Errorf("%w: it was built %s, %s ago, and the limit is %s; %s",
			scan.ErrDatabaseStale, stamp(built), hours(age), hours(d.maxAge()), remedy)
	}
	return nil
}

// active reads the file "current".
func (d *Databases) active() (record, error) {
	var r record
	if err := d.valid(); err != nil {
		return r, fmt.Errorf("%w: %w", scan.ErrDatabaseMissing, err)
	}
	b, err := os.ReadFile(filepath.Join(d.Root, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%w in %s; %s", scan.ErrDatabaseMissing, d.Root, remedy)
	}
	if err != nil {
		return r, fmt.Errorf("%w that can be read: %w", scan.ErrDatabaseMissing, err)
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

// valid returns an error for a directory whose name SQLite would misread.
func (d *Databases) valid() error {
	if d.Root == "" || strings.ContainsAny(d.Root, "?#%") {
		return fmt.Errorf("the directory %q can't hold a database: choose a path without ?, # and %%", d.Root)
	}
	return nil
}

// verify hashes the build that r names, unless this process has done so and the file
// looks the same. It holds nobody up who asks for a build that is known.
func (d *Databases) verify(r record) error {
	dir := d.dir(r)
	if err := fits(scan.Database{Dir: dir, Checksum: r.Checksum}); err != nil {
		return err
	}
	name := filepath.Join(dir, v6.VulnerabilityDBFileName)
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	now := seal{r.Checksum, info.Size(), info.ModTime()}
	if d.sealed(dir) == now {
		return nil
	}
	d.hashing.Lock()
	defer d.hashing.Unlock()
	if d.sealed(dir) == now {
		return nil
	}
	sum, err := v6.CalculateDBDigest(afero.NewOsFs(), name)
	if err != nil {
		return err
	}
	if !strings.EqualFold(sum, r.Checksum) {
		return fmt.Errorf("the checksum of %s is %s and should be %s", name, sum, r.Checksum)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.seals == nil || len(d.seals) > 8 { // of the many that there were, one or two are
		d.seals = make(map[string]seal)
	}
	d.seals[dir] = now
	return nil
}

func (d *Databases) sealed(dir string) seal {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.seals[dir]
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

// chance returns a number in [0, 1).
func (d *Databases) chance() float64 {
	if d.random != nil {
		return d.random()
	}
	return rand.Float64()
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
