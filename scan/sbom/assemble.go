package sbom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"

	stereofile "github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/filetree"
	"github.com/anchore/stereoscope/pkg/image"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// read reads an image whose layers land one by one, as stereoscope's Image.Read does, but
// takes the index of a layer that was read before from the shelf. release ends the use of
// the image, and is there after an error too.
func (c *Cataloguer) read(ctx context.Context, p *picture, dir string) (img *image.Image, release func(), err error) {
	if p.config.OS == "windows" { // there, a layer's index depends on the layers below
		img := image.New(p, nil, dir, image.WithManifest(p.img.Manifest), image.WithConfig(p.img.Config))
		return img, func() { _ = img.Cleanup() }, img.Read(c.readContext(ctx)) // it closes files that were only read
	}
	layers := make([]*indexed, len(p.layers))
	img, err = c.assemble(ctx, p, dir, layers)
	return img, func() {
		for _, x := range layers {
			if x != nil {
				c.shelf.giveBack(x)
			}
		}
	}, err
}

// assemble makes an image out of layers, which it sets as they land.
func (c *Cataloguer) assemble(ctx context.Context, p *picture, dir string, layers []*indexed) (*image.Image, error) {
	img := image.New(bare{p}, nil, dir, image.WithManifest(p.img.Manifest), image.WithConfig(p.img.Config))
	if err := img.Read(ctx); err != nil {
		return nil, err
	}
	g, gctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, c.parallelism())
	ready := make([]chan struct{}, len(layers))
	for i, l := range p.layers {
		ready[i] = make(chan struct{})
		g.Go(func() error {
			return guarded(func() (err error) {
				if layers[i], err = c.shelf.borrow(gctx, l, dir, i, slots); err != nil {
					return fmt.Errorf("layer %d: %w", i, err)
				}
				close(ready[i])
				return nil
			})
		})
	}
	var tree filetree.ReadWriter
	g.Go(func() error {
		return guarded(func() (err error) {
			tree, err = squash(gctx, layers, ready)
			return err
		})
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	files := newLayerFiles(layers)
	img.FileCatalog = files
	for i, x := range layers {
		img.Layers = append(img.Layers, x.at(i))
		img.Metadata.Size += x.layer.Metadata.Size
	}
	if n := len(img.Layers); n > 0 {
		img.Layers[n-1].SquashedTree = tree
	}
	return img, nil
}

// bare is an image without its layers.
type bare struct{ *picture }

func (bare) Layers() ([]v1.Layer, error) { return nil, nil }

// guarded makes an error of a panic in f.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return f()
}

// squash puts the trees of layers on each other, bottom first, each as it is ready. The
// trees stay as they are.
func squash(ctx context.Context, layers []*indexed, ready []chan struct{}) (filetree.ReadWriter, error) {
	var tree filetree.ReadWriter
	for i := range layers {
		select {
		case <-ready[i]:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		layer, ok := layers[i].layer.Tree.(filetree.ReadWriter)
		if !ok {
			return nil, fmt.Errorf("layer %d has a tree of the type %T", i, layers[i].layer.Tree)
		}
		var err error
		if tree == nil { // the lowest layer's whiteouts go, too
			union := filetree.NewUnionFileTree()
			union.PushTree(layer)
			tree, err = union.Squash()
		} else {
			err = tree.Merge(layer)
		}
		if err != nil {
			return nil, fmt.Errorf("squash layer %d: %w", i, err)
		}
	}
	return tree, nil
}

// layerFiles are the files of an image's layers, each of which has an index of its own.
type layerFiles struct {
	layers []*indexed // each once
	of     map[stereofile.ID]*indexed
}

var _ image.FileCatalogReader = (*layerFiles)(nil)

func newLayerFiles(layers []*indexed) *layerFiles {
	n, seen := 0, map[*indexed]bool{}
	out := &layerFiles{}
	for _, x := range layers {
		if !seen[x] {
			seen[x], out.layers, n = true, append(out.layers, x), n+len(x.ids)
		}
	}
	out.of = make(map[stereofile.ID]*indexed, n)
	for _, x := range out.layers {
		for _, id := range x.ids {
			out.of[id] = x
		}
	}
	return out
}

func (f *layerFiles) Layer(r stereofile.Reference) *image.Layer {
	if x := f.of[r.ID()]; x != nil {
		return x.layer
	}
	return nil
}

func (f *layerFiles) Open(r stereofile.Reference) (io.ReadCloser, error) {
	if x := f.of[r.ID()]; x != nil {
		return x.files.Open(r)
	}
	return nil, fmt.Errorf("open %s: %w", r.RealPath, fs.ErrNotExist)
}

func (f *layerFiles) Exists(r stereofile.Reference) bool { return f.of[r.ID()] != nil }

func (f *layerFiles) Get(r stereofile.Reference) (filetree.IndexEntry, error) {
	if x := f.of[r.ID()]; x != nil {
		return x.files.Get(r)
	}
	return filetree.IndexEntry{}, fs.ErrNotExist
}

// each asks the index of each layer.
func (f *layerFiles) each(ask func(filetree.IndexReader) ([]filetree.IndexEntry, error)) (out []filetree.IndexEntry, errs error) {
	for _, x := range f.layers {
		entries, err := ask(x.files.Index)
		out, errs = append(out, entries...), errors.Join(errs, err)
	}
	return out, errs
}

func (f *layerFiles) GetByMIMEType(types ...string) ([]filetree.IndexEntry, error) {
	return f.each(func(r filetree.IndexReader) ([]filetree.IndexEntry, error) { return r.GetByMIMEType(types...) })
}

func (f *layerFiles) GetByFileType(types ...stereofile.Type) ([]filetree.IndexEntry, error) {
	return f.each(func(r filetree.IndexReader) ([]filetree.IndexEntry, error) { return r.GetByFileType(types...) })
}

func (f *layerFiles) GetByExtension(extensions ...string) ([]filetree.IndexEntry, error) {
	return f.each(func(r filetree.IndexReader) ([]filetree.IndexEntry, error) { return r.GetByExtension(extensions...) })
}

func (f *layerFiles) GetByBasename(names ...string) ([]filetree.IndexEntry, error) {
	return f.each(func(r filetree.IndexReader) ([]filetree.IndexEntry, error) { return r.GetByBasename(names...) })
}

func (f *layerFiles) GetByBasenameGlob(globs ...string) ([]filetree.IndexEntry, error) {
	return f.each(func(r filetree.IndexReader) ([]filetree.IndexEntry, error) { return r.GetByBasenameGlob(globs...) })
}
