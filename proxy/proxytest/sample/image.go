package sample

import (
	"fmt"
	"maps"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Options say how an image is built. The zero value is an OCI image for linux/amd64
// with gzip layers and nothing in it but what its builder puts there.
type Options struct {
	Arch        string // amd64 where it is empty
	Docker      bool   // Docker's media types instead of OCI's
	Compression Compression
	Labels      map[string]string // beside those of the builder

	// Filler is how many bytes, compressed, are added in files that no cataloguer
	// knows, over FillerLayers layers (1 where that is 0).
	Filler       int64
	FillerLayers int
	// Layers is how many layers of one small file each are added.
	Layers int
	// Packages is how many apk packages of no real name are added to the database of
	// a Wolfi image.
	Packages int
	// Seed changes the bytes of filler and small layers, and so their digests.
	Seed uint64
}

func (o Options) arch() string {
	if o.Arch == "" {
		return "amd64"
	}
	return o.Arch
}

// Build returns an image of the given layers, bottom first, and what o adds.
func Build(o Options, name string, layers ...[]File) (v1.Image, error) {
	var built []*layer
	for i, files := range layers {
		l, err := newLayer(o, files)
		if err != nil {
			return nil, fmt.Errorf("%s: layer %d: %w", name, i, err)
		}
		built = append(built, l)
	}
	for i := range o.Layers {
		text := fmt.Appendf(nil, "layer %d of %s, seed %d\n", i, name, o.Seed)
		l, err := newLayer(o, []File{{Path: fmt.Sprintf("opt/layers/%03d", i), Data: text}})
		if err != nil {
			return nil, fmt.Errorf("%s: small layer %d: %w", name, i, err)
		}
		built = append(built, l)
	}
	if o.Filler > 0 {
		n := max(o.FillerLayers, 1)
		for i := range n {
			l, err := fillerLayer(o, i, o.Filler/int64(n))
			if err != nil {
				return nil, fmt.Errorf("%s: filler %d: %w", name, i, err)
			}
			built = append(built, l)
		}
	}
	return assemble(o, name, built)
}

// assemble makes the manifest and the config as apko writes them.
func assemble(o Options, name string, layers []*layer) (v1.Image, error) {
	manifestType, configType := types.OCIManifestSchema1, types.OCIConfigJSON
	if o.Docker {
		manifestType, configType = types.DockerManifestSchema2, types.DockerConfigJSON
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifestType), configType)
	labels := describe(name)
	maps.Copy(labels, o.Labels)
	add := make([]mutate.Addendum, 0, len(layers))
	for _, l := range layers {
		add = append(add, mutate.Addendum{Layer: l, MediaType: l.mediaType, History: v1.History{
			Author: "apko", CreatedBy: "apko", Comment: name + " by Chainguard", Created: v1.Time{Time: Created},
		}})
	}
	img, err := mutate.Append(img, add...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Author = "linux", o.arch(), "github.com/chainguard-dev/apko"
	file.Created = v1.Time{Time: Created}
	file.Config = v1.Config{
		User:       "65532",
		Entrypoint: []string{"/usr/bin/" + name},
		Env: []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/bin:/usr/sbin:/sbin:/bin",
			"SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt",
		},
		Labels: labels,
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if o.Docker { // whose manifests know no annotations
		return img, nil
	}
	return mutate.Annotations(img, labels).(v1.Image), nil
}

// describe returns the labels and annotations that Chainguard's images carry.
func describe(name string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.authors": "Chainguard Team https://www.chainguard.dev/",
		"org.opencontainers.image.created": Created.Format("2006-01-02T15:04:05Z"),
		"org.opencontainers.image.source":  "https://github.com/chainguard-images/images/tree/main/images/" + name,
		"org.opencontainers.image.title":   name,
		"org.opencontainers.image.url":     "https://images.chainguard.dev/directory/image/" + name + "/overview",
		"org.opencontainers.image.vendor":  "Chainguard",
		"dev.chainguard.image.title":       name,
		"dev.chainguard.package.main":      name,
	}
}

// Index returns a multi-platform index of what build makes for amd64 and arm64, with
// an attestation of the first: a child of the platform unknown/unknown, as BuildKit
// adds.
func Index(o Options, build func(Options) (v1.Image, error)) (v1.ImageIndex, error) {
	var children []mutate.IndexAddendum
	for _, arch := range []string{"amd64", "arm64"} {
		o.Arch = arch
		img, err := build(o)
		if err != nil {
			return nil, err
		}
		children = append(children, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	first, err := children[0].Add.Digest()
	if err != nil {
		return nil, err
	}
	attestation, err := attest(first)
	if err != nil {
		return nil, err
	}
	children = append(children, mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			"vnd.docker.reference.digest": first.String(),
			"vnd.docker.reference.type":   "attestation-manifest",
		},
	}})
	t := types.OCIImageIndex
	if o.Docker {
		t = types.DockerManifestList
	}
	return mutate.IndexMediaType(mutate.AppendManifests(empty.Index, children...), t), nil
}

// attest returns an attestation manifest: an image by its config's type, whose layer
// is an in-toto statement and no tar.
func attest(subject v1.Hash) (v1.Image, error) {
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2",`+
		`"subject":[{"name":"_","digest":{"sha256":%q}}],"predicate":{"buildType":"https://mobyproject.org/buildkit@v1"}}`, subject.Hex)
	l, err := plainLayer("application/vnd.in-toto+json", statement)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: l.mediaType}); err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "unknown", "unknown"
	return mutate.ConfigFile(img, file)
}

// plainLayer returns bytes of any type as a layer.
func plainLayer(mediaType types.MediaType, data []byte) (*layer, error) {
	h := newCountingHash()
	if _, err := h.Write(data); err != nil {
		return nil, err
	}
	return &layer{data, h.sum(), h.sum(), mediaType}, nil
}
