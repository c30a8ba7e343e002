package policy

import (
	"encoding/json"
	"errors"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Describe fills in what an image's manifest and config claim of it. Either may be
// nil, or what a stranger made of it: what can't be read is left empty, and the scan
// says what is wrong.
func (i *Image) Describe(manifest, config []byte) {
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(manifest, &m) == nil {
		i.Annotations = m.Annotations
	}
	var c struct {
		ocispec.Platform
		Created string              `json:"created"` // text, so that a date which is none hides nothing else
		Config  ocispec.ImageConfig `json:"config"`
	}
	var mismatch *json.UnmarshalTypeError // of one field; the others were read
	if err := json.Unmarshal(config, &c); err == nil || errors.As(err, &mismatch) {
		i.Platform, i.User, i.Labels = Platform(c.Platform), c.Config.User, c.Config.Labels
		if t, err := time.Parse(time.RFC3339, c.Created); err == nil {
			i.Created = t.UTC().Format(time.RFC3339)
		}
	}
	for _, claims := range []map[string]string{i.Annotations, i.Labels} {
		if d := claims[ocispec.AnnotationBaseImageDigest]; d != "" && i.Base == nil {
			i.Base = &Base{Name: claims[ocispec.AnnotationBaseImageName], Digest: d}
		}
	}
}

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
