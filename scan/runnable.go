package scan

import (
	"encoding/json"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Class says whether a runtime would run what a manifest describes, as far as the
// manifest itself can tell.
type Class int

const (
	// Candidate is what must be scanned: an image config, or a layer of a root file
	// system's type. Only its layers' bytes can still show that nothing runs.
	Candidate Class = iota
	// Artifact is what no runtime would run: a signature, an attestation, an SBOM, a
	// Helm chart.
	Artifact
)

// configTypes are the config media types that runtimes take for an image's. Docker
// takes an empty type for its own, and those that registries once wrote in its place
// (moby, distribution/registry.go, ImageTypes), whatever the layers' types are; so must
// we. An artifact under one of them is told by its layers' bytes.
var configTypes = map[string]bool{
	"":                         true,
	"application/octet-stream": true,
	"application/json":         true,
	"text/html":                true,
	"application/vnd.oci.image.config.v1+json":       true,
	"application/vnd.docker.container.image.v1+json": true,
}

// Classify reads an image manifest, OCI or Docker, and says whether it must be
// scanned. An error means that the manifest is no JSON of that shape, which no
// caller may take for an Artifact. Indexes are not for Classify.
func Classify(manifest []byte) (Class, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return Candidate, fmt.Errorf("read manifest: %w", err)
	}
	if imageConfig(m.Config.MediaType) {
		return Candidate, nil
	}
	for _, l := range m.Layers {
		if rootFS(l.MediaType) {
			return Candidate, nil
		}
	}
	return Artifact, nil
}

// imageConfig reports whether a config of this media type makes its manifest an image.
func imageConfig(mediaType string) bool { return configTypes[baseType(mediaType)] }

// rootFS reports whether a layer of this media type is meant as a part of a root file
// system, in whatever packing, readable for us or not.
func rootFS(mediaType string) bool {
	t := baseType(mediaType)
	for _, prefix := range []string{"application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."} {
		if strings.HasPrefix(t, prefix) {
			return true
		}
	}
	return unreadable(mediaType)
}

// unreadable reports whether a layer of this media type is no tar for its runtime,
// whatever its bytes begin with: an EROFS image begins as an empty tar ends.
func unreadable(mediaType string) bool {
	t := baseType(mediaType)
	for _, word := range []string{"erofs", "squashfs", "+encrypted"} {
		if strings.Contains(t, word) {
			return true
		}
	}
	return false
}

// encrypted reports whether a layer's media type says that its bytes are encrypted
// (github.com/containers/ocicrypt, spec).
func encrypted(mediaType string) bool { return strings.Contains(baseType(mediaType), "+encrypted") }

// baseType returns a media type without parameters, in lower case: what lenient
// readers of it compare.
func baseType(mediaType string) string {
	t, _, _ := strings.Cut(mediaType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}
