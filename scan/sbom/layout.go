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
	for i := 1; i < len(layers); i++ {
		t := layers[i].Tree.TreeReader()
		root, ok := t.Node(filenode.IDByPath("/")).(*filenode.FileNode)
		if !ok {
			continue
		}
		d := &directories{children: t.Children}
		d.visit(root)
		slices.Sort(d.unsaid)
		for _, dir := range d.unsaid {
			if len(out) == maxLayouts {
				return out
			}
			below := beneath(layers[:i], dir)
			if below == nil || below.IsLink() && toRun(dir, below) {
				continue
			}
			out = append(out, scan.Problem{Kind: layer.AmbiguousLayout, Layer: p.img.Layers[i].Digest, Path: clean(string(dir), 1024), Detail: fmt.Sprintf(
				"is no directory in a lower layer, and here one without an entry ahead of its contents: where these go depends on the runtime; give the layer an entry for the directory, or for %s",
				clean(string(below.LinkPath), 100))})
		}
	}
	return out
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

// toRun reports whether a link is /var/run to /run, which is in most base images. What
// tools such as ko put there without an entry for the directory is seen by every
// cataloguer under the one name as it were under the other: none looks for either.
func toRun(p file.Path, n *filenode.FileNode) bool {
	return p == "/var/run" && (n.LinkPath == "/run" || strings.TrimSuffix(string(n.LinkPath), "/") == "../run")
}
