package vuln

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/sluicegate/sluice/scan"
)

// An entry of an archive.
type entry struct {
	head tar.Header
	text []byte
}

func packed(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		e.head.Size, e.head.Mode = int64(len(e.text)), 0o644
		if e.head.Typeflag == 0 {
			e.head.Typeflag = tar.TypeReg
		}
		check(t, w.WriteHeader(&e.head))
		_, err := w.Write(e.text)
		check(t, err)
	}
	check(t, errors.Join(w.Close(), z.Close()))
	return b.Bytes()
}

// changed returns the text of a database after some SQL.
func changed(t *testing.T, base []byte, statements ...string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "vulnerability.db")
	check(t, os.WriteFile(name, base, 0o600))
	edit, err := sql.Open("sqlite", name)
	check(t, err)
	for _, s := range statements {
		_, err := edit.Exec(s)
		check(t, err)
	}
	check(t, edit.Close())
	b, err := os.ReadFile(name)
	check(t, err)
	return b
}

// An archive with the checksum that its listing has, and something wrong in it.
func TestHostileArchives(t *testing.T) {
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	root := filepath.Join(t.TempDir(), "db")
	d := &Databases{Root: root, URL: m.URL}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	outside, err := filepath.Abs(filepath.Join(root, "..", "escaped"))
	check(t, err)

	base, err := os.ReadFile(filepath.Join(sampleOf(t, time.Hour).Dir, "vulnerability.db"))
	check(t, err)
	bomb := make([]byte, 64<<20) // a thousand times smaller when packed
	copy(bomb, magicSQLite)
	whole := packed(t, entry{tar.Header{Name: "vulnerability.db"}, base})
	var crowd []entry
	for i := range 200 {
		crowd = append(crowd, entry{tar.Header{Name: fmt.Sprint(i)}, []byte("x")})
	}
	of := func(statements ...string) []byte {
		return packed(t, entry{tar.Header{Name: "vulnerability.db"}, changed(t, base, statements...)})
	}
	for name, c := range map[string]struct {
		archive []byte
		bounds  bounds
		says    string
	}{
		"bomb":              {packed(t, entry{tar.Header{Name: "vulnerability.db"}, bomb}), bounds{database: 1 << 20}, "more than 1048576 bytes"},
		"empty":             {packed(t), bounds{}, "neither an archive"},
		"no database in it": {packed(t, entry{tar.Header{Name: "readme"}, []byte("hello")}), bounds{}, "neither an archive"},
		"a crowd of files":  {packed(t, append(crowd, entry{tar.Header{Name: "vulnerability.db"}, base})...), bounds{}, "neither an archive"},
		"half of it":        {whole[:len(whole)/2], bounds{}, "unexpected EOF"},
		"paths that lead out": {packed(t, entry{tar.Header{Name: "../escaped"}, []byte("x")}, entry{tar.Header{Name: outside}, []byte("x")},
			entry{tar.Header{Name: "../../escaped/vulnerability.db"}, []byte("x")}), bounds{}, "no vulnerability database"},
		"a link in its place": {packed(t, entry{head: tar.Header{Name: "vulnerability.db", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}), bounds{}, "neither an archive"},
		"any SQLite file":     {of("DROP TABLE db_metadata"), bounds{}, "no vulnerability database"},
		"an older schema":     {of("UPDATE db_metadata SET model = 5"), bounds{}, "schema 5"},
		"a newer schema":      {of("UPDATE db_metadata SET model = 7"), bounds{}, "schema 7"},
		"no build time":       {of("UPDATE db_metadata SET build_timestamp = 'soon'"), bounds{}, "build_timestamp"},
		"nothing about it":    {of("DELETE FROM db_metadata"), bounds{}, "when"},
		"nothing in it":       {of("DELETE FROM affected_package_handles"), bounds{}, "nothing in affected_package_handles"},
		"from the future":     {of("UPDATE db_metadata SET build_timestamp = '2999-01-01 00:00:00+00:00'"), bounds{}, "set the clock"},
		"code in it":          {of("CREATE TRIGGER x AFTER INSERT ON providers BEGIN DELETE FROM providers; END"), bounds{}, "triggers"},
		"a view in its place": {of("ALTER TABLE providers RENAME TO p", "CREATE VIEW providers AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r) SELECT n FROM r"), bounds{}, "triggers and views"},
	} {
		t.Run(name, func(t *testing.T) {
			m.breaks(func(http.Handler) http.Handler { return serving(c.archive) })
			d := &Databases{Root: root, URL: m.URL, bounds: c.bounds}
			_, _, err := d.Update(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), c.says) || reasonOf(err) != BadArchive {
				t.Errorf("%q, %v; want %q", reasonOf(err), err, c.says)
			}
			usable(t, d, good)
			leftovers(t, d)
			if _, err := os.Lstat(outside); err == nil {
				t.Error("a file was written outside")
			}
			file := filepath.Join(t.TempDir(), "x.tar.gz")
			check(t, os.WriteFile(file, c.archive, 0o600))
			if _, err := d.Import(t.Context(), file); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("import: %v; want %q", err, c.says)
			}
			usable(t, d, good)
			leftovers(t, d)
		})
	}
	m.breaks(func(http.Handler) http.Handler { return serving(whole) })
	if _, changed, err := d.Update(t.Context(), nil); err != nil || !changed {
		t.Errorf("the one with nothing wrong: %v, %v", changed, err)
	}
}

// serving lists and serves an archive that was built now, to believe the listing.
func serving(archive []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".json") {
			json.NewEncoder(w).Encode(map[string]any{
				"status": "active", "schemaVersion": "v6.1.10", "built": time.Now().UTC().Format(time.RFC3339), "path": "x.tar.gz",
				"checksum": fmt.Sprintf("sha256:%x", sha256.Sum256(archive)),
			})
			return
		}
		w.Write(archive)
	})
}

// An older build is not taken by mistake, and taken when it is meant; the next update
// goes forward again.
func TestGoBack(t *testing.T) {
	m := newMirror(t)
	old := m.publish(t, 48*time.Hour)
	archive := m.archive(t)
	last := m.publish(t, time.Hour)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	if _, err := d.Import(t.Context(), archive); !errors.Is(err, ErrOlder) || !strings.Contains(err.Error(), stamp(old.Built)) {
		t.Errorf("an older build: %v", err)
	}
	usable(t, d, last)
	_, err = d.Import(t.Context(), m.archive(t)) // the same
	check(t, err)
	_, err = d.ImportAny(t.Context(), archive)
	check(t, err)
	usable(t, d, old)
	_, _, err = d.Update(t.Context(), nil)
	check(t, err)
	usable(t, d, last)

	// What can't be used is no reason to refuse an older one.
	db, err := d.Current(t.Context())
	check(t, err)
	check(t, os.Truncate(filepath.Join(db.Dir, "vulnerability.db"), 100))
	_, err = d.Import(t.Context(), archive)
	check(t, err)
	usable(t, d, old)
}

// The clock was ahead when a build was taken, and is set right: what is active comes from
// the future then, and an update that finds nothing newer doesn't call that fine.
func TestActiveFromTheFuture(t *testing.T) {
	m := newMirror(t)
	old := m.publish(t, 100*time.Hour)
	older := m.archive(t)
	future := newMirror(t)
	future.publish(t, -100*time.Hour)
	ahead := true
	d := &Databases{Root: t.TempDir(), URL: future.URL, now: func() time.Time {
		if ahead {
			return time.Now().Add(101 * time.Hour)
		}
		return time.Now()
	}}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	ahead, d.URL = false, m.URL
	const way = "sluice db import --force FILE"
	if s := d.Status(t.Context()); s.State != Stale || !strings.Contains(s.Error, "set the clock") || !strings.Contains(s.Error, way) {
		t.Errorf("status %+v", s)
	}
	if _, changed, err := d.Update(t.Context(), nil); changed || err == nil || !strings.Contains(err.Error(), "set the clock") || !strings.Contains(err.Error(), way) {
		t.Errorf("an update: %v, %v", changed, err)
	}
	_, err = d.ImportAny(t.Context(), older)
	check(t, err)
	usable(t, d, old)
	_, _, err = d.Update(t.Context(), nil)
	check(t, err)
}

// Somebody brings a build while a download hangs: it doesn't have to wait for that. Where
// it is what the mirror has, or newer, the download was for nothing, and no failure.
func TestImportDuringAnUpdate(t *testing.T) {
	ages := []time.Duration{3 * time.Hour, 2 * time.Hour, time.Hour} // the mirror's newest is the second
	for i, name := range []string{"older", "the same", "newer"} {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			var archives []string
			var builds []scan.Database
			for n, age := range ages {
				from := m
				if n > 1 {
					from = newMirror(t)
				}
				builds = append(builds, from.publish(t, age))
				archives = append(archives, from.archive(t))
			}
			arrived, goOn := make(chan struct{}), make(chan struct{})
			m.breaks(func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if !strings.HasSuffix(r.URL.Path, ".json") {
						close(arrived)
						<-goOn
					}
					h.ServeHTTP(w, r)
				})
			})
			d := &Databases{Root: t.TempDir(), URL: m.URL}
			done := make(chan error, 1)
			var got scan.Database
			var changed bool
			go func() {
				var err error
				got, changed, err = d.Update(t.Context(), nil)
				done <- err
			}()
			<-arrived
			_, err := (&Databases{Root: d.Root}).Import(t.Context(), archives[i])
			check(t, err)
			usable(t, d, builds[i])
			close(goOn)
			check(t, <-done)
			want := builds[max(i, 1)]
			usable(t, d, want)
			if !got.Built.Equal(want.Built) || changed != (i == 0) {
				t.Errorf("changed %v, %+v", changed, got)
			}
			if n := d.Counts(); len(n.Failures) > 0 || d.LastCheck().Error != "" {
				t.Errorf("%+v, %+v", n, d.LastCheck())
			}
			leftovers(t, d)
		})
	}
}

// The real database, packed as its publisher does.
func TestRealArchive(t *testing.T) {
	if underRace {
		t.Skip("it takes minutes, and nothing in it is concurrent")
	}
	b, err := os.ReadFile(filepath.Join(data(t), "db", "vulnerability.db.zst"))
	check(t, err)
	plain, err := zstd.NewReader(bytes.NewReader(b))
	check(t, err)
	defer plain.Close()
	b, err = io.ReadAll(plain)
	check(t, err)
	var text bytes.Buffer
	z, err := zstd.NewWriter(&text)
	check(t, err)
	w := tar.NewWriter(z)
	check(t, w.WriteHeader(&tar.Header{Name: "vulnerability.db", Size: int64(len(b)), Mode: 0o644, Typeflag: tar.TypeReg}))
	_, err = w.Write(b)
	check(t, errors.Join(err, w.Close(), z.Close()))

	m := newMirror(t)
	m.breaks(func(http.Handler) http.Handler { return serving(text.Bytes()) })
	var sums []string
	for range 2 { // replicas agree on what they have
		d := &Databases{Root: t.TempDir(), URL: m.URL, MaxAge: 1e6 * time.Hour}
		db, changed, err := d.Update(t.Context(), nil)
		check(t, err)
		if want := realDatabase(t).Built; !changed || !db.Built.Equal(want) {
			t.Errorf("changed %v, %+v, want the build of %s", changed, db, want)
		}
		sums = append(sums, db.Checksum)
	}
	if sums[0] != sums[1] {
		t.Errorf("one archive became %v", sums)
	}
}
