package vuln

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// When these are set, the test binary is a process that updates or imports, and that
// a test kills or starves.
// A mirror serves sample databases.
type mirror struct {
	*httptest.Server
	dir  string
	wrap atomic.Pointer[func(http.Handler) http.Handler] // breaks the next answers
}

func newMirror(t *testing.T) *mirror {
	t.Helper()
	m := &mirror{dir: t.TempDir()}
	files := sampledb.Handler(m.dir)
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := m.wrap.Load(); f != nil {
			(*f)(files).ServeHTTP(w, r)
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

// publish makes a build that is this old the latest one.
func (m *mirror) publish(t *testing.T, age time.Duration) scan.Database {
	t.Helper()
	db, err := sampledb.Build(filepath.Join(t.TempDir(), "db"), time.Now().Add(-age))
	check(t, err)
	check(t, sampledb.Archive(m.dir, db))
	return db
}

func (m *mirror) breaks(f func(http.Handler) http.Handler) { m.wrap.Store(&f) }
func (m *mirror) heals()                                   { m.wrap.Store(nil) }

// archive returns the path of the newest archive.
func (m *mirror) archive(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(m.dir, "v6", "*.tar.gz"))
	check(t, err)
	slices.Sort(all)
	return all[len(all)-1]
}

// usable proves that the active build is the one wanted, and can be matched with.
func usable(t *testing.T, d *Databases, want scan.Database) {
	t.Helper()
	db, err := d.Current(t.Context())
	check(t, err)
	if !db.Built.Equal(want.Built) {
		t.Errorf("active is the build of %s, want that of %s", db.Built, want.Built)
	}
	var m Matcher
	defer m.Close()
	name := filepath.Join(t.TempDir(), "sbom.json")
	check(t, os.WriteFile(name, []byte(tinySBOM), 0o600))
	out, err := m.Match(t.Context(), name, db)
	check(t, err)
	if len(out.Findings) != 1 || out.Findings[0].ID != "CVE-2021-44906" {
		t.Errorf("findings %+v", out.Findings)
	}
}

const tinySBOM = `{"artifacts":[{"id":"1","name":"minimist","version":"1.2.5","type":"npm","foundBy":"x","locations":[],"licenses":[],"language":"javascript","cpes":[],"purl":"pkg:npm/minimist@1.2.5"}],
"artifactRelationships":[],"source":{"id":"s","name":"x","version":"1","type":"directory","metadata":{"path":"/"}},"distro":{},"descriptor":{"name":"syft","version":"1"},
"schema":{"version":"16.0.0","url":"https://raw.githubusercontent.com/anchore/syft/main/schema/json/schema-16.0.0.json"}}`

// Of many builds, the active one, the one before and those that are leased stay.
// junk serves an archive that is none, with its right checksum.
// leftovers fails when something lies in the root that nothing names.
// The password of a mirror must not be seen in an error, in the status, or on disk.
func TestStale(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, 200*time.Hour)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	db, err := d.Current(t.Context())
	if !errors.Is(err, scan.ErrDatabaseStale) || !db.Built.Equal(want.Built) {
		t.Fatalf("%+v, %v", db, err)
	}
	for _, s := range []string{stamp(want.Built), "200h", "120h"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v doesn't say %s", err, s)
		}
	}
	if s := d.Status(t.Context()); !s.Stale || s.Error == "" {
		t.Errorf("status %+v", s)
	}
	d.MaxAge = 300 * time.Hour
	usable(t, d, want)
}

// Damage to the active build is seen, is no "no findings", and is repaired by an
// update although the mirror has nothing newer.
func TestDamage(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	for name, damage := range map[string]func(t *testing.T, root, dir string) error{
		"a byte": func(t *testing.T, _, dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "vulnerability.db"), os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			_, err = f.WriteAt([]byte("x"), 5000)
			return err
		},
		"cut off": func(_ *testing.T, _, dir string) error {
			return os.Truncate(filepath.Join(dir, "vulnerability.db"), 9000)
		},
		"empty":          func(_ *testing.T, _, dir string) error { return os.Truncate(filepath.Join(dir, "vulnerability.db"), 0) },
		"no file":        func(_ *testing.T, _, dir string) error { return os.Remove(filepath.Join(dir, "vulnerability.db")) },
		"no directory":   func(_ *testing.T, _, dir string) error { return os.RemoveAll(dir) },
		"no import.json": func(_ *testing.T, _, dir string) error { return os.Remove(filepath.Join(dir, "import.json")) },
		"empty current":  func(_ *testing.T, root, _ string) error { return os.Truncate(filepath.Join(root, currentFile), 0) },
		"strange current": func(_ *testing.T, root, _ string) error {
			return os.WriteFile(filepath.Join(root, currentFile), []byte(`{"dir":"../../etc","checksum":"x"}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &Databases{Root: t.TempDir(), URL: m.URL}
			db, _, err := d.Update(t.Context(), nil)
			check(t, err)
			check(t, damage(t, d.Root, db.Dir))
			for what, d := range map[string]*Databases{"the process that installed it": d, "a new process": {Root: d.Root, URL: m.URL}} {
				if _, err := d.Current(t.Context()); !errors.Is(err, scan.ErrDatabaseMissing) || !strings.Contains(err.Error(), "sluice db") {
					t.Errorf("%s: %v", what, err)
				}
			}
			if _, changed, err := d.Update(t.Context(), nil); err != nil || !changed {
				t.Fatalf("repair: %v, %v", changed, err)
			}
			usable(t, d, want)
		})
	}
}

// child runs this test binary as another process that updates.
// kill -9 in the middle of the download: the last good build stays, the lock is free,
// and nothing is left over once the next update has come.
// A full disk, played by a limit on the size of files.
func TestRun(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	seen := make(chan scan.Database, 9)
	d := &Databases{Root: t.TempDir(), URL: m.URL, OnChange: func(db scan.Database) { seen <- db }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	if db := <-seen; !db.Built.Equal(want.Built) {
		t.Errorf("told of %+v", db)
	}
	older := sample(t)
	other := &Databases{Root: d.Root} // sluice db import, beside a gateway that runs
	_, err := other.Import(t.Context(), older.Dir)
	check(t, err)
	if db := <-seen; db.Checksum != older.Checksum {
		t.Errorf("told of %+v, want the imported %+v", db, older)
	}
	cancel()
	check(t, <-done)
}

func TestWait(t *testing.T) {
	d := &Databases{}
	for _, c := range []struct {
		failures int
		base     time.Duration
	}{{0, 2 * time.Hour}, {1, time.Minute}, {2, 2 * time.Minute}, {5, 16 * time.Minute}, {9, 2 * time.Hour}, {1000, 2 * time.Hour}} {
		seen := map[time.Duration]bool{}
		for range 100 {
			w := d.wait(c.failures)
			seen[w] = true
			if w < c.base*9/10 || w > c.base*11/10 {
				t.Errorf("after %d failures: %s, want %s give or take a tenth", c.failures, w, c.base)
			}
		}
		if len(seen) < 50 {
			t.Errorf("after %d failures there are only %d different waits", c.failures, len(seen))
		}
	}
}

func TestFirst(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	if w := d.first(t.Context()); w != 0 {
		t.Errorf("with no database: %s", w)
	}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	if w := d.first(t.Context()); w < 119*time.Minute || w > 2*time.Hour {
		t.Errorf("after a check: %s", w)
	}
	d.now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	if w := d.first(t.Context()); w != 0 {
		t.Errorf("three hours after a check: %s", w)
	}
	d.now = func() time.Time { return time.Now().Add(-3 * time.Hour) }
	if w := d.first(t.Context()); w != 0 {
		t.Errorf("when the clock has gone back: %s", w)
	}
	if _, err := (&Databases{Root: "a?b"}).Current(t.Context()); !errors.Is(err, scan.ErrDatabaseMissing) {
		t.Errorf("a path that SQLite misreads: %v", err)
	}
}
