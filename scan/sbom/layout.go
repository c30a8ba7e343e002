package sbom

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/filetree/filenode"
	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/stereoscope/pkg/tree/node"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/layer"
)

// maxLayouts is how many places of an image are told one by one.
const maxLayouts = 20

// ambiguities returns the places where an image's tree depends on how a runtime puts its
// layers together. A layer can have entries in a directory that it has no entry for, or
// only a later one, while a lower layer has something else at that path, such as a link.
// Overlay file systems, and stereoscope's squash, then hide what is below with a
// directory; runtimes that unpack onto the tree so far follow the link. (containerd's
// overlayfs and native snapshotters, 2.x; see also stereoscope's filetree.Merge.)
func ambiguities(layers []*image.Layer, p *picture) []scan.Problem {
	var out []scan.Problem
	unsaid := make([][]file.Path, len(layers))
	for i, l := range layers {
		unsaid[i] = unsaidOf(l)
	}
	for i := 1; i < len(layers); i++ {
		for _, dir := range unsaid[i] {
			if len(out) == maxLayouts {
				return out
			}
			below := beneath(layers[:i], dir)
			if below == nil || dir == varRun && toRun(below) && sameInRun(layers, unsaid, i) {
				continue
			}
			out = append(out, scan.Problem{Kind: layer.AmbiguousLayout, Layer: p.img.Layers[i].Digest, Path: clean(string(dir), 1024), Detail: fmt.Sprintf(
				"is no directory in a lower layer, and here one without an entry ahead of its contents: where these go depends on the runtime; give the layer an entry for the directory, or for %s",
				clean(string(below.LinkPath), 100))})
		}
	}
	return out
}

// unsaidOf returns the directories of a layer that have no entry, or one that came after
// something in them, sorted.
func unsaidOf(l *image.Layer) []file.Path {
	t := l.Tree.TreeReader()
	root, ok := t.Node(filenode.IDByPath("/")).(*filenode.FileNode)
	if !ok {
		return nil
	}
	d := &directories{children: t.Children}
	d.visit(root)
	slices.Sort(d.unsaid)
	return d.unsaid
}

// directories finds those of a layer's tree that have no entry, or one that came after
// something in them. stereoscope gives references to entries alone, in their order.
type directories struct {
	children func(node.Node) node.Nodes
	unsaid   []file.Path
}

// visit looks at a node and all below it, and returns the first entry's ID among these;
// 0 where there is none. The guard bounds how deep it goes.
func (d *directories) visit(n *filenode.FileNode) file.ID {
	var first file.ID
	for _, c := range d.children(n) {
		if id := d.visit(c.(*filenode.FileNode)); first == 0 || id != 0 && id < first {
			first = id
		}
	}
	own := file.ID(0)
	if n.Reference != nil {
		own = n.Reference.ID()
	}
	if n.FileType == file.TypeDirectory && n.RealPath != "/" && (own == 0 || first != 0 && first < own) {
		d.unsaid = append(d.unsaid, n.RealPath)
	}
	if own != 0 && (first == 0 || own < first) {
		first = own
	}
	return first
}

// beneath returns what the layers hold at p that is no directory, or nil.
func beneath(layers []*image.Layer, p file.Path) *filenode.FileNode {
	for i := len(layers) - 1; i >= 0; i-- {
		switch n := at(layers[i], p); {
		case n != nil && n.FileType == file.TypeDirectory:
			return nil // if it hides something, that is told of layer i
		case n != nil:
			return n
		case removes(layers[i], p):
			return nil
		}
	}
	return nil
}

// removes reports whether a layer without p hides what lower layers have there.
func removes(l *image.Layer, p file.Path) bool {
	for s := string(p); s != "/"; s = path.Dir(s) {
		dir, base := path.Split(s)
		if at(l, file.Path(dir+file.WhiteoutPrefix+base)) != nil || at(l, file.Path(dir+file.OpaqueWhiteout)) != nil {
			return true
		}
		if n := at(l, file.Path(s)); n != nil && n.FileType != file.TypeDirectory {
			return true
		}
	}
	return false
}

func at(l *image.Layer, p file.Path) *filenode.FileNode {
	n, _ := l.Tree.TreeReader().Node(filenode.IDByPath(p)).(*filenode.FileNode)
	return n
}

// varRun is a link to /run in most base images, and tools such as ko put things below
// it without an entry for the directory. Each cataloguer sees these under the one name as
// it would under the other: none looks for either.
const varRun = "/var/run"

// toRun reports whether the link at varRun leads to /run.
func toRun(n *filenode.FileNode) bool {
	return n.IsLink() && (n.LinkPath == "/run" || strings.TrimSuffix(string(n.LinkPath), "/") == "../run")
}

// sameInRun reports whether what the layers from i on put below varRun is, for a runtime
// that follows the link, in /run under the same names to the end. It is not where a link
// in /run leads on from there, nor where a layer above undoes for the one name what it
// leaves under the other.
func sameInRun(layers []*image.Layer, unsaid [][]file.Path, i int) bool {
	for j, l := range layers[i:] {
		if at(l, "/run") != nil || removes(l, "/run") || removes(l, varRun) {
			return false
		}
		if n := at(l, varRun); n != nil && n.Reference != nil {
			return false
		}
		for _, dir := range unsaid[i+j] {
			in, ok := strings.CutPrefix(string(dir), varRun)
			if ok && (in == "" || in[0] == '/') && beneath(layers[:i], file.Path("/run"+in)) != nil {
				return false
			}
		}
	}
	return true
}
