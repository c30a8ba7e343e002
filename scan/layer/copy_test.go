package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// makeTar builds a tar of entries; those with a size get that many bytes.
func makeTar(t testing.TB, hdrs ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i, h := range hdrs {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{byte(i)}), h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// small is a tar with a bit of everything that is fine.
func small(t testing.TB) []byte {
	return makeTar(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir},
		tar.Header{Name: "etc/", Typeflag: tar.TypeDir},
		tar.Header{Name: "etc/passwd", Size: 1000},
		tar.Header{Name: "/etc/absolute", Size: 1},
		tar.Header{Name: "etc/link", Typeflag: tar.TypeSymlink, Linkname: "../../etc/passwd"},
		tar.Header{Name: "etc/hard", Typeflag: tar.TypeLink, Linkname: "etc/passwd"},
		tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock},
		tar.Header{Name: "run/fifo", Typeflag: tar.TypeFifo},
		tar.Header{Name: "var/.wh.gone"},
		tar.Header{Name: "opt/.wh..wh..opq"},
		tar.Header{Name: "opt/" + strings.Repeat("long/", 40) + "name", Size: 70_000},
		tar.Header{Name: "bin/tool", Size: 600_000, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}},
		tar.Header{Name: "gnu", Size: 10, Format: tar.FormatGNU, Uid: 1 << 30},
	)
}

func gz(t testing.TB, members ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, b := range members {
		w := gzip.NewWriter(&out)
		w.Write(b)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func skippable(b []byte) []byte {
	n := len(b)
	return append([]byte{0x50, 0x2a, 0x4d, 0x18, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, b...)
}

func join(bs ...[]byte) []byte { return bytes.Join(bs, nil) }

func describe(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// copyBytes passes blob through Copy.
func copyBytes(t testing.TB, blob []byte, lim Limits, budget *Budget) (Result, []byte, error) {
	t.Helper()
	var out bytes.Buffer
	res, err := Copy(t.Context(), &out, bytes.NewReader(blob), describe(blob), lim, budget)
	return res, out.Bytes(), err
}

// Every form that runtimes read gives the same bytes and the same facts.
func TestFormats(t *testing.T) {
	plain := small(t)
	half := len(plain) / 2
	tests := map[string]struct {
		blob   []byte
		format Format
	}{
		"none":                  {plain, None},
		"gzip":                  {gz(t, plain), Gzip},
		"gzip members":          {gz(t, plain[:100], plain[100:half], nil, plain[half:]), Gzip},
		"zstd":                  {zst(t, plain), Zstd},
		"zstd frames":           {join(zst(t, plain[:half]), zst(t, plain[half:])), Zstd},
		"zstd:chunked":          {join(zst(t, plain[:half]), skippable([]byte("table of contents")), zst(t, plain[half:]), skippable(make([]byte, 40))), Zstd},
		"zstd, skippable first": {join(skippable([]byte("abc")), zst(t, plain)), Zstd},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want := Result{
				DiffID: digest.FromBytes(plain), Compressed: int64(len(tt.blob)), Uncompressed: int64(len(plain)),
				Entries: 14, Implied: 45, Format: tt.format, Tar: true, Problems: []Problem{},
			}
			for _, src := range []io.Reader{bytes.NewReader(tt.blob), iotest.OneByteReader(bytes.NewReader(tt.blob)), iotest.DataErrReader(bytes.NewReader(tt.blob))} {
				var out bytes.Buffer
				got, err := Copy(t.Context(), &out, src, describe(tt.blob), DefaultLimits(), DefaultBudget())
				if diff := cmp.Diff(want, got); diff != "" || err != nil {
					t.Errorf("%s %v", diff, err)
				}
				if !bytes.Equal(out.Bytes(), plain) {
					t.Errorf("%d other bytes were written", out.Len())
				}
			}
		})
	}
}

// What is cleanly no tar is said to be none; what a runtime might unpack in a way
// that we can't is an error.
func TestNoTar(t *testing.T) {
	text := []byte(strings.Repeat("apiVersion: v2\nname: chart\n", 100))
	badSum := small(t)
	badSum[0] ^= 1
	for name, blob := range map[string][]byte{"text": text, "gzip": gz(t, text), "zstd": zst(t, text), "short": []byte("{}"),
		"a block": text[:512], "first checksum wrong": badSum, "gzip in gzip": gz(t, gz(t, small(t))), "zeros, but no block": make([]byte, 511)} {
		res, out, err := copyBytes(t, blob, DefaultLimits(), nil)
		if err != nil || res.Tar || res.Entries != 0 || res.DiffID != digest.FromBytes(out) || len(res.Problems) > 0 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	for name, blob := range map[string][]byte{"empty": nil, "empty gzip": gz(t, nil), "the end alone": make([]byte, 1024), "much padding": make([]byte, 1<<20), "a zero block": make([]byte, 512)} {
		res, _, err := copyBytes(t, blob, DefaultLimits(), nil)
		if err != nil || !res.Tar || res.Entries != 0 || len(res.Problems) > 0 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	for name, blob := range map[string][]byte{"bzip2": []byte("BZh91AY&SY"), "xz": []byte("\xfd7zXZ\x00\x00\x04")} {
		_, _, err := copyBytes(t, blob, DefaultLimits(), nil)
		var format *FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A layer that is cut anywhere never passes for one.
func TestTruncated(t *testing.T) {
	plain := small(t)
	blobs := map[string][]byte{"none": plain, "gzip": gz(t, plain[:9000], plain[9000:]), "zstd": join(zst(t, plain[:9000]), zst(t, plain[9000:]))}
	for name, blob := range blobs {
		desc := describe(blob)
		for cut := 0; cut < len(blob); cut += 1 + cut/23 {
			short := blob[:cut]
			_, err := Copy(t.Context(), io.Discard, bytes.NewReader(short), desc, DefaultLimits(), nil)
			var mismatch *MismatchError
			if !errors.As(err, &mismatch) {
				t.Errorf("%s cut at %d: %v", name, cut, err)
			}
			// The same, when somebody published it so.
			res, _, err := copyBytes(t, short, DefaultLimits(), nil)
			var format *FormatError
			if err != nil && !errors.As(err, &format) {
				t.Errorf("%s published cut at %d: %v", name, cut, err)
			}
			if err == nil && res.Tar && !endsBetweenEntries(plain, res) {
				t.Errorf("%s published cut at %d: %+v", name, cut, res)
			}
		}
	}
}

// endsBetweenEntries reports whether archive/tar, and so every runtime, reads as far
// as res tells without an error, or res tells of a Problem.
func endsBetweenEntries(plain []byte, res Result) bool {
	n, err := countEntries(plain[:res.Uncompressed])
	return len(res.Problems) > 0 || err == nil && n == res.Entries
}

func countEntries(b []byte) (n int, err error) {
	r := tar.NewReader(bytes.NewReader(b))
	for {
		_, err := r.Next()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n++
	}
}

// Damage is an error about the format, when the blob is what it is said to be.
func TestDamaged(t *testing.T) {
	plain := small(t)
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 0x10
		return b
	}
	z := gz(t, plain)
	s := zst(t, plain)
	tests := map[string]struct {
		blob []byte
		what string
	}{
		"gzip checksum":          {flip(z, len(z)-8), "gzip"},
		"gzip length":            {flip(z, len(z)-1), "gzip"},
		"gzip data":              {flip(z, len(z)/2), "gzip"},
		"gzip header":            {[]byte("\x1f\x8b\x08"), "gzip"},
		"second gzip name":       {append(gz(t, plain), "\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x00name"...), "gzip"},
		"second gzip header":     {append(gz(t, plain), "\x1f\x8b\x07zzzzzzzzz"...), "gzip"},
		"zstd checksum":          {flip(s, len(s)-1), "zstd"},
		"zstd tail":              {append(bytes.Clone(s), "trailing"...), "zstd"},
		"zstd header":            {[]byte("\x28\xb5\x2f\xfd"), "zstd"},
		"tar in the middle":      {flip(plain, 1024+5), "tar"},
		"tar, zero block within": {join(plain[:512], make([]byte, 512), plain[512:]), "tar"},
		"pax record":             {join(rawHeader("x", 'x', 20), pad([]byte("zz path=abc\n12345678")), rawHeader("a", '0', 0), make([]byte, 1024)), "tar"},
		"negative size":          {join(rawHeader("x", 'x', 12), pad([]byte("12 size=-12\n")), rawHeader("a", '0', 0), make([]byte, 1024)), "tar"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := copyBytes(t, tt.blob, DefaultLimits(), nil)
			var format *FormatError
			if !errors.As(err, &format) || format.What != tt.what || errors.Is(err, io.EOF) {
				t.Errorf("%v", err)
			}
			// On the way to us it would be another matter.
			desc := describe(tt.blob)
			desc.Digest = digest.FromString("the good one")
			_, err = Copy(t.Context(), io.Discard, bytes.NewReader(tt.blob), desc, DefaultLimits(), nil)
			var mismatch *MismatchError
			if !errors.As(err, &mismatch) || mismatch.What != "digest" {
				t.Errorf("with another digest: %v", err)
			}
		})
	}
}

func TestMismatch(t *testing.T) {
	blob := gz(t, small(t))
	good := describe(blob)
	tests := map[string]struct {
		blob []byte
		desc ocispec.Descriptor
		what string
	}{
		"digest":  {blob, ocispec.Descriptor{Digest: digest.FromString("x"), Size: good.Size}, "digest"},
		"sha512":  {blob, ocispec.Descriptor{Digest: digest.SHA512.FromString("x"), Size: good.Size}, "digest"},
		"longer":  {append(bytes.Clone(blob), 0), good, "size"},
		"shorter": {blob, ocispec.Descriptor{Digest: good.Digest, Size: good.Size + 1}, "size"},
		"empty":   {nil, good, "size"},
	}
	for name, tt := range tests {
		_, err := Copy(t.Context(), io.Discard, bytes.NewReader(tt.blob), tt.desc, DefaultLimits(), nil)
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) || mismatch.What != tt.what {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Copy(t.Context(), io.Discard, bytes.NewReader(blob), ocispec.Descriptor{Digest: "nonsense"}, Limits{}, nil); err == nil {
		t.Error("a nonsense digest is accepted")
	}
	desc := ocispec.Descriptor{Digest: digest.SHA512.FromBytes(blob), Size: good.Size}
	if _, err := Copy(t.Context(), io.Discard, bytes.NewReader(blob), desc, Limits{}, nil); err != nil {
		t.Errorf("sha512: %v", err)
	}
}

// Faults of either end come out as they are.
func TestFaults(t *testing.T) {
	blob := gz(t, small(t))
	broken := errors.New("connection reset")
	for cut := range len(blob) {
		if cut%5000 != 0 {
			continue
		}
		src := io.MultiReader(bytes.NewReader(blob[:cut]), iotest.ErrReader(broken))
		if _, err := Copy(t.Context(), io.Discard, src, describe(blob), DefaultLimits(), nil); !errors.Is(err, broken) {
			t.Errorf("src fails at %d: %v", cut, err)
		}
	}
	full := errors.New("disk is full")
	for _, after := range []int{0, 1, 2} {
		dst := &failing{after: after, err: full}
		if _, err := Copy(t.Context(), dst, bytes.NewReader(blob), describe(blob), DefaultLimits(), nil); !errors.Is(err, full) {
			t.Errorf("dst fails after %d writes: %v", after, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("nobody waits")
	src := io.TeeReader(bytes.NewReader(blob), writerFunc(func(p []byte) (int, error) { cancel(gone); return len(p), nil }))
	if _, err := Copy(ctx, io.Discard, src, describe(blob), DefaultLimits(), nil); !errors.Is(err, gone) {
		t.Errorf("cancelled: %v", err)
	}
}

type failing struct {
	after int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.after == 0 {
		return 0, f.err
	}
	f.after--
	return len(p), nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// On random tars, entries are those of archive/tar.
func TestAgreesWithArchiveTar(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var hdrs []tar.Header
		for i := range rnd.IntN(60) {
			h := tar.Header{Name: fmt.Sprint("d/", i, strings.Repeat("x", rnd.IntN(300))), Size: rnd.Int64N(3000),
				Format: []tar.Format{tar.FormatGNU, tar.FormatPAX}[rnd.IntN(2)], ModTime: time.Unix(rnd.Int64N(1e9), 0)}
			if rnd.IntN(4) == 0 {
				h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, strings.Repeat("y", rnd.IntN(300))
			}
			hdrs = append(hdrs, h)
		}
		blob := makeTar(t, hdrs...)
		if rnd.IntN(2) == 0 {
			blob = blob[:len(blob)-1024] // runtimes do without the end marker
		}
		want, err := countEntries(blob)
		if err != nil {
			t.Fatal(err)
		}
		res, out, err := copyBytes(t, blob, DefaultLimits(), nil)
		if err != nil || res.Entries != want || !res.Tar || len(res.Problems) > 0 || !bytes.Equal(out, blob) {
			t.Fatalf("%+v, %v; archive/tar has %d entries", res, err, want)
		}
	}
}

// A Result is remembered: its JSON is a format.
func TestResultJSON(t *testing.T) {
	res, _, err := copyBytes(t, makeTar(t, tar.Header{Name: "../x"}), DefaultLimits(), nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"diff_id":"` + res.DiffID.String() + `","compressed":1536,"uncompressed":1536,"entries":1,"format":"none","tar":true,` +
		`"problems":[{"kind":"ambiguous_name","path":"../x","detail":"leads out of the root: some runtimes refuse it, some don't"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzCopy: no input crashes, hangs or grows; and what passes is what Go's own readers
// make of it.
func FuzzCopy(f *testing.F) {
	seeds(f, false)
	f.Fuzz(agree)
}

// BenchmarkCopy passes 64 MiB of program text, compressed about 3:1, a second time.
func BenchmarkCopy(b *testing.B) {
	exe, err := os.ReadFile(os.Args[0])
	if err != nil {
		b.Fatal(err)
	}
	exe = exe[:min(len(exe), 4<<20)]
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for i := range 1000 {
		part := exe[i*4000%(len(exe)-70_000):][:67_000]
		w.WriteHeader(&tar.Header{Name: fmt.Sprint("usr/bin/", i), Size: int64(len(part)), Mode: 0o755})
		w.Write(part)
	}
	w.Close()
	for name, blob := range map[string][]byte{"none": plain.Bytes(), "gzip": gz(b, plain.Bytes()), "zstd": zst(b, plain.Bytes())} {
		b.Run(name, func(b *testing.B) {
			desc := describe(blob)
			b.SetBytes(int64(plain.Len()))
			for b.Loop() {
				if _, err := Copy(b.Context(), io.Discard, bytes.NewReader(blob), desc, DefaultLimits(), nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
