package sbom

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/anchore/stereoscope/pkg/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/hostile"
	"github.com/sluicegate/sluice/scan/layer"
)

// FuzzNames: as FuzzLayout, with names in every form that a header can give them, and
// with types that are seldom seen.
func FuzzNames(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	old := syscall.Umask(0)
	f.Cleanup(func() { syscall.Umask(old) })
	f.Fuzz(func(t *testing.T, seed uint64) {
		layers, story := oddLayers(rand.New(rand.NewPCG(seed, 1)))
		seen, ok := scannedClean(t, layers)
		if !ok {
			return
		}
		for name, unpack := range map[string]func(*testing.T, [][]byte) (tree, error){"native": unpackNative, "overlayfs": unpackOverlay} {
			if got, err := unpack(t, layers); err == nil && !maps.Equal(got, seen) {
				t.Errorf("%s\n%s has %q\nthe scanner  %q", story, name, got, seen)
			}
		}
	})
}

// scannedClean returns what the scanner sees in the layers, false where the guard, the
// scanner or ambiguities tell of anything.
func scannedClean(t *testing.T, layers [][]byte) (tree, bool) {
	for _, l := range layers {
		res, err := layer.Copy(t.Context(), io.Discard, bytes.NewReader(l), described(l), layer.DefaultLimits(), nil)
		if err != nil || len(res.Problems) > 0 {
			return nil, false
		}
	}
	img := image.New(imageOf(t, layers...), nil, t.TempDir())
	defer img.Cleanup() //nolint:errcheck // closes files that were only read
	if err := img.Read(image.WithLazyLayerSquashes(t.Context())); err != nil {
		return nil, false
	}
	p := &picture{img: scan.Image{Layers: make([]ocispec.Descriptor, len(layers))}}
	if len(ambiguities(img.Layers, p)) > 0 {
		return nil, false
	}
	return scanned(t, img), true
}

// oddLayers returns one to three layers, and what is in them.
func oddLayers(rnd *rand.Rand) (layers [][]byte, story string) {
	one := func(of ...string) string { return of[rnd.IntN(len(of))] }
	plain := func() string {
		n := one("a", "b", "A", `a\b`, "a\xff", "a ", "[a]", "é", "e\u0301")
		for rnd.IntN(3) == 0 {
			n += "/" + one("a", "b", ".a")
		}
		return n
	}
	if rnd.IntN(2) == 0 {
		plain = func() string { return one("a", "b", "a/a", "a/b", "b/a") }
	}
	odd := func() string {
		n := plain()
		switch rnd.IntN(12) {
		case 0:
			return "./" + n
		case 1:
			return "/" + n
		case 2:
			return n + "/"
		case 3:
			return "b/../" + n
		case 4:
			return "a//" + n
		case 5:
			return n + "/."
		case 6:
			return one("", ".", "/", "./", "..", "a/..", "//", "b/../..", ".../a")
		case 7:
			return one("a/", "", "b/") + one(".wh.", ".wh..wh.", "..wh.", ".WH.", ".wh./", ".wh..wh..opq/") + n
		}
		return n
	}
	for i := range 1 + rnd.IntN(3) {
		var b hostile.Tar
		for j := range 1 + rnd.IntN(4) {
			n, typ, body := odd(), one("000000", "5", "5", "2", "2", "1", "3", "4", "6", "\x00", "\x00", "V", "D", "L", "K", "7")[0], ""
			if typ == '0' || typ == 0 || typ == '7' {
				body = fmt.Sprint(i, j)
			}
			h := hostile.Header(n, typ, int64(len(body)))
			form := one("", "", "", "pax", "pax twice", "pax size", "gnu", "both", "empty path", "prefix", "old", "base-256", "mode", "nul", "linkpath", "slashes")
			target := one("", "/", "./", "b/../") + plain() + one("", "", "/")
			copy(h[157:257], target)
			switch form {
			case "pax":
				copy(h[:100], "zzzzzzzzzzzz")
				b.Pax('x', "path="+n)
			case "pax twice":
				b.Pax('x', "path=zz")
				b.Pax('x', "path="+n)
			case "pax size":
				copy(h[124:], "00000000000")
				b.Pax('x', fmt.Sprintf("size=%d", len(body)))
			case "gnu":
				b.Entry(hostile.Header("././@LongLink", 'L', int64(len(n)+1)), n+"\x00")
				copy(h[:100], "zzzzzzzzzzzz")
			case "both":
				b.Entry(hostile.Header("././@LongLink", 'L', 3), "gg\x00")
				b.Pax('x', "path="+n)
			case "empty path":
				b.Pax('x', "path=")
			case "prefix":
				copy(h[345:], one("a", "b", "/", "..", "."))
			case "old":
				clear(h[257:265])
			case "base-256":
				clear(h[124:136])
				h[124], h[135] = 0x80, byte(len(body))
			case "mode":
				copy(h[100:], one("0100644", "0004755", "0000000", "0040755", "0120777", "0020666", "7777777"))
			case "nul":
				copy(h[len(n)+1:], "hidden")
			case "linkpath":
				b.Pax('x', "linkpath="+target)
				copy(h[157:257], "zzzzzzzzzzzzzzzzzzzzzzzzzz")
			case "slashes":
				h[99] = '/'
			}
			b.Entry(hostile.Sum(h), body)
			story += fmt.Sprintf("layer %d type %q name %q form %s target %q\n", i, typ, n, form, target)
		}
		layers = append(layers, b.End())
	}
	return layers, story
}
