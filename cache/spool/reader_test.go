package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
)

// Readers of every habit see the content and nothing else while it arrives.
func TestReadersWhileArriving(t *testing.T) {
	s := open(t, t.TempDir(), 64<<20)
	want := content(1, 3<<20+17)
	ready := make(chan struct{})
	blob, err := s.Fetch(digest.FromBytes(want), int64(len(want)), nil, func(_ context.Context, w io.Writer) error {
		<-ready
		rnd := rand.New(rand.NewPCG(1, 1))
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(100_000))
			if _, err := w.Write(rest[:n]); err != nil {
				return err
			}
			rest = rest[n:]
			runtime.Gosched()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	var wg sync.WaitGroup
	for i := range 24 {
		b, err := s.Open(blob.Digest())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer b.Close()
			if err := readSomehow(t.Context(), b, want, uint64(i)); err != nil {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	close(ready)
	wg.Wait()
	if err := blob.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(blob.Path()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has other bytes: %v", err)
	}
}

// readSomehow reads b whole for even seeds, in random pieces for odd ones.
func readSomehow(ctx context.Context, b *Blob, want []byte, seed uint64) error {
	r := b.NewReader(ctx)
	defer r.Close()
	rnd := rand.New(rand.NewPCG(seed, 2))
	if seed%2 == 0 {
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("%d of %d bytes, equal %v: %w", len(got), len(want), bytes.Equal(got, want), err)
		}
		return nil
	}
	for range 40 {
		off := rnd.IntN(len(want) + 1)
		if _, err := r.Seek(int64(off), io.SeekStart); err != nil {
			return err
		}
		buf := make([]byte, rnd.IntN(50_000))
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], want[off:min(off+len(buf), len(want))]) {
			return fmt.Errorf("wrong bytes at %d", off)
		}
		if err != nil && off+len(buf) <= len(want) {
			return fmt.Errorf("%d bytes at %d: %w", len(buf), off, err)
		}
	}
	return nil
}

// The last byte and EOF come after the check, and not at all when it fails.
func TestLastByteIsHeld(t *testing.T) {
	for _, size := range []int{0, 1, 2, 5000} {
		for _, good := range []bool{true, false} {
			t.Run(fmt.Sprint(size, good), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testLastByte(t, size, good) })
			})
		}
	}
}

func testLastByte(t *testing.T, size int, good bool) {
	s := open(t, t.TempDir(), 1<<20)
	want := content(2, size)
	d := digest.FromBytes(want)
	if !good {
		d = digest.FromString("something else")
	}
	verify := make(chan struct{})
	blob, err := s.Fetch(d, int64(size), nil, func(_ context.Context, w io.Writer) error {
		_, err := w.Write(want)
		<-verify
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	var got []byte
	var rerr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := blob.NewReader(t.Context())
		defer r.Close()
		for rerr == nil {
			buf := make([]byte, 4096)
			var n int
			n, rerr = r.Read(buf)
			got = append(got, buf[:n]...)
		}
	}()
	synctest.Wait() // everything waits for verify now
	if len(got) != max(size-1, 0) || rerr != nil {
		t.Errorf("before the check: %d bytes of %d, error %v", len(got), size, rerr)
	}
	if blob.Committed() || blob.Arrived() != int64(size) {
		t.Errorf("committed %v, arrived %d", blob.Committed(), blob.Arrived())
	}
	close(verify)
	<-done
	if good && (rerr != io.EOF || !bytes.Equal(got, want)) {
		t.Errorf("after the check: %d bytes, %v", len(got), rerr)
	}
	if !good && (!errors.Is(rerr, ErrMismatch) || len(got) != max(size-1, 0)) {
		t.Errorf("after the check failed: %d bytes, %v", len(got), rerr)
	}
}

// A Read that waits is woken by the end of its context.
func TestReadWakesOnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), 1<<20)
		b, err := s.Fetch(digest.FromString("x"), 1, nil, func(ctx context.Context, _ io.Writer) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ctx, cancel := context.WithCancel(t.Context())
		r := b.NewReader(ctx)
		defer r.Close()
		got := make(chan error)
		go func() {
			_, err := r.Read(make([]byte, 1))
			got <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("Read: %v", err)
		}
		if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Wait: %v", err)
		}
	})
}

func TestSeek(t *testing.T) {
	s := open(t, t.TempDir(), 1<<20)
	b := put(t, s, []byte("0123456789"))
	defer b.Close()
	r := b.NewReader(t.Context())
	defer r.Close()
	tests := []struct {
		offset int64
		whence int
		pos    int64
		rest   string
		fails  bool
	}{
		{3, io.SeekStart, 3, "3456789", false},
		{-2, io.SeekEnd, 8, "89", false},
		{0, io.SeekEnd, 10, "", false},
		{5, io.SeekEnd, 15, "", false},
		{-15, io.SeekCurrent, 0, "0123456789", false},
		{-1, io.SeekStart, 0, "", true},
		{0, 9, 0, "", true},
	}
	for _, tt := range tests {
		pos, err := r.Seek(tt.offset, tt.whence)
		if (err != nil) != tt.fails || pos != tt.pos {
			t.Errorf("Seek(%d, %d) = %d, %v", tt.offset, tt.whence, pos, err)
		}
		if tt.fails {
			continue
		}
		if rest, err := io.ReadAll(r); string(rest) != tt.rest || err != nil {
			t.Errorf("after Seek(%d, %d): %q, %v", tt.offset, tt.whence, rest, err)
		}
	}
}

// One writer and four readers of 256 MiB.
func BenchmarkFetch(b *testing.B) {
	const size = 256 << 20
	s := open(b, b.TempDir(), 2*size)
	want := content(8, size)
	d := digest.FromBytes(want)
	b.SetBytes(size)
	for b.Loop() {
		blob, err := s.Fetch(d, size, nil, func(_ context.Context, w io.Writer) error {
			_, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(want)})
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				r := blob.NewReader(b.Context())
				defer r.Close()
				if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 256<<10)); n != size || err != nil {
					b.Error(n, err)
				}
			})
		}
		wg.Wait()
		blob.Close()
		s.mu.Lock()
		s.evict(size)
		s.mu.Unlock()
	}
}
