package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

type fillFunc = func(context.Context, io.Writer) error

// open opens a spool that is closed, and checked, at the test's end.
func open(t testing.TB, dir string, quota int64) *Spool {
	t.Helper()
	s, err := Open(dir, quota)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		checkInvariant(t, s)
	})
	return s
}

// checkInvariant holds what Spool.mu says it guards.
func checkInvariant(t testing.TB, s *Spool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var committed, idle int64
	for _, e := range s.blobs {
		committed += e.size
		if e.pins == 0 {
			idle += e.size
		}
		if (e.pins == 0) != (e.idle != nil) || (e.pins == 0) && e.file != nil {
			t.Errorf("%s: %d pins, idle %v, file %v", e.digest, e.pins, e.idle != nil, e.file)
		}
	}
	if committed != s.committed || idle != s.idleBytes {
		t.Errorf("counted %d committed and %d idle bytes, there are %d and %d", s.committed, s.idleBytes, committed, idle)
	}
	if s.reserved < 0 || s.committed+s.reserved > s.quota {
		t.Errorf("%d committed and %d reserved bytes in a quota of %d", s.committed, s.reserved, s.quota)
	}
}

// content returns n bytes that seed tells.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	c.Read(b)
	return b
}

// filler writes b.
func filler(b []byte) fillFunc {
	return func(_ context.Context, w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

// put fetches b and waits until it is committed; the caller closes it.
func put(t testing.TB, s *Spool, b []byte) *Blob {
	t.Helper()
	blob, err := s.Fetch(digest.FromBytes(b), int64(len(b)), nil, filler(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := blob.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return blob
}

// files returns the names under a directory of s.
func files(t testing.TB, s *Spool, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, filepath.Base(path))
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// Whatever goes wrong with a fill, every reader learns it, nothing stays, and the
// next Fetch begins anew.
func TestFailedFills(t *testing.T) {
	want := content(3, 100_000)
	broken := errors.New("connection reset")
	tests := map[string]struct {
		fill fillFunc
		is   error
	}{
		"error":                 {func(_ context.Context, w io.Writer) error { w.Write(want[:70_000]); return broken }, broken},
		"error after all bytes": {func(_ context.Context, w io.Writer) error { w.Write(want); return broken }, broken},
		"short":                 {filler(want[:99_999]), ErrMismatch},
		"empty":                 {filler(nil), ErrMismatch},
		"long":                  {filler(append(bytes.Clone(want), 1)), ErrMismatch},
		"long, and fill does not care": {func(_ context.Context, w io.Writer) error {
			w.Write(want)
			w.Write([]byte{1})
			return nil
		}, ErrMismatch},
		"wrong":  {filler(content(4, 100_000)), ErrMismatch},
		"exits":  {func(context.Context, io.Writer) error { runtime.Goexit(); return nil }, nil},
		"nested": {func(context.Context, io.Writer) error { return fmt.Errorf("fetch: %w", fs.ErrPermission) }, fs.ErrPermission},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir(), 1<<20)
			begin := make(chan struct{})
			blob, err := s.Fetch(digest.FromBytes(want), int64(len(want)), nil, func(ctx context.Context, w io.Writer) error {
				<-begin
				return tt.fill(ctx, w)
			})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 8 {
				r := blob.NewReader(t.Context())
				wg.Go(func() {
					defer r.Close()
					n, err := io.Copy(io.Discard, r)
					if err == nil || tt.is != nil && !errors.Is(err, tt.is) || n >= int64(len(want)) {
						t.Errorf("read %d bytes and %v, want the error %v", n, err, tt.is)
					}
				})
			}
			close(begin)
			wg.Wait()
			if err := blob.Wait(t.Context()); err == nil || blob.Committed() {
				t.Errorf("committed %v, error %v", blob.Committed(), err)
			}
			if _, err := s.Open(blob.Digest()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Open of the failed blob: %v", err)
			}
			if _, err := blob.File(); err == nil {
				t.Error("File of the failed blob has no error")
			}
			blob.Close()
			if diff := cmp.Diff(Usage{Quota: 1 << 20}, s.Usage()); diff != "" {
				t.Error(diff)
			}
			if f := append(files(t, s, partialDir), files(t, s, blobsDir)...); len(f) > 0 {
				t.Errorf("left behind: %v", f)
			}
			put(t, s, want).Close()
		})
	}
}

// The one who began a fill may go; those who joined don't notice.
func TestLeaderHangsUp(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	want := content(5, 50_000)
	fills := 0
	begin := make(chan struct{})
	fill := func(ctx context.Context, w io.Writer) error {
		fills++
		<-begin
		_, err := io.Copy(w, bytes.NewReader(want))
		return errors.Join(err, ctx.Err())
	}
	var blobs []*Blob
	for range 5 {
		b, err := s.Fetch(digest.FromBytes(want), int64(len(want)), nil, fill)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, b)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	r := blobs[0].NewReader(ctx)
	gone := errors.New("hung up")
	cancel(gone)
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, gone) {
		t.Errorf("Read after the end of its context: %v", err)
	}
	r.Close()
	blobs[0].Close()
	blobs[0].Close()
	close(begin)
	for _, b := range blobs[1:] {
		r := b.NewReader(t.Context())
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		r.Close()
		b.Close()
	}
	if _, err := blobs[1].NewReader(t.Context()).Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("reader of a closed blob: %v", err)
	}
	if fills != 1 {
		t.Errorf("%d fills", fills)
	}
}

// A wrong size that somebody declares spoils nobody else's fetch.
func TestTwoDeclaredSizes(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	want := content(6, 1000)
	d := digest.FromBytes(want)
	begin := make(chan struct{})
	fill := func(ctx context.Context, w io.Writer) error {
		<-begin
		return filler(want)(ctx, w)
	}
	wrong, err := s.Fetch(d, 999, nil, fill)
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.Close()
	right, err := s.Fetch(d, 1000, nil, fill)
	if err != nil {
		t.Fatal(err)
	}
	defer right.Close()
	close(begin)
	if err := wrong.Wait(t.Context()); !errors.Is(err, ErrMismatch) {
		t.Errorf("wrong size: %v", err)
	}
	if err := right.Wait(t.Context()); err != nil {
		t.Errorf("right size: %v", err)
	}
	if _, err := s.Fetch(d, 999, nil, fill); !errors.Is(err, ErrMismatch) {
		t.Errorf("wrong size of what is there: %v", err)
	}
}

func TestFetchRefuses(t *testing.T) {
	s := open(t, t.TempDir(), 1000)
	for _, d := range []digest.Digest{"", "sha256:", "sha256:..", "sha256:" + digest.Digest(strings.Repeat("A", 64)),
		digest.SHA384.FromString("x"), "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Fetch(d, 1, nil, filler([]byte("x"))); err == nil {
			t.Errorf("digest %q is accepted", d)
		}
	}
	if _, err := s.Fetch(digest.FromString("x"), -1, nil, filler(nil)); !errors.Is(err, ErrMismatch) {
		t.Errorf("negative size: %v", err)
	}
	if _, err := s.Fetch(digest.FromString("x"), 1<<62, nil, filler(nil)); !errors.Is(err, ErrFull) {
		t.Errorf("enormous size: %v", err)
	}
	if _, err := s.Open(digest.FromString("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
}

func TestSHA512(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	want := content(7, 1000)
	b, err := s.Fetch(digest.SHA512.FromBytes(want), 1000, nil, filler(want))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, want) {
		t.Errorf("File: %d bytes, %v", len(got), err)
	}
}

// Close ends fills and waits for them.
func TestClose(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	ended := false
	b, err := s.Fetch(digest.FromString("x"), 1, nil, func(ctx context.Context, _ io.Writer) error {
		<-ctx.Done()
		ended = true
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Err(); !errors.Is(err, context.Canceled) || !ended {
		t.Errorf("fill ended %v, error %v", ended, err)
	}
	b.Close()
	if _, err := s.Open(b.Digest()); !errors.Is(err, ErrClosed) {
		t.Errorf("Open: %v", err)
	}
	if _, err := s.Fetch(b.Digest(), 1, nil, filler(nil)); !errors.Is(err, ErrClosed) {
		t.Errorf("Fetch: %v", err)
	}
	if _, err := s.Create(nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Create: %v", err)
	}
	if _, err := s.Reserve(1); !errors.Is(err, ErrClosed) {
		t.Errorf("Reserve: %v", err)
	}
}

// Of blobs of one digest that arrive from several sources, each is had by its own.
func TestOpenFrom(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	content := []byte("some bytes")
	d := digest.FromBytes(content)
	goOn := make(chan struct{})
	var held []*Blob
	for i := range 10 {
		source := fmt.Sprint("repository ", i)
		b, err := s.FetchFrom(source, d, int64(len(content)), nil, func(_ context.Context, w io.Writer) error {
			<-goOn
			_, err := w.Write(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
	}
	for i := range 10 {
		b, err := s.OpenFrom(fmt.Sprint("repository ", i), d, int64(len(content)))
		if err != nil || b.Source() != fmt.Sprint("repository ", i) {
			t.Fatalf("%v, of %s", err, b.Source())
		}
		held = append(held, b)
	}
	for _, size := range []int64{1, 100} {
		if _, err := s.OpenFrom("repository 1", d, size); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("of another size: %v", err)
		}
	}
	close(goOn)
	for _, b := range held {
		if err := b.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		b.Close()
	}
	b, err := s.OpenFrom("another", d, int64(len(content)))
	if err != nil {
		t.Fatalf("a committed one: %v", err)
	}
	b.Close()
}
