package vuln

import (
	"context"
	"errors"
	"log/slog"
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
	db := sampleOf(t, age)
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

func TestRun(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	lines := make(said, 99)
	d := &Databases{Root: t.TempDir(), URL: m.URL, Log: slog.New(slog.NewTextHandler(lines, nil)), watch: 20 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	if line := lines.until(t, `msg="vulnerability database"`); !strings.Contains(line, "built="+stamp(want.Built)) {
		t.Errorf("%s, want the build of %s", line, stamp(want.Built))
	}
	newer := sample(t)
	_, err := (&Databases{Root: d.Root}).Import(t.Context(), newer.Dir) // sluice db import, beside a gateway that runs
	check(t, err)
	if line := lines.until(t, `msg="vulnerability database"`); !strings.Contains(line, newer.Checksum) {
		t.Errorf("%s, want the imported %s", line, newer.Checksum)
	}
	cancel()
	check(t, <-done)
}
