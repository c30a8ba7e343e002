package layer

import (
	"bytes"
	"context"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/sluicegate/sluice/cache/spool"
)

// The way a layer takes in the gateway: out of one spool while it still arrives, into
// another under its diff ID, and what lies there is what the name says.
func TestThroughSpools(t *testing.T) {
	open := func() *spool.Spool {
		s, err := spool.Open(t.TempDir(), 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	blobs, layers := open(), open()
	plain := small(t)
	compressed := gz(t, plain)
	desc := describe(compressed)
	first := make(chan struct{})
	blob, err := blobs.Fetch(desc.Digest, desc.Size, nil, func(_ context.Context, w io.Writer) error {
		for i, b := range [][]byte{compressed[:5000], compressed[5000:]} {
			if i == 1 {
				<-first // the pass has begun
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	src := blob.NewReader(t.Context())
	defer src.Close()
	dst, err := layers.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	begun := false
	tee := io.TeeReader(src, writerFunc(func(p []byte) (int, error) {
		if !begun {
			begun = true
			close(first)
		}
		return len(p), nil
	}))
	res, err := Copy(t.Context(), dst, tee, desc, DefaultLimits(), DefaultBudget())
	if err != nil {
		t.Fatal(err)
	}
	layer, err := dst.Commit(res.DiffID)
	if err != nil {
		t.Fatal(err)
	}
	defer layer.Close()
	if got, err := os.ReadFile(layer.Path()); err != nil || !bytes.Equal(got, plain) || layer.Digest() != digest.FromBytes(plain) {
		t.Errorf("%d bytes under %s, %v", len(got), layer.Digest(), err)
	}
	if bad, err := layers.Verify(t.Context()); err != nil || len(bad) > 0 {
		t.Errorf("Verify: %v, %v", bad, err)
	}
}
