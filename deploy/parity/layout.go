package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A layout is an OCI layout that is being written. Layers go to disk as they are made.
type layout struct {
	dir       string
	manifests []ocispec.Descriptor
}

// newLayout begins a layout in dir, which is emptied.
func newLayout(dir string) (*layout, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	return &layout{dir: dir}, nil
}

// A layer is a blob of a layout.
type layer struct {
	ocispec.Descriptor
	diffID digest.Digest
}

// A filling writes the entries of a layer.
type filling func(*tar.Writer) error

// layer writes a layer, in the compression that its media type names.
func (l *layout) layer(mediaType string, fill filling) (layer, error) {
	f, err := os.CreateTemp(l.dir, "layer-")
	if err != nil {
		return layer{}, err
	}
	defer os.Remove(f.Name()) // gone by then, if all went well
	defer f.Close()
	packed, plain := sha256.New(), sha256.New()
	var size counter
	z, err := compressor(mediaType, io.MultiWriter(f, packed, &size))
	if err != nil {
		return layer{}, err
	}
	w := tar.NewWriter(io.MultiWriter(z, plain))
	if err := errors.Join(fill(w), w.Close(), z.Close(), f.Close()); err != nil {
		return layer{}, err
	}
	sum := hex.EncodeToString(packed.Sum(nil))
	if err := os.Rename(f.Name(), filepath.Join(l.dir, "blobs", "sha256", sum)); err != nil {
		return layer{}, err
	}
	return layer{
		ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigestFromEncoded(digest.SHA256, sum), Size: int64(size)},
		digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(plain.Sum(nil))),
	}, nil
}

func compressor(mediaType string, w io.Writer) (io.WriteCloser, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayerGzip:
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case ocispec.MediaTypeImageLayerZstd:
		return zstd.NewWriter(w)
	case ocispec.MediaTypeImageLayer:
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("no layers of type %s are made here", mediaType)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// A counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// image adds an image of layers, bottom first.
func (l *layout) image(arch string, layers ...layer) error {
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = []digest.Digest{}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, p := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, p.diffID)
		m.Layers = append(m.Layers, p.Descriptor)
	}
	var err error
	if m.Config, err = l.document(ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	d, err := l.document(ocispec.MediaTypeImageManifest, m)
	d.Platform = &config.Platform
	l.manifests = append(l.manifests, d)
	return err
}

func (l *layout) document(mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, os.WriteFile(filepath.Join(l.dir, "blobs", "sha256", d.Digest.Encoded()), b, 0o644)
}

// copyOf adds an image as it is.
func (l *layout) copyOf(img v1.Image) error {
	p := ggcr.Path(l.dir)
	if err := p.WriteImage(img); err != nil {
		return err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	l.manifests = append(l.manifests, ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(raw), Size: int64(len(raw))})
	return nil
}

// close writes the index. Several images stand in an index of their own below it, as
// registries have them.
func (l *layout) close() error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: l.manifests}
	if len(l.manifests) > 1 {
		d, err := l.document(ocispec.MediaTypeImageIndex, index)
		if err != nil {
			return err
		}
		index.Manifests = []ocispec.Descriptor{d}
	}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(l.dir, "index.json"), b, 0o644),
		os.WriteFile(filepath.Join(l.dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}
