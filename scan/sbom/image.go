package sbom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/anchore/syft/syft/file"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// picture is an image for stereoscope, as a v1.Image: its manifest and config are at
// hand, its layers land when they land.
type picture struct {
	v1.Image // nil: what stereoscope is not known to call panics, which becomes an error

	img    scan.Image
	config *v1.ConfigFile
	layers []*landing
	files  file.Resolver // set once the layers are indexed
}

// newPicture reads the config and makes one layer for each of the image's.
func newPicture(ctx context.Context, img scan.Image, diffIDs []digest.Digest, dir string) (*picture, error) {
	if len(diffIDs) != len(img.Layers) {
		return nil, fmt.Errorf("%d diff IDs for %d layers", len(diffIDs), len(img.Layers))
	}
	config, err := v1.ParseConfigFile(strings.NewReader(string(img.Config)))
	if err != nil {
		return nil, &scan.ContentError{Detail: fmt.Sprintf("the image's config can't be read: %v", err)}
	}
	config.RootFS.DiffIDs = nil // so that stereoscope asks the layers: see the package's doc
	p := &picture{img: img, config: config}
	for i, d := range diffIDs {
		h, err := v1.NewHash(d.String())
		if err != nil {
			return nil, &scan.ContentError{Detail: fmt.Sprintf("layer %d has a diff ID that can't be used: %v", i, err)}
		}
		p.layers = append(p.layers, &landing{
			ctx: ctx, mediaType: readable(img.Layers[i].MediaType), diffID: h,
			link:   filepath.Join(dir, fmt.Sprintf("%d-%s-%s", i, h.Algorithm, h.Hex)),
			landed: make(chan struct{}),
		})
	}
	return p, nil
}

func (p *picture) MediaType() (types.MediaType, error) { return types.MediaType(p.img.MediaType), nil }
func (p *picture) ConfigName() (v1.Hash, error) {
	return v1.NewHash(digest.FromBytes(p.img.Config).String())
}
func (p *picture) ConfigFile() (*v1.ConfigFile, error) { return p.config, nil }
func (p *picture) RawConfigFile() ([]byte, error)      { return p.img.Config, nil }
func (p *picture) RawManifest() ([]byte, error)        { return p.img.Manifest, nil }
func (p *picture) Layers() ([]v1.Layer, error) {
	out := make([]v1.Layer, len(p.layers))
	for i, l := range p.layers {
		out[i] = l
	}
	return out, nil
}

// layerTypes are the media types that stereoscope reads as a tar. Only how they are
// reported depends on them: what lands is always an uncompressed tar.
var layerTypes = map[types.MediaType]bool{
	types.OCILayer:                       true,
	types.OCIUncompressedLayer:           true,
	types.OCIRestrictedLayer:             true,
	types.OCIUncompressedRestrictedLayer: true,
	types.OCILayerZStd:                   true,
	types.DockerLayer:                    true,
	types.DockerForeignLayer:             true,
	types.DockerUncompressedLayer:        true,
}

// readable returns the media type under which stereoscope reads a layer of the type given.
func readable(mediaType string) types.MediaType {
	if t := types.MediaType(mediaType); layerTypes[t] {
		return t
	}
	return types.OCIUncompressedLayer
}

// A landing is a layer that may not be there yet. DiffID and Uncompressed wait until
// it has landed, and fail when its session ends first.
type landing struct {
	v1.Layer // nil, as in picture

	ctx       context.Context // the session's: v1.Layer has no room for one in its methods
	mediaType types.MediaType
	diffID    v1.Hash
	link      string // where stereoscope looks for the uncompressed tar before it copies one

	once   sync.Once
	landed chan struct{} // closed when path and err are set
	path   string
	err    error
}

// land says where the layer lies. Only the first call counts.
func (l *landing) land(path string) error {
	err := errors.New("the layer has landed before")
	l.once.Do(func() {
		l.path, l.err = path, os.Symlink(path, l.link)
		err = l.err
		close(l.landed)
	})
	return err
}

func (l *landing) wait() error {
	select {
	case <-l.landed:
		return l.err
	case <-l.ctx.Done():
		return context.Cause(l.ctx)
	}
}

// still returns the layer without its session, which it may outlive. It has landed.
func (l *landing) still() *landing {
	return &landing{ctx: context.Background(), mediaType: l.mediaType, diffID: l.diffID, landed: l.landed, path: l.path}
}

func (l *landing) MediaType() (types.MediaType, error) { return l.mediaType, nil }

func (l *landing) DiffID() (v1.Hash, error) { return l.diffID, l.wait() }

func (l *landing) Uncompressed() (io.ReadCloser, error) {
	if err := l.wait(); err != nil {
		return nil, err
	}
	return os.Open(l.path)
}
