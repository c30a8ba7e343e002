package proxytest

import (
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushImage stores an image in memory, without HTTP, under a tag; an empty tag is
// none. It returns the manifest's digest.
func (s *Server) PushImage(repo, tag string, img v1.Image) (digest.Digest, error) {
	layers, err := img.Layers()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repo, err)
	}
	for _, l := range layers {
		if err := s.pushLayer(repo, l); err != nil {
			return "", fmt.Errorf("push %s: %w", repo, err)
		}
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repo, err)
	}
	s.PutBlob(repo, config)
	return s.pushManifest(repo, tag, img)
}

// PushIndex stores an index and all that it lists and that is there.
func (s *Server) PushIndex(repo, tag string, index v1.ImageIndex) (digest.Digest, error) {
	list, err := index.IndexManifest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repo, err)
	}
	for _, d := range list.Manifests {
		if err := s.pushChild(repo, index, d); err != nil {
			return "", err
		}
	}
	return s.pushManifest(repo, tag, index)
}

func (s *Server) pushChild(repo string, index v1.ImageIndex, d v1.Descriptor) error {
	if d.MediaType.IsIndex() {
		child, err := index.ImageIndex(d.Digest)
		if err != nil {
			return fmt.Errorf("push %s: %w", repo, err)
		}
		_, err = s.PushIndex(repo, "", child)
		return err
	}
	child, err := index.Image(d.Digest)
	if err != nil {
		return fmt.Errorf("push %s: %w", repo, err)
	}
	_, err = s.PushImage(repo, "", child)
	return err
}

func (s *Server) pushLayer(repo string, l v1.Layer) error {
	d, err := l.Digest()
	if err != nil {
		return err
	}
	if _, ok := s.registry.blob(repo, digest.Digest(d.String())); ok || s.registry.mount(repo, "", digest.Digest(d.String())) {
		return nil
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.PutBlobAs(repo, digest.Digest(d.String()), data)
	return nil
}

// described is what images and indexes share.
type described interface {
	RawManifest() ([]byte, error)
}

func (s *Server) pushManifest(repo, tag string, m described) (digest.Digest, error) {
	raw, err := m.RawManifest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", repo, err)
	}
	return s.PutManifest(repo, tag, "", raw), nil
}

// PutBlob stores bytes as a blob and returns its digest.
func (s *Server) PutBlob(repo string, data []byte) digest.Digest {
	d := digest.FromBytes(data)
	s.PutBlobAs(repo, d, data)
	return d
}

// PutBlobAs stores bytes under a digest that may not be theirs. The bytes belong to
// the server from then on. A content of that digest in other repositories changes too.
func (s *Server) PutBlobAs(repo string, d digest.Digest, data []byte) {
	s.registry.putBlob(repo, d, data)
}

// PutManifest stores a manifest of any size and content, valid or not, under its
// sha256 digest and a tag; an empty tag is none, an empty media type is guessed.
func (s *Server) PutManifest(repo, tag, mediaType string, data []byte) digest.Digest {
	d := digest.FromBytes(data)
	s.PutManifestAs(repo, tag, mediaType, d, data)
	return d
}

// PutManifestAs stores a manifest under a digest that may not be its own.
func (s *Server) PutManifestAs(repo, tag, mediaType string, d digest.Digest, data []byte) {
	if mediaType == "" {
		mediaType = readFields(data).mediaType()
	}
	var tags []string
	if tag != "" {
		tags = []string{tag}
	}
	s.registry.putManifest(repo, d, manifest{mediaType, data}, tags...)
}

// Descriptor returns how a manifest in the registry would be listed, and whether it
// is there. The reference is a tag or a digest.
func (s *Server) Descriptor(repo, reference string) (ocispec.Descriptor, bool) {
	d, m, ok := s.registry.manifest(repo, reference)
	return ocispec.Descriptor{MediaType: m.mediaType, Digest: d, Size: int64(len(m.data))}, ok
}

// Delete removes a tag, or a manifest with all of its tags, and reports whether it
// was there.
func (s *Server) Delete(repo, reference string) bool {
	return s.registry.deleteManifest(repo, reference)
}

// DeleteBlob removes a blob from a repository and reports whether it was there.
func (s *Server) DeleteBlob(repo string, d digest.Digest) bool {
	return s.registry.deleteBlob(repo, d)
}
