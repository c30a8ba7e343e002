package sbom

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/filetree/filenode"
	"github.com/anchore/stereoscope/pkg/image"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/hostile"
	"github.com/sluicegate/sluice/scan/layer"
)

// FuzzLayout: the layers of an image, of few names and every kind of entry, unpacked by
// containerd as its overlayfs snapshotter does and as its native one does, and read by
// stereoscope. Where neither the guard nor ambiguities tells of anything, all that
// accept the image have one tree, with the same contents.
func FuzzLayout(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	old := syscall.Umask(0)
	f.Cleanup(func() { syscall.Umask(old) })
	f.Fuzz(func(t *testing.T, seed uint64) {
		layers, story := randomLayers(rand.New(rand.NewPCG(seed, 0)))
		for _, l := range layers {
			res, err := layer.Copy(t.Context(), io.Discard, bytes.NewReader(l), described(l), layer.DefaultLimits(), nil)
			if err != nil || len(res.Problems) > 0 {
				return
			}
		}
		img := image.New(imageOf(t, layers...), nil, t.TempDir())
		defer img.Cleanup() //nolint:errcheck // closes files that were only read
		if err := img.Read(image.WithLazyLayerSquashes(t.Context())); err != nil {
			return // then there is no verdict
		}
		p := &picture{img: scan.Image{Layers: make([]ocispec.Descriptor, len(layers))}}
		if len(ambiguities(img.Layers, p)) > 0 {
			return
		}
		seen := scanned(t, img)
		for name, unpack := range map[string]func(*testing.T, [][]byte) (tree, error){"native": unpackNative, "overlayfs": unpackOverlay} {
			if got, err := unpack(t, layers); err == nil && !maps.Equal(got, seen) {
				t.Errorf("%s\n%s has %v\nthe scanner  %v", story, name, got, seen)
			}
		}
	})
}

// TestRuntimesDiffer: the two snapshotters do differ, and the scanner goes with one. When
// this fails, ambiguities may go.
func TestRuntimesDiffer(t *testing.T) {
	layers := [][]byte{
		new(hostile.Tar).Dir("usr/").Dir("usr/lib/").Symlink("lib", "usr/lib").End(),
		new(hostile.Tar).File("lib/f", "contents").End(),
	}
	native, err := unpackNative(t, layers)
	if err != nil {
		t.Fatal(err)
	}
	if native["/usr/lib/f"] != "file contents" || native["/lib"] != "link usr/lib" {
		t.Errorf("native has %v", native)
	}
	overlay, err := unpackOverlay(t, layers)
	if err != nil {
		t.Skip(err)
	}
	if overlay["/lib/f"] != "file contents" || overlay["/lib"] != "directory" {
		t.Errorf("overlayfs has %v", overlay)
	}
}

// A tree has what lies at each path: "directory", "link TARGET", "file CONTENTS".
type tree map[string]string

func described(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// randomLayers returns one to three layers, and what is in them.
func randomLayers(rnd *rand.Rand) (layers [][]byte, story string) {
	name := func() string {
		n := string("abc"[rnd.IntN(3)])
		for rnd.IntN(2) == 0 {
			n += "/" + string("abc"[rnd.IntN(3)])
		}
		return n
	}
	for i := range 1 + rnd.IntN(3) {
		var b hostile.Tar
		for j := range 1 + rnd.IntN(5) {
			n, target := name(), []string{"/" + name(), name(), "../" + name()}[rnd.IntN(3)]
			dir, base := filepath.Split(n)
			what := []string{"file", "file", "file", "dir", "dir", "symlink", "symlink", "link", "whiteout", "opaque"}[rnd.IntN(10)]
			switch what {
			case "file":
				b.File(n, fmt.Sprint(i, j))
			case "dir":
				b.Dir(n + "/")
			case "symlink":
				b.Symlink(n, target)
			case "link":
				b.Link(n, target)
			case "whiteout":
				b.File(dir+".wh."+base, "")
			case "opaque":
				b.File(dir+".wh..wh..opq", "")
			}
			story += fmt.Sprintln("layer", i, what, n, target)
		}
		layers = append(layers, b.End())
	}
	return layers, story
}

// unpackNative unpacks each layer onto those below.
func unpackNative(t *testing.T, layers [][]byte) (tree, error) {
	dir := t.TempDir()
	for _, l := range layers {
		if _, err := archive.Apply(t.Context(), dir, bytes.NewReader(l), archive.WithNoSameOwner()); err != nil {
			return nil, err
		}
	}
	return unpacked(t, dir), nil
}

// unpackOverlay unpacks each layer by itself, and lets the kernel put them together.
func unpackOverlay(t *testing.T, layers [][]byte) (tree, error) {
	dir := t.TempDir()
	merged, bottom := filepath.Join(dir, "merged"), filepath.Join(dir, "bottom")
	lowers := []string{bottom} // an overlay has two at least
	for i, l := range layers {
		upper := filepath.Join(dir, fmt.Sprint(i))
		for _, d := range []string{merged, bottom, upper} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		_, err := archive.Apply(t.Context(), upper, bytes.NewReader(l), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(lowers))
		if err != nil {
			return nil, err
		}
		lowers = slices.Insert(lowers, 0, upper)
	}
	if err := syscall.Mount("overlay", merged, "overlay", syscall.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":")); err != nil {
		return nil, fmt.Errorf("needs to mount an overlay: %w", err)
	}
	defer func() {
		if err := syscall.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	}()
	return unpacked(t, merged), nil
}

// unpacked reads a tree from the disk.
func unpacked(t *testing.T, root string) tree {
	out := tree{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(p, root)
		switch {
		case err != nil:
		case rel == "", d.Type()&fs.ModeCharDevice != 0: // the latter is a whiteout of nothing
		case d.IsDir():
			out[rel] = "directory"
		case d.Type()&(fs.ModeDevice|fs.ModeNamedPipe) != 0:
			out[rel] = "device"
		case d.Type()&fs.ModeSymlink != 0:
			var target string
			target, err = os.Readlink(p)
			out[rel] = "link " + target
		default:
			var b []byte
			b, err = os.ReadFile(p)
			out[rel] = "file " + string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// scanned returns the tree that cataloguers are shown.
func scanned(t *testing.T, img *image.Image) tree {
	out := tree{}
	for _, node := range img.SquashedTree().TreeReader().Nodes() {
		n := node.(*filenode.FileNode)
		switch {
		case n.RealPath == "/":
		case n.FileType == file.TypeDirectory:
			out[string(n.RealPath)] = "directory"
		case isDevice(img, n, file.TypeCharacterDevice): // perhaps a whiteout
		case isDevice(img, n, file.TypeBlockDevice, file.TypeFIFO):
			out[string(n.RealPath)] = "device"
		case n.FileType == file.TypeSymLink:
			out[string(n.RealPath)] = "link " + string(n.LinkPath)
		default:
			r, err := img.OpenReference(*n.Reference)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			r.Close()
			if err != nil {
				t.Fatal(err)
			}
			out[string(n.RealPath)] = "file " + string(b)
		}
	}
	return out
}

// isDevice reports whether the entry of n is of one of the types: in a tree, all these
// are regular files.
func isDevice(img *image.Image, n *filenode.FileNode, types ...file.Type) bool {
	if n.Reference == nil {
		return false
	}
	e, err := img.FileCatalog.Get(*n.Reference)
	return err == nil && slices.Contains(types, e.Type)
}
