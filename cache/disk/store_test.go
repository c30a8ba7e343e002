package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/cachetest"
	bolt "go.etcd.io/bbolt"
)

func TestStore(t *testing.T) {
	cachetest.Test(t, func(t *testing.T) cache.Store {
		return mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	})
}

func mustOpen(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	mustOpen(t, filepath.Join(dir, "store.db"))
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, "store.db"): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", path, info.Mode().Perm(), err, want)
		}
	}
}

// fill writes entries of every kind, and deletes some, so that the tree has branch
// pages, overflow pages, free pages and nested keys. It returns what is there.
func fill(t testing.TB, s *Store) (values map[cache.Key]string, maps map[cache.Key]map[string]string) {
	t.Helper()
	values, maps = make(map[cache.Key]string), make(map[cache.Key]map[string]string)
	var all sync.WaitGroup
	for i := range 200 {
		k := cache.Name("value", fmt.Sprint(i))
		values[k] = strings.Repeat(fmt.Sprint("value ", i, " "), 1+i%7*40)
		if i == 50 {
			random := bytes.Repeat([]byte("x"), 30_000)
			for j := range random {
				random[j] = byte(j * j >> 3)
			}
			values[k] = string(random)
		}
		content := []byte(values[k])
		all.Go(func() {
			if err := s.Put(t.Context(), k, content, time.Duration(i%2)*time.Hour); err != nil {
				t.Error(err)
			}
			gone := cache.Name("gone", fmt.Sprint(i))
			if err := errors.Join(s.Put(t.Context(), gone, content, 0), s.Delete(t.Context(), gone)); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 10 {
		m := cache.Name("map", fmt.Sprint(i))
		maps[m] = make(map[string]string)
		for j := range 2 + i*3 {
			name := fmt.Sprint("field ", j)
			maps[m][name] = strings.Repeat(name, 3)
			all.Go(func() {
				if err := s.PutField(t.Context(), m, name, []byte(strings.Repeat(name, 3)), time.Hour); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	return values, maps
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path)
	values, maps := fill(t, s)
	for range 2 {
		mustClose(t, s)
		s = mustOpen(t, path)
		if errs := wrong(t, s, values, maps); len(errs) > 0 {
			t.Fatal(errors.Join(errs...))
		}
	}
}

// wrong reads everything and returns the errors. It fails t where a read returns
// anything else than what was written, or an error.
func wrong(t testing.TB, s *Store, values map[cache.Key]string, maps map[cache.Key]map[string]string) (errs []error) {
	t.Helper()
	for k, want := range values {
		got, err := s.Get(t.Context(), k)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			t.Errorf("Get(%q): a miss", k)
		case err != nil:
			errs = append(errs, err)
		case string(got) != want:
			t.Errorf("Get(%q) = %.20q…, want %.20q…", k, got, want)
		}
	}
	for m, want := range maps {
		fields, err := s.Fields(t.Context(), m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		got := make(map[string]string)
		for name, value := range fields {
			got[name] = string(value)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Fields(%q):\n%s", m, diff)
		}
	}
	return errs
}

// TestMadeOnly opens a file whose maker died before it wrote anything to it.
func TestMadeOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	for range 2 {
		s := mustOpen(t, path)
		fill(t, s)
		mustClose(t, s)
	}
}

func TestSweep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path)
	ctx := t.Context()
	for i := range 20 {
		v, m := cache.Name("value", fmt.Sprint(i)), cache.Name("map", fmt.Sprint(i))
		err := errors.Join(s.Put(ctx, v, []byte("x"), time.Millisecond),
			s.PutField(ctx, m, "f", []byte("x"), time.Hour), s.PutField(ctx, m, "g", []byte("x"), 0),
			s.PutField(ctx, cache.Name("short", fmt.Sprint(i)), "f", []byte("x"), time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Millisecond)
	if err := s.sweep(7); err != nil {
		t.Fatal(err)
	}
	records, ends := 0, 0
	err := s.db.View(func(b *bolt.Tx) error {
		records, ends = b.Bucket(entriesBucket).Stats().KeyN, b.Bucket(endsBucket).Stats().KeyN
		return nil
	})
	if err != nil || records != 20*3 || ends != 0 { // the maps that live for ever: a head and two fields each
		t.Errorf("%d records and %d ends after the sweep, %v, want 60 and 0", records, ends, err)
	}
	mustClose(t, s)
	mustOpen(t, path) // which checks the tally
}

// TestOpenSweeps checks that what expired while nobody had the file open is removed.
func TestOpenSweeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := mustOpen(t, path)
	if err := s.Put(t.Context(), cache.Name("value", "a"), []byte("x"), time.Millisecond); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	time.Sleep(2 * time.Millisecond)
	s = mustOpen(t, path)
	for deadline := time.Now().Add(10 * time.Second); ; {
		var records int
		_ = s.db.View(func(b *bolt.Tx) error { records = b.Bucket(entriesBucket).Stats().KeyN; return nil })
		if records == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("an expired entry is still in the file")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestGroupCommit(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	before := lastTransaction(t, s)
	var all sync.WaitGroup
	const writes = 2000
	for i := range writes {
		all.Go(func() {
			if err := s.Put(t.Context(), cache.Name("value", fmt.Sprint(i)), []byte("x"), 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := lastTransaction(t, s) - before; n > writes/10 {
		t.Errorf("%d concurrent writes took %d transactions", writes, n)
	}
}

func lastTransaction(t *testing.T, s *Store) (id int) {
	if err := s.db.View(func(b *bolt.Tx) error { id = b.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}

// TestOneBadOp checks that a write that fails takes no other with it.
func TestOneBadOp(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	fault := errors.New("injected")
	mk := func(do func(*tx) (error, error)) *op { return &op{do: do, done: make(chan struct{})} }
	ping := func(x *tx) (error, error) { return nil, x.about.Put(pingKey, []byte("x")) }
	bad := mk(func(*tx) (error, error) { return nil, fault })
	failed, err := s.commit([]*op{mk(ping), bad, mk(ping)})
	if failed != bad || !errors.Is(err, fault) {
		t.Fatalf("commit = %p, %v, want %p, injected", failed, err, bad)
	}
	if failed, err := s.commit([]*op{mk(ping), mk(ping)}); failed != nil || err != nil {
		t.Fatalf("the others: %p, %v", failed, err)
	}
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "store.db"))
	mustClose(t, s)
	mustClose(t, s)
	_, err := s.Get(t.Context(), cache.Name("a", "b"))
	for _, err := range []error{err, s.Ping(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "is closed") {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestSchema checks that a file of another version is told from a damaged one, and is left
// as it is.
func TestSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	mustClose(t, mustOpen(t, path))
	for _, schema := range []string{"2", "0", "x"} {
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(t *bolt.Tx) error { return t.Bucket(aboutBucket).Put(formatKey, []byte(formatName+schema)) }); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = Open(path)
		if err == nil || !strings.Contains(err.Error(), "schema") || strings.Contains(err.Error(), "damaged (") {
			t.Errorf("Open with schema %q: %v", schema, err)
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	taken := filepath.Join(dir, "taken.db")
	mustOpen(t, taken)
	foreign := filepath.Join(dir, "foreign.db")
	db, err := bolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(db.Update(func(t *bolt.Tx) error { _, err := t.CreateBucket([]byte("about")); return err }), db.Close())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, path, want string }{
		{"taken", taken, "another sluice has this file open"},
		{"another program's", foreign, "does not have the shape of a store"},
		{"text", write("text", strings.Repeat("no store\n", 5000)), "is damaged"},
		{"short text", write("short", "x"), "is damaged"},
		{"zeros", write("zeros", strings.Repeat("\x00", 1<<16)), "is damaged"},
		{"a directory", dir, "is a directory"},
		{"below a file", filepath.Join(write("file", "x"), "store.db"), "not a directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := Open(test.path)
			if err == nil {
				_ = s.Close()
				t.Fatal("it opened")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.path) && test.name != "below a file" {
				t.Errorf("%v\nwant %q and the path", err, test.want)
			}
			if errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v looks like a miss", err)
			}
		})
	}
}
