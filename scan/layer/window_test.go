package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestLargeWindows: layers whose windows are large come one after the other, of whatever
// images they are, and hold up no others. A window that grows on the way is refused.
func TestLargeWindows(t *testing.T) {
	var all Large
	run := func(ctx context.Context, src io.Reader, b []byte) error {
		budget := NewBudget(1<<30, 1000) // an image's own
		budget.Large = &all
		_, err := Copy(ctx, io.Discard, src, ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}, DefaultLimits(), budget)
		return err
	}
	plain := makeTar(t, tar.Header{Name: "f", Size: 100 << 10})
	large, ordinary := zstdWindow(t, plain, 64<<20), zstdWindow(t, plain, 8<<20)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	one := enc.EncodeAll(plain, nil) // a frame that is its own window
	grows := slices.Concat(enc.EncodeAll(plain[:512], nil), zstdWindow(t, plain, 64<<20))
	behind := slices.Concat([]byte("\x50\x2a\x4d\x18\x01\x00\x00\x00x"), one) // nobody knows what follows

	leave, err := all.enter(t.Context()) // so that the slot can be looked at
	if err != nil {
		t.Fatal(err)
	}
	leave()
	r, w := io.Pipe()
	done := make(chan error)
	go func() { done <- run(t.Context(), r, large) }()
	if _, err := w.Write(large[:600]); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(all.slot) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the first one has no window")
		}
	}
	for name, b := range map[string][]byte{"another large one": large, "one of unknown size": behind} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errStillWaits)
		if err := run(ctx, bytes.NewReader(b), b); !errors.Is(err, errStillWaits) {
			t.Errorf("%s beside a large one: %v", name, err)
		}
		cancel()
	}
	for name, b := range map[string][]byte{"an ordinary one": ordinary, "one in one piece": one} {
		if err := run(t.Context(), bytes.NewReader(b), b); aboutLimit(err) || errors.Is(err, errStillWaits) {
			t.Errorf("%s beside a large one: %v", name, err)
		}
	}
	if err := run(t.Context(), bytes.NewReader(grows), grows); !aboutLimit(err) {
		t.Errorf("a window that grows: %v", err)
	}
	if _, err := w.Write(large[600:]); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := <-done; aboutLimit(err) {
		t.Error(err)
	}
	for name, b := range map[string][]byte{"the next large one": large, "one of unknown size": behind} {
		if err := run(t.Context(), bytes.NewReader(b), b); aboutLimit(err) {
			t.Errorf("%s, at last: %v", name, err)
		}
	}
}

var errStillWaits = errors.New("it still waits")

func aboutLimit(err error) bool {
	var limit *LimitError
	return errors.As(err, &limit)
}
