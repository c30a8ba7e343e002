package cache_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestKindsListed holds the list of kinds in the package's documentation to those that
// the code declares.
func TestKindsListed(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	listed := matches(`(?m)^//\t([a-z]+) +(?:Name|Recipe)\(`, string(doc))
	var declared []string
	for _, dir := range []string{"cache", "scan", "policy", "proxy", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || filepath.Base(filepath.Dir(path)) == "cachetest" {
				return err
			}
			text, err := os.ReadFile(path)
			declared = append(declared, matches(`Kind +(?:cache\.)?Kind += "([a-z]+)"|[kK]ind\w* +(?:cache\.)?Kind += "([a-z]+)"`, string(text))...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(listed)
	slices.Sort(declared)
	if len(declared) < 20 || !slices.Equal(listed, slices.Compact(declared)) {
		t.Errorf("doc.go lists\n%v,\nthe code declares\n%v", listed, declared)
	}
}

func matches(pattern, text string) (all []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, strings.Join(m[1:], ""))
	}
	return all
}
