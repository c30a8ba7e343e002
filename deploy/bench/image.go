package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// An image is what is pulled, all of it in memory.
type image struct {
	repo, tag string
	about     string // for the table
	manifest  []byte
	blobs     []blob // the config first

	unpacked int64 // bytes
	entries  int
	layers   []*layer
}

// A blob is a part of an image, as it is transferred.
type blob struct {
	ocispec.Descriptor
	data []byte
}

// A layer is a layer of an image to be.
type layer struct {
	data     []byte // compressed
	diffID   digest.Digest
	unpacked int64
	entries  int
}

func (i *image) packed() (n int64) {
	for _, b := range i.blobs {
		n += b.Size
	}
	return n
}

// data returns what a blob of the image holds.
func (i *image) data(d digest.Digest) []byte {
	for _, b := range i.blobs {
		if b.Digest == d {
			return b.data
		}
	}
	return nil
}

// newImage makes an image of layers, bottom first.
func newImage(repo, about string, layers []*layer) (*image, error) {
	return newImageBy("", repo, about, layers)
}

// newImageBy is newImage with an author, which makes another image of the same layers.
func newImageBy(author, repo, about string, layers []*layer) (*image, error) {
	img := &image{repo: repo, tag: "1", about: about, layers: layers}
	config := ocispec.Image{Author: author, Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS.Type = "layers"
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		b := newBlob(ocispec.MediaTypeImageLayerGzip, l.data)
		m.Layers = append(m.Layers, b.Descriptor)
		img.blobs = append(img.blobs, b)
		img.unpacked += l.unpacked
		img.entries += l.entries
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	c := newBlob(ocispec.MediaTypeImageConfig, raw)
	m.Config = c.Descriptor
	img.blobs = append([]blob{c}, img.blobs...)
	img.manifest, err = json.Marshal(m)
	return img, err
}

func newBlob(mediaType string, data []byte) blob {
	return blob{ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data}
}

// push stores the image in an origin. Origins share its bytes.
func (i *image) push(s *proxytest.Server) {
	for _, b := range i.blobs {
		s.PutBlobAs(i.repo, b.Digest, b.data)
	}
	s.PutManifest(i.repo, i.tag, ocispec.MediaTypeImageManifest, i.manifest)
}

// fetchedOnce returns an error unless the origin has sent each blob once, and whole.
func (i *image) fetchedOnce(s *proxytest.Server) error {
	for _, b := range i.blobs {
		if times, n := s.Served(b.Digest); times != 1 || n != b.Size {
			return fmt.Errorf("the origin sent %s of %s %d times, %d bytes in all; once and %d bytes would do", b.Digest, i.repo, times, n, b.Size)
		}
	}
	return nil
}

// layersOf returns the layers of a sample image.
func layersOf(img v1.Image) ([]*layer, error) {
	parts, err := img.Layers()
	if err != nil {
		return nil, err
	}
	out := make([]*layer, len(parts))
	for i, p := range parts {
		if out[i], err = layerOf(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func layerOf(p v1.Layer) (*layer, error) {
	r, err := p.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	diffID, err := p.DiffID()
	if err != nil {
		return nil, err
	}
	l := &layer{data: data, diffID: digest.Digest(diffID.String())}
	z, err := p.Uncompressed()
	if err != nil {
		return nil, err
	}
	defer z.Close()
	for tr := tar.NewReader(io.TeeReader(z, (*counter)(&l.unpacked))); ; l.entries++ {
		if _, err := tr.Next(); err == io.EOF {
			return l, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// A packer writes a layer.
type packer struct {
	out  bytes.Buffer
	z    *gzip.Writer
	hash hash.Hash
	tar  *tar.Writer
	layer
}

// newPacker compresses at a level of package gzip; -1 is what builders use.
func newPacker(level int) (*packer, error) {
	p := &packer{hash: sha256.New()}
	var err error
	if p.z, err = gzip.NewWriterLevel(&p.out, level); err != nil {
		return nil, err
	}
	p.tar = tar.NewWriter(io.MultiWriter(p.z, p.hash, (*counter)(&p.unpacked)))
	return p, nil
}

// add writes one entry, with contents where its header has a size.
func (p *packer) add(h *tar.Header, r io.Reader) error {
	p.entries++
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	_, err := io.Copy(p.tar, r)
	return err
}

func (p *packer) close() (*layer, error) {
	if err := p.tar.Close(); err != nil {
		return nil, err
	}
	if err := p.z.Close(); err != nil {
		return nil, err
	}
	p.data = p.out.Bytes()
	p.diffID = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(p.hash.Sum(nil)))
	return &p.layer, nil
}

// A counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
