package policy

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Describe fills in what an image's manifest and config claim of it. Either may be
// nil, or what a stranger made of it: what can't be read is left empty, and the scan
// says what is wrong.
func (i *Image) Describe(manifest, config []byte) {
	var m struct {
		Annotations map[string]string    `json:"annotations"`
		Layers      []ocispec.Descriptor `json:"layers"`
	}
	if json.Unmarshal(manifest, &m) == nil {
		i.Annotations, i.Layers = m.Annotations, len(m.Layers)
		for _, l := range m.Layers {
			i.Size = min(i.Size+min(max(l.Size, 0), maxSize), maxSize)
		}
	}
	var c struct {
		ocispec.Platform
		Created string              `json:"created"` // text, so that a date which is none hides nothing else
		Config  ocispec.ImageConfig `json:"config"`
	}
	var mismatch *json.UnmarshalTypeError // of one field; the others were read
	if err := json.Unmarshal(config, &c); err == nil || errors.As(err, &mismatch) {
		i.Platform, i.User, i.Labels = Platform(c.Platform), c.Config.User, c.Config.Labels
		for _, variable := range c.Config.Env {
			name, _, _ := strings.Cut(variable, "=") // the value may be a secret
			i.Env = append(i.Env, name)
		}
		slices.Sort(i.Env)
		i.Env = slices.Compact(i.Env)
		if t, err := time.Parse(time.RFC3339, c.Created); err == nil {
			i.Created = t.UTC().Format(time.RFC3339)
		}
	}
	for _, claims := range []map[string]string{i.Annotations, i.Labels} {
		b := Base{Name: claims[ocispec.AnnotationBaseImageName], Digest: claims[ocispec.AnnotationBaseImageDigest]}
		if b != (Base{}) && i.Base == nil {
			i.Base = &b
		}
	}
}

// maxSize bounds an image's size as it is told, so that what a stranger claims of its
// layers doesn't pass what a number can hold.
const maxSize = 1 << 60

// Platform returns os/architecture[/variant], empty where the platform is.
func Platform(p ocispec.Platform) string {
	if p.OS == "" && p.Architecture == "" {
		return ""
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
