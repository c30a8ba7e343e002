package sbom

import (
	"path"
	"slices"
	"strings"

	stereofile "github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/filetree"
	"github.com/anchore/stereoscope/pkg/image"
	"github.com/bmatcuk/doublestar/v4"
)

// quicken lets img answer searches by a pattern of names sooner. stereoscope compares
// such a pattern with every name of the image, and the cataloguer of Debian's packages
// asks one for each package: a fifth of its catalogue.
func quicken(img *image.Image) error {
	names, err := newBasenames(img.FileCatalog)
	if err != nil {
		return err
	}
	img.SquashedSearchContext = filetree.NewSearchContext(img.SquashedTree(), names)
	return nil
}

// basenames is the index of an image, with its names in order, so that a pattern is
// compared only with those that begin as it does. What it answers is the same, in
// another order; the search that asks it sorts.
type basenames struct {
	filetree.IndexReader
	sorted []string
}

var _ filetree.IndexReader = (*basenames)(nil)

func newBasenames(index filetree.IndexReader) (*basenames, error) {
	entries, err := index.GetByFileType(stereofile.AllTypes()...)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = path.Base(string(e.RealPath))
	}
	slices.Sort(names)
	return &basenames{index, slices.Compact(names)}, nil
}

// GetByBasenameGlob implements filetree.IndexReader. Patterns that stereoscope refuses
// are left to it to refuse.
func (b *basenames) GetByBasenameGlob(globs ...string) ([]filetree.IndexEntry, error) {
	for _, g := range globs {
		if strings.Contains(g, "**") || strings.Contains(g, "/") || !doublestar.ValidatePattern(g) {
			return b.IndexReader.GetByBasenameGlob(globs...)
		}
	}
	var out []filetree.IndexEntry
	for _, g := range globs {
		for _, name := range b.beginning(literal(g)) {
			if name == "/" || !doublestar.MatchUnvalidated(g, name) { // stereoscope gives the root no name
				continue
			}
			entries, err := b.GetByBasename(name)
			if err != nil {
				return nil, err
			}
			out = append(out, entries...)
		}
	}
	return out, nil
}

// beginning returns the names that begin with prefix.
func (b *basenames) beginning(prefix string) []string {
	from, _ := slices.BinarySearch(b.sorted, prefix)
	rest := b.sorted[from:]
	to, _ := slices.BinarySearchFunc(rest, prefix, func(name, prefix string) int {
		if strings.HasPrefix(name, prefix) {
			return -1
		}
		return 1
	})
	return rest[:to]
}

// literal returns what every name that the pattern matches begins with.
func literal(pattern string) string {
	if i := strings.IndexAny(pattern, `*?[{\`); i >= 0 {
		return pattern[:i]
	}
	return pattern
}
