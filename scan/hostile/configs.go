package hostile

import (
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// configs is what an image's config says that is not so.
func configs() []Case {
	old := func() []Layer {
		return []Layer{zipped(new(Tar).Dir("lib/").Dir("lib/apk/").Dir("lib/apk/db/").File(Installed, Package("2.37-r1")).End())}
	}
	return []Case{
		{Name: "another diff ID", Layers: old, Want: []string{failed}, Says: "diff ID", Config: func(c *ocispec.Image) {
			c.RootFS.DiffIDs[1] = digest.FromString("another")
		}},
		{Name: "the diff IDs of others", Layers: old, Want: []string{failed}, Says: "diff ID", Config: func(c *ocispec.Image) {
			c.RootFS.DiffIDs[1] = c.RootFS.DiffIDs[0]
		}},
		{Name: "too few diff IDs", Layers: old, Want: []string{failed}, Says: "diff IDs", Config: func(c *ocispec.Image) {
			c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1]
		}},
		{Name: "too many diff IDs", Layers: old, Want: []string{failed}, Says: "diff IDs", Config: func(c *ocispec.Image) {
			for range 20_000 {
				c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("x"))
			}
		}},
		{Name: "no diff IDs", Layers: old, Want: []string{failed}, Says: "diff IDs", Config: func(c *ocispec.Image) { c.RootFS.DiffIDs = nil }},
		{Name: "a diff ID that climbs", Layers: old, Want: []string{failed}, Config: func(c *ocispec.Image) {
			c.RootFS.DiffIDs[1] = "sha256:../../../../" + digest.Digest(strings.Repeat("a", 52))
		}},
		{Name: "another system", Layers: old, Want: []string{complete}, Finds: glibc, Why: "packages are told by the files, whatever the config says", Config: func(c *ocispec.Image) {
			c.OS, c.Architecture, c.Variant = "windows", "s390x", "v9"
		}},
		{Name: "a history of other layers", Layers: old, Want: []string{complete}, Finds: glibc, Why: "no reader goes by the history", Config: func(c *ocispec.Image) {
			for range 1000 {
				c.History = append(c.History, ocispec.History{EmptyLayer: true, CreatedBy: strings.Repeat("RUN true\n", 100)})
			}
		}},
	}
}
