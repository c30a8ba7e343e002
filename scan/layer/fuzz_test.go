package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan/hostile"
)

// fuzzLimits are small, so that what grows is seen to.
func fuzzLimits() Limits {
	lim := DefaultLimits()
	lim.Uncompressed, lim.Window, lim.Entries, lim.Header, lim.HeaderTotal = 1<<20, 1<<20, 1000, 10_000, 1<<18
	lim.Time = 10 * time.Second
	return lim
}

// harmful are the blobs that mean harm, as far as they are small.
var harmful = sync.OnceValue(func() (out [][]byte) {
	for _, c := range hostile.Cases() {
		if c.Parsed {
			continue
		}
		for _, l := range c.Layers() {
			if len(l.Blob) <= 8<<10 {
				out = append(out, l.Blob)
			}
		}
	}
	return out
})

// seeds adds what means harm and what doesn't, as it is or unpacked.
func seeds(f *testing.F, unpacked bool) {
	plain := small(f)[:4096]
	sound := [][]byte{nil, plain, gz(f, plain), zst(f, plain), gz(f, plain[:700], nil, plain[700:]), skippable(plain)}
	for _, b := range append(sound, harmful()...) {
		if !unpacked {
			f.Add(b)
		} else if plain, err := unpack(b); err == nil && len(plain) < 64<<10 {
			f.Add(plain)
		}
	}
}

// unpack returns what others than the guard's reader make of a blob: compress/gzip, the
// decoder of whole zstd buffers, nothing.
func unpack(blob []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(blob, []byte("\x1f\x8b\x08")):
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(z, 2<<20))
	case bytes.HasPrefix(blob, []byte("\x28\xb5\x2f\xfd")), isSkippable(blob):
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(2<<20))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return z.DecodeAll(blob, nil)
	}
	return blob, nil
}

// agree passes a blob through the guard and holds it against what Go's own readers say.
func agree(t *testing.T, blob []byte) {
	t.Helper()
	begin := time.Now()
	res, out, err := copyBytes(t, blob, fuzzLimits(), NewBudget(1<<20, 1000))
	if took := time.Since(begin); took > 15*time.Second || len(out) > 1<<20+bufferSize*(buffers+1) {
		t.Fatalf("%v and %d bytes", took, len(out))
	}
	var limit *LimitError
	var format *FormatError
	if errors.As(err, &limit) {
		return
	}
	plain, uerr := unpack(blob)
	n, terr := readTar(plain)
	if err != nil {
		if !errors.As(err, &format) {
			t.Fatalf("error of another kind: %v", err)
		}
		// Flags that RFC 1952 reserves are an error here, as it wants, and none there.
		if uerr == nil && terr == nil && n > 0 && !errors.Is(err, kgzip.ErrHeader) {
			t.Fatalf("archive/tar reads %d entries, the guard: %v", n, err)
		}
		return
	}
	if res.DiffID != digest.FromBytes(out) || res.Uncompressed != int64(len(out)) || res.Compressed != int64(len(blob)) {
		t.Fatalf("%+v for %d bytes", res, len(out))
	}
	if len(res.Problems) > 0 {
		return
	}
	if uerr != nil || !bytes.Equal(plain, out) {
		t.Fatalf("%s: %d bytes, others unpack %d, %v", res.Format, len(out), len(plain), uerr)
	}
	if res.Tar && (terr != nil || n != res.Entries) || !res.Tar && terr == nil {
		t.Fatalf("archive/tar has %d entries, %v; the guard: %+v", n, terr, res)
	}
}

// readTar reads every entry to its end.
func readTar(b []byte) (n int, err error) {
	r := tar.NewReader(bytes.NewReader(b))
	for {
		if _, err := r.Next(); err == io.EOF {
			return n, nil
		} else if err != nil {
			return n, err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return n, err
		}
		n++
	}
}

// FuzzGzip: members, headers and checksums, as compress/gzip reads them.
func FuzzGzip(f *testing.F) {
	seeds(f, false)
	f.Fuzz(func(t *testing.T, body []byte) {
		agree(t, append([]byte("\x1f\x8b\x08"), bytes.TrimPrefix(body, []byte("\x1f\x8b\x08"))...))
	})
}

// FuzzZstd: frames, skippable ones, windows and checksums.
func FuzzZstd(f *testing.F) {
	seeds(f, false)
	f.Fuzz(func(t *testing.T, body []byte) {
		agree(t, append([]byte("\x28\xb5\x2f\xfd"), bytes.TrimPrefix(body, []byte("\x28\xb5\x2f\xfd"))...))
	})
}

// FuzzTar: headers and what follows them, with every checksum made right.
func FuzzTar(f *testing.F) {
	seeds(f, true)
	f.Fuzz(func(t *testing.T, plain []byte) {
		plain = bytes.Clone(plain)
		for at := 0; at+blockSize <= len(plain); at += blockSize {
			if b := plain[at : at+blockSize]; bytes.HasPrefix(b[257:], []byte("ustar")) {
				hostile.Sum(b)
			}
		}
		agree(t, plain)
	})
}

// FuzzHeaders: extended headers, names and whiteouts, in tars that are otherwise sound.
// Each line is an entry: its type, its name, its target, its records.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{
		"0 a/b", "5 a/\n0 a/.wh.b\n0 a/b", "2 a b\n0 a/c", "1 a b c=d", "0 .wh..wh..opq", "0 a x path=../../b", "x a", "g a b path=c\n0 d",
		"0 a b GNU.sparse.major=1 GNU.sparse.minor=0", "5 a b SCHILY.xattr.trusted.overlay.opaque=y", "0 a/b/c\n5 a\n0 a/b/c", "S a", "L a\n0 b", "0 a b size=9",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		var out hostile.Tar
		for line := range strings.Lines(lines) {
			fields := append(strings.Fields(line), "", "", "")[:max(3, len(strings.Fields(line)))]
			if fields[0] == "" || out.Len() > 256<<10 {
				continue
			}
			if len(fields) > 3 {
				out.Pax('x', fields[3:]...)
			}
			h := hostile.Header(fields[1], fields[0][0], 0)
			copy(h[157:257], fields[2])
			out.Entry(hostile.Sum(h), "")
		}
		agree(t, out.End())
	})
}
