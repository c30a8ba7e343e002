package sbom

import (
	"math/rand/v2"
	"testing"

	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/stereoscopesource"
	"github.com/google/go-cmp/cmp"
)

// FuzzSearch: whatever the names of an image, a search by pattern finds through the index
// of names what it finds without.
func FuzzSearch(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	patterns := []string{
		"**/a", "**/b", "**/*", "**/*a*", "**/?", "**/[a]", `**/\[a\]`, `**/a\\b`, "**/a\xff", "**/\xff*", "**/{a,b}/a", "**/{a,b}", "**/.a", "**/.*",
		"*", "**", "/", "/*", "/a", "a", "a/*", "/a/b", "**/a/**", "a/**/b", "**/a*/b", "**/*/*", "**/é", "**/e\u0301", "**/a ", "**/[!b]", "**/[", "**/{a", "**/A*",
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		layers, story := oddLayers(rand.New(rand.NewPCG(seed, 1)))
		search := func(prepare func(*image.Image) error) (file.Resolver, bool) {
			img := image.New(imageOf(t, layers...), nil, t.TempDir())
			t.Cleanup(func() { _ = img.Cleanup() })
			if err := img.Read(image.WithLazyLayerSquashes(t.Context())); err != nil {
				return nil, false
			}
			if err := prepare(img); err != nil {
				t.Fatal(err)
			}
			r, err := stereoscopesource.New(img, stereoscopesource.ImageConfig{}).FileResolver(source.SquashedScope)
			if err != nil {
				t.Fatal(err)
			}
			return r, true
		}
		plain, ok := search(func(*image.Image) error { return nil })
		if !ok {
			return
		}
		quick, _ := search(quicken)
		for _, p := range patterns {
			want, werr := plain.FilesByGlob(p)
			got, gerr := quick.FilesByGlob(p)
			if diff := cmp.Diff(places(want), places(got)); diff != "" || (werr == nil) != (gerr == nil) {
				t.Errorf("%s%q: %v, %v\n%s", story, p, werr, gerr, diff)
			}
		}
	})
}

func places(found []file.Location) (out []string) {
	for _, l := range found {
		out = append(out, l.FileSystemID+" "+l.RealPath+" "+l.AccessPath)
	}
	return out
}
