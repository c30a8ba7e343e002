package vuln

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
)

func TestUpdate(t *testing.T) {
	m := newMirror(t)
	d := &Databases{Root: filepath.Join(t.TempDir(), "db"), URL: m.URL}
	if _, err := d.Current(t.Context()); !errors.Is(err, scan.ErrDatabaseMissing) || !strings.Contains(err.Error(), "sluice db update") {
		t.Errorf("with no database: %v", err)
	}
	first := m.publish(t, 48*time.Hour)
	var done, total int64
	db, changed, err := d.Update(t.Context(), func(a, b int64) { done, total = a, b })
	check(t, err)
	info, err := os.Stat(m.archive(t))
	check(t, err)
	if !changed || done != info.Size() || total != info.Size() {
		t.Errorf("changed %v, progress %d of %d; the archive has %d bytes", changed, done, total, info.Size())
	}
	if !strings.HasPrefix(db.Dir, d.Root) || !db.Built.Equal(first.Built) || !strings.HasPrefix(db.Checksum, "xxh64:") {
		t.Errorf("%+v", db)
	}
	usable(t, d, first)
	if again, changed, err := d.Update(t.Context(), nil); err != nil || changed || again != db {
		t.Errorf("nothing new: %+v, %v, %v", again, changed, err)
	}

	second := m.publish(t, 24*time.Hour)
	if _, changed, err := d.Update(t.Context(), nil); err != nil || !changed {
		t.Errorf("a newer build: %v, %v", changed, err)
	}
	usable(t, d, second)
	if _, err := os.Stat(db.Dir); err != nil {
		t.Errorf("the build before is gone: %v", err)
	}
	other := &Databases{Root: d.Root} // another process
	usable(t, other, second)

	s := d.Status(t.Context())
	if s.Stale || s.Error != "" || s.LastError != "" || s.LastCheck.IsZero() || s.Schema != "v6.1.10" ||
		!strings.HasPrefix(s.Source, m.URL) || !strings.HasSuffix(s.Path, "vulnerability.db") || s.Age < 86000 {
		t.Errorf("status %+v", s)
	}
}

// Of many builds there stay the active one, the one before, those that ceased to be
// active a moment ago, and those that a matcher has open.
func TestSweep(t *testing.T) {
	m := newMirror(t)
	now := time.Now()
	d := &Databases{Root: t.TempDir(), URL: m.URL, now: func() time.Time { return now }}
	var got []scan.Database
	var reader shelf
	defer reader.close()
	var v *volume
	for i := range 5 {
		m.publish(t, time.Duration(10-i)*time.Hour)
		db, _, err := d.Update(t.Context(), nil)
		check(t, err)
		got = append(got, db)
		if i == 1 {
			v, err = reader.borrow(db)
			check(t, err)
		}
	}
	stay := func(want ...bool) {
		t.Helper()
		var there []bool
		for _, db := range got {
			_, err := os.Stat(db.Dir)
			there = append(there, err == nil)
		}
		if !slices.Equal(there, want) {
			t.Errorf("there are %v, want %v", there, want)
		}
	}
	stay(true, true, true, true, true)
	now = now.Add(time.Hour)
	d.tidy(t.Context())
	stay(false, true, false, true, true)
	reader.release(v)
	reader.close()
	d.tidy(t.Context())
	stay(false, false, false, true, true)
}

func TestUpdateFails(t *testing.T) {
	m := newMirror(t)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	good := m.publish(t, 48*time.Hour)
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	m.publish(t, time.Hour)

	listing := func(edit func(doc map[string]any)) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !strings.HasSuffix(r.URL.Path, ".json") {
					h.ServeHTTP(w, r)
					return
				}
				b, _ := os.ReadFile(filepath.Join(m.dir, r.URL.Path))
				var doc map[string]any
				json.Unmarshal(b, &doc)
				edit(doc)
				json.NewEncoder(w).Encode(doc)
			})
		}
	}
	archive := func(send func(w http.ResponseWriter, b []byte)) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, ".json") {
					h.ServeHTTP(w, r)
					return
				}
				b, _ := os.ReadFile(filepath.Join(m.dir, r.URL.Path))
				send(w, b)
			})
		}
	}
	for name, c := range map[string]struct {
		breaks func(http.Handler) http.Handler
		says   string
	}{
		"half an archive": {archive(func(w http.ResponseWriter, b []byte) { w.Write(b[:len(b)/2]) }), "checksum"},
		"cut connection":  {archive(func(w http.ResponseWriter, b []byte) { w.Header().Set("Content-Length", "99999999"); w.Write(b) }), "unexpected EOF"},
		"another archive": {archive(func(w http.ResponseWriter, b []byte) { b[len(b)/2] ^= 1; w.Write(b) }), "checksum"},
		"no archive":      {archive(func(w http.ResponseWriter, b []byte) { http.Error(w, "gone", 404) }), "404"},
		"server down": {func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
		}, "EOF"},
		"server error": {func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })
		}, "503"},
		"no listing": {func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") })
		}, "no listing of grype's"},
		"endless listing": {func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(bytes.Repeat([]byte(" "), 2<<20)) })
		}, "more than"},
		"no checksum":       {listing(func(doc map[string]any) { doc["checksum"] = "" }), "sha256"},
		"weak checksum":     {listing(func(doc map[string]any) { doc["checksum"] = "md5:00" }), "sha256"},
		"another schema":    {listing(func(doc map[string]any) { doc["schemaVersion"] = "v7.0.0" }), "schema 7"},
		"path to elsewhere": {listing(func(doc map[string]any) { doc["path"] = "../../../../etc/passwd" }), "404"},
		"no database": {func(h http.Handler) http.Handler {
			// an archive whose checksum is right, of something else
			return junk(h)
		}, "neither an archive"},
	} {
		t.Run(name, func(t *testing.T) {
			m.breaks(c.breaks)
			_, changed, err := d.Update(t.Context(), nil)
			if err == nil || changed || !strings.Contains(err.Error(), c.says) {
				t.Errorf("changed %v, error %v; want one that says %q", changed, err, c.says)
			}
			usable(t, d, good)
			if s := d.Status(t.Context()); s.LastError == "" {
				t.Error("the status knows nothing of it")
			}
			leftovers(t, d)
		})
	}
	m.heals()
	if _, changed, err := d.Update(t.Context(), nil); err != nil || !changed {
		t.Errorf("once it is well: %v, %v", changed, err)
	}
}

func junk(http.Handler) http.Handler {
	const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of nothing
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".json") {
			json.NewEncoder(w).Encode(map[string]any{
				"status": "active", "schemaVersion": "v6.1.10", "built": time.Now().UTC().Format(time.RFC3339), "path": "x.tar.zst", "checksum": sum,
			})
		}
	})
}

func leftovers(t *testing.T, d *Databases) {
	t.Helper()
	entries, err := os.ReadDir(d.Root)
	check(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), stagePrefix) || strings.HasPrefix(e.Name(), tempPrefix) {
			t.Errorf("left over: %s", e.Name())
		}
	}
}

func TestSecretURL(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	u := strings.Replace(m.URL, "http://", "http://user:hunter2@", 1)
	d := &Databases{Root: t.TempDir(), URL: u}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	m.Close()
	_, _, err = d.Update(t.Context(), nil)
	if err == nil {
		t.Fatal("no error from a closed server")
	}
	b, _ := json.Marshal(d.Status(t.Context()))
	current, _ := os.ReadFile(filepath.Join(d.Root, currentFile))
	imported, _ := os.ReadFile(filepath.Join(d.Status(t.Context()).Path, "..", "import.json"))
	for _, s := range []string{err.Error(), string(b), string(current), string(imported)} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("the password is in %s", s)
		}
	}
}

func TestCancelDownload(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".json") {
				h.ServeHTTP(w, r)
				return
			}
			w.Write([]byte("something"))
			w.(http.Flusher).Flush()
			cancel()
			<-r.Context().Done()
		})
	})
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	if _, _, err := d.Update(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	leftovers(t, d)
}
