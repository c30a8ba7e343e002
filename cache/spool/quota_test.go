package spool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// has tells which of the contents are there.
func has(t *testing.T, s *Spool, all ...[]byte) (there []bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range all {
		_, ok := s.blobs[digest.FromBytes(b)]
		there = append(there, ok)
	}
	return there
}

// The least recently used blob goes first, an open one never, also after a restart.
func TestEviction(t *testing.T) {
	dir := t.TempDir()
	a, b, c, d := content(1, 100), content(2, 100), content(3, 100), content(4, 100)
	s := open(t, dir, 350)
	clock := time.Now()
	s.now = func() time.Time { clock = clock.Add(time.Hour); return clock }
	for _, x := range [][]byte{a, b, c} {
		put(t, s, x).Close()
	}
	again, err := s.Open(digest.FromBytes(a)) // b is the oldest now
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	s.Close()

	s = open(t, dir, 350)
	put(t, s, d).Close()
	if diff := cmp.Diff([]bool{true, false, true, true}, has(t, s, a, b, c, d)); diff != "" {
		t.Errorf("after the fourth: %s", diff)
	}
	pinned, err := s.Open(digest.FromBytes(c))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Reserve(250)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]bool{false, false, true, false}, has(t, s, a, b, c, d)); diff != "" {
		t.Errorf("after 250 were reserved: %s", diff)
	}
	if _, err := s.Reserve(1); !errors.Is(err, ErrFull) {
		t.Errorf("one byte more: %v", err)
	}
	if got, err := os.ReadFile(pinned.Path()); err != nil || !bytes.Equal(got, c) {
		t.Errorf("the open blob: %v", err)
	}
	pinned.Close()
	r.Release()
	r.Release()
	if diff := cmp.Diff(Usage{Committed: 100, Idle: 100, Quota: 350, Blobs: 1}, s.Usage()); diff != "" {
		t.Error(diff)
	}
	if n := len(files(t, s, blobsDir)); n != 1 {
		t.Errorf("%d files on disk", n)
	}
}

// What can't succeed evicts nothing.
func TestHopelessReserve(t *testing.T) {
	s := open(t, t.TempDir(), 300)
	put(t, s, content(1, 100)).Close()
	b := put(t, s, content(2, 100))
	defer b.Close()
	if _, err := s.Reserve(250); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), s.dir) {
		t.Errorf("Reserve: %v", err)
	}
	if _, err := s.Reserve(-1); err == nil {
		t.Error("a negative reservation is accepted")
	}
	if u := s.Usage(); u.Blobs != 2 {
		t.Errorf("%+v", u)
	}
}

// A smaller quota evicts at start.
func TestSmallerQuota(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 1000)
	for i := range uint64(10) {
		put(t, s, content(i, 100)).Close()
	}
	s.Close()
	s = open(t, dir, 450)
	if u := s.Usage(); u.Committed != 400 || len(files(t, s, blobsDir)) != 4 {
		t.Errorf("%+v", u)
	}
}

// The bytes of a shared reservation are counted once, wherever they go.
func TestReservationIsSpentOnce(t *testing.T) {
	s := open(t, t.TempDir(), 1000)
	r, err := s.Reserve(250)
	if err != nil {
		t.Fatal(err)
	}
	step := func(what string, want Usage) {
		t.Helper()
		want.Quota = 1000
		if diff := cmp.Diff(want, s.Usage()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	fetch := func(b []byte, fill fillFunc) *Blob {
		t.Helper()
		blob, err := s.Fetch(digest.FromBytes(b), int64(len(b)), r, fill)
		if err != nil {
			t.Fatal(err)
		}
		blob.Wait(t.Context())
		return blob
	}
	a := fetch(content(1, 100), filler(content(1, 100)))
	step("one of 100 came", Usage{Committed: 100, Reserved: 150, Blobs: 1})
	fetch(content(1, 100), nil).Close()
	step("it is there", Usage{Committed: 100, Reserved: 150, Blobs: 1})
	fetch(content(2, 100), filler(nil)).Close()
	step("one failed", Usage{Committed: 100, Reserved: 150, Blobs: 1})
	b := fetch(content(3, 200), filler(content(3, 200)))
	step("one of 200 took 50 more", Usage{Committed: 300, Blobs: 2})
	fetch(content(4, 100), filler(nil)).Close()
	step("one failed on its own bytes", Usage{Committed: 300, Blobs: 2})
	r.Release()
	a.Close()
	b.Close()
	step("all is released", Usage{Committed: 300, Idle: 300, Blobs: 2})
}

// A reservation that is released before its fill failed gets nothing back.
func TestReleaseBeforeFailure(t *testing.T) {
	s := open(t, t.TempDir(), 1000)
	r, err := s.Reserve(100)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Create(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 80)); err != nil {
		t.Fatal(err)
	}
	r.Release()
	if u := s.Usage(); u.Reserved < 80 || u.Reserved > 1000 {
		t.Errorf("while writing: %+v", u)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	if err := w.Abort(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Reserved != 0 {
		t.Errorf("afterwards: %+v", u)
	}
}

func TestWriter(t *testing.T) {
	s := open(t, t.TempDir(), 1000)
	write := func(b []byte) *Writer {
		t.Helper()
		w, err := s.Create(nil)
		if err != nil {
			t.Fatal(err)
		}
		for len(b) > 0 {
			n, err := w.Write(b[:min(37, len(b))])
			if err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		return w
	}
	want := content(1, 300)
	d := digest.FromBytes(want)
	first, err := write(want).Commit(d)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if u := s.Usage(); u.Committed != 300 || u.Reserved != 0 || !first.Committed() {
		t.Errorf("%+v, committed %v", u, first.Committed())
	}
	second, err := write(want).Commit(d)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if second.Path() != first.Path() || s.Usage().Committed != 300 || len(files(t, s, partialDir)) > 0 {
		t.Errorf("the second of the same name: %s, %+v", second.Path(), s.Usage())
	}
	if _, err := write(want[:200]).Commit(d); !errors.Is(err, ErrMismatch) {
		t.Errorf("other bytes of the same name: %v", err)
	}
	if _, err := write(want[:200]).Commit("nonsense"); err == nil {
		t.Error("a nonsense name is accepted")
	}
	w := write(content(2, 600))
	if n, err := w.Write(make([]byte, 101)); !errors.Is(err, ErrFull) || n != 0 {
		t.Errorf("past the quota: %d, %v", n, err)
	}
	if _, err := w.Commit(digest.FromString("?")); !errors.Is(err, ErrFull) {
		t.Errorf("Commit after that: %v", err)
	}
	if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Write after Commit: %v", err)
	}
	if _, err := w.Commit(d); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("second Commit: %v", err)
	}
	if u := s.Usage(); u.Reserved != 0 || len(files(t, s, partialDir)) > 0 {
		t.Errorf("left behind: %+v %v", u, files(t, s, partialDir))
	}
}

// A blob that a Writer commits while it arrives too is there once, for both.
func TestWriterOvertakesFetch(t *testing.T) {
	s := open(t, t.TempDir(), 1000)
	want := content(1, 300)
	d := digest.FromBytes(want)
	slow, err := s.Fetch(d, 300, nil, func(_ context.Context, w io.Writer) error {
		out, err := s.Create(nil)
		if err != nil {
			return err
		}
		out.Write(want)
		b, err := out.Commit(d)
		if err != nil {
			return err
		}
		b.Close()
		_, err = w.Write(want)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := slow.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if u := s.Usage(); u.Committed != 300 || u.Reserved != 0 || u.Idle != 0 {
		t.Errorf("while it is open: %+v", u)
	}
	if got, err := os.ReadFile(slow.Path()); err != nil || !bytes.Equal(got, want) {
		t.Error(err)
	}
	slow.Close()
	if u := s.Usage(); u.Idle != 300 || len(files(t, s, partialDir)) > 0 {
		t.Errorf("afterwards: %+v", u)
	}
}

// Whatever runs beside what, the quota holds at every moment.
func TestQuotaHolds(t *testing.T) {
	s := open(t, t.TempDir(), 4000)
	stop := make(chan struct{})
	var watch, work sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				checkInvariant(t, s)
			}
		}
	})
	for g := range uint64(6) {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(g, g))
			for range 150 {
				oneOfAll(t, s, rnd)
			}
		})
	}
	work.Wait()
	close(stop)
	watch.Wait()
	if u := s.Usage(); u.Reserved != 0 || u.Idle != u.Committed || u.Arriving != 0 {
		t.Errorf("at rest: %+v", u)
	}
	if f := files(t, s, partialDir); len(f) > 0 {
		t.Errorf("left behind: %v", f)
	}
}

// oneOfAll does one thing that a user of the spool may do.
func oneOfAll(t *testing.T, s *Spool, rnd *rand.Rand) {
	b := content(rnd.Uint64N(20), 100+rnd.IntN(3)*300)
	var r *Reservation
	if rnd.IntN(2) == 0 {
		var err error
		if r, err = s.Reserve(rnd.Int64N(1500)); err != nil && !errors.Is(err, ErrFull) {
			t.Error(err)
		}
	}
	var blob *Blob
	var err error
	switch rnd.IntN(4) {
	case 0:
		var w *Writer
		if w, err = s.Create(r); err == nil {
			w.Write(b)
			blob, err = w.Commit(digest.FromBytes(b))
		}
	case 1:
		blob, err = s.Fetch(digest.FromBytes(b), int64(len(b)), r, filler(b[:50]))
	default:
		blob, err = s.Fetch(digest.FromBytes(b), int64(len(b)), r, filler(b))
	}
	if err != nil && !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if r != nil {
		defer r.Release()
	}
	if blob == nil {
		return
	}
	rd := blob.NewReader(t.Context())
	got, err := io.ReadAll(rd)
	if err == nil && !bytes.Equal(got, b) || err != nil && !errors.Is(err, ErrMismatch) {
		t.Errorf("%d of %d bytes, %v", len(got), len(b), err)
	}
	rd.Close()
	blob.Close()
}

// A full disk is a clear error that passes, also for what arrives at that moment.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs a small tmpfs, which only root can mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := open(t, filepath.Join(dir, "spool"), 100<<20)
	defer s.Close()
	big := content(1, 2<<20)
	b, err := s.Fetch(digest.FromBytes(big), 2<<20, nil, func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(big))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = b.Wait(t.Context())
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "lower the quota") {
		t.Errorf("Fetch: %v", err)
	}
	b.Close()
	w, err := s.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = w.Write(big[:100_000])
	}
	if !errors.Is(err, ErrFull) || w.Abort() != nil {
		t.Errorf("Write: %v", err)
	}
	if u := s.Usage(); u.Committed+u.Reserved != 0 || len(files(t, s, partialDir)) > 0 {
		t.Errorf("left behind: %+v %v", u, files(t, s, partialDir))
	}
	// What fits still does, in the place of what nobody uses.
	for i := range uint64(3) {
		put(t, s, content(i, 600<<10)).Close()
	}
	if u := s.Usage(); u.Blobs != 1 {
		t.Errorf("%+v", u)
	}
}
