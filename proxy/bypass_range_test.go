package proxy_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Eight connections to each blob, each from another offset to the end, as clients do
// that fetch in parallel: their parts add up to the floor and no further.
func TestRangeStorm(t *testing.T) {
	t.Parallel()
	foil(t, func(ctx context.Context, l *lab, led *ledger, img *image) {
		var conns sync.WaitGroup
		for _, d := range img.blobs() {
			for i := range int64(8) {
				conns.Go(func() { l.steal(ctx, led, img, d, "Range", fmt.Sprintf("bytes=%d-", d.Size*i/8)) })
			}
		}
		conns.Wait()
	})
}

// The last byte alone, the last few, all but the first: the ends of blobs in all the
// ways that a range can ask for them.
func TestEndsOfBlobs(t *testing.T) {
	t.Parallel()
	foil(t, func(ctx context.Context, l *lab, led *ledger, img *image) {
		var conns sync.WaitGroup
		for _, d := range img.blobs() {
			for _, spec := range []string{"-1", "-8", "-512", "-65536", "-99999999", "%[1]d-%[1]d", "%[1]d-", "%[1]d-%[2]d", "%[2]d-", "1-%[1]d", "0-%[1]d", "1-", "0-"} {
				spec = fmt.Sprintf("bytes="+spec+"%.0[1]d%.0[2]d", d.Size-1, d.Size)
				conns.Go(func() { l.steal(ctx, led, img, d, "Range", spec) })
			}
		}
		conns.Wait()
	})
}

// A range for each byte of a held tail, one after the other by sixty-four hands.
func TestOneByteRanges(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	led := newLedger()
	d := bad.layers[0]
	offsets := make(chan int64)
	var hands sync.WaitGroup
	for range 64 {
		hands.Go(func() {
			for at := range offsets {
				ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond) // of which 50 go by before the headers
				l.steal(ctx, led, bad, d, "Range", fmt.Sprintf("bytes=%d-%d", at, at))
				cancel()
			}
		})
	}
	for at := floorOf(d.Size, false) - 64; at < d.Size; at += 1 + (at*7)%97 {
		offsets <- at
	}
	close(offsets)
	hands.Wait()
	l.engine.release()
	l.scanned(bad)
	for at := floorOf(d.Size, false); at < d.Size; at += 4096 {
		l.steal(t.Context(), led, bad, d, "Range", fmt.Sprintf("bytes=%d-%d", at, at))
	}
	if n := led.covered(d.Digest); n != 0 {
		t.Errorf("%d bytes came of a held tail", n)
	}
}

// Range headers that readers take for different things, or for nothing.
func TestOddRanges(t *testing.T) {
	t.Parallel()
	many := "bytes=0-0"
	for i := range 300 {
		many += fmt.Sprintf(",%d-%d", i*1000, i*1000+999)
	}
	specs := []string{
		"bytes=0-0,1-1,300000-", "bytes=0-,0-,0-", "bytes=300000-,-5", "bytes=,300000-", "bytes=300000-,", "bytes=0-5,3-", many,
		"bytes=-0", "bytes=--5", "bytes=5--", "bytes=+300000-", "bytes=+5-+9", "bytes= 300000-", "bytes=300000 -", "bytes=300000- ", "bytes=\t5-",
		"bytes=0-99999999999999999999", "bytes=99999999999999999999-", "bytes=-99999999999999999999", "bytes=9223372036854775807-", "bytes=-9223372036854775808",
		"bytes=0-9223372036854775807", "bytes=18446744073709551615-", "bytes=4294967296-", "bytes=-4294967297", "bytes=0x10-", "bytes=1e3-", "bytes=1_000-", "bytes=٣-",
		"Bytes=0-", "BYTES=300000-", "bytes =300000-", "bytes:300000-", "300000-", "bytes", "bytes=", "bytes=-", "bits=0-", "items=0-5", "bytes=a-b", "none",
		"bytes=5-4", "bytes=399999-300000", "bytes=0-0-0", "bytes=0-;q=1",
	}
	foil(t, func(ctx context.Context, l *lab, led *ledger, img *image) {
		var conns sync.WaitGroup
		for _, d := range []ocispec.Descriptor{img.config, img.layers[0]} {
			etag := `"` + d.Digest.String() + `"`
			for _, spec := range specs {
				conns.Go(func() {
					l.steal(ctx, led, img, d, "Range", spec)
					l.steal(ctx, led, img, d, "Range", spec, "If-Range", etag)
				})
			}
			for _, validator := range []string{etag, `W/` + etag, `"another"`, "*", d.Digest.String(), `""`, time.Now().Add(time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")} {
				conns.Go(func() { l.steal(ctx, led, img, d, "If-Range", validator, "Range", "bytes=300000-") })
				conns.Go(func() { l.steal(ctx, led, img, d, "If-Range", validator, "Range", "bytes=-7") })
				conns.Go(func() { l.steal(ctx, led, img, d, "If-Range", validator) })
			}
		}
		conns.Wait()
	})
}

// A thief who has all of a layer but what can be computed has the layer. That the floor
// keeps back more than a trailer and some padding is what makes the rest a secret.
func TestGuessingTheTail(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 400_000, 400_000)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	for _, d := range bad.layers {
		blob := bad.bytes[d.Digest]
		// The last 8 bytes are checksum and length; those before them, the padding of a tar.
		for _, without := range []int{1, 4, 8, 12, 20} {
			if got := complete(blob[:len(blob)-without]); digest.FromBytes(got) != d.Digest {
				t.Errorf("the thief can't complete a layer that lacks its last %d bytes: this test shows nothing", without)
			}
		}
		r := l.get("GET", blobPath("acme/app", d), 400*time.Millisecond)
		if len(r.body) < len(blob)/2 {
			t.Fatalf("%d of %d bytes arrived", len(r.body), len(blob))
		}
		if digest.FromBytes(complete(r.body)) == d.Digest {
			t.Error("the thief completed a layer")
		}
		if size, whole := lastFile(blob); size != whole || size == 0 {
			t.Fatalf("the layer's file has %d of %d bytes", size, whole)
		}
		if size, whole := lastFile(r.body); size > whole-60_000 {
			t.Errorf("the thief has %d of the %d bytes of the last file", size, whole)
		}
	}
}

// complete does what a thief can do with the beginning of a gzip layer: it unpacks what
// is there, adds what a tar must end with, and packs it as its maker did.
func complete(part []byte) []byte {
	plain := unpacked(part)
	for pad := range 4 {
		tries := append(slices.Clone(plain), make([]byte, (512-len(plain)%512)%512+512*pad)...)
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		w.Write(tries)
		w.Close()
		if bytes.HasPrefix(b.Bytes(), part) {
			return b.Bytes()
		}
	}
	return nil
}

func unpacked(part []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(part))
	if err != nil {
		return nil
	}
	plain, _ := io.ReadAll(r)
	return plain
}

// lastFile returns how much of the last file of a layer there is, and its size.
func lastFile(part []byte) (got, size int64) {
	r := tar.NewReader(bytes.NewReader(unpacked(part)))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) || err != nil {
			return got, size
		}
		if h.Typeflag == tar.TypeReg {
			size = h.Size
			got, _ = io.Copy(io.Discard, r)
		}
	}
}
