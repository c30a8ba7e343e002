package scan

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestKinds: the list of kinds is whole, and each is in it once.
func TestKinds(t *testing.T) {
	kinds := Kinds()
	if sorted := slices.Clone(kinds); len(slices.Compact(slices.Sorted(slices.Values(sorted)))) != len(kinds) {
		t.Error("a kind is listed twice")
	}
	declared := 0
	for file, ours := range map[string]func(name string) bool{
		"kinds.go": func(name string) bool { return strings.HasPrefix(name, "Kind") },
		"nouns.go": func(name string) bool { return strings.HasPrefix(name, "Cause") && name != "CauseNone" },
		"layer/layer.go": func(name string) bool {
			return !slices.Contains([]string{"Version", "None", "Gzip", "Zstd"}, name)
		},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			for name, value := range constants(d) {
				if !ours(name) {
					continue
				}
				declared++
				if !slices.Contains(kinds, value) {
					t.Errorf("%s of %s, %q, is not listed", name, file, value)
				}
			}
		}
	}
	if declared != len(kinds) {
		t.Errorf("%d kinds are listed, %d declared", len(kinds), declared)
	}
}

// constants returns the string constants of a declaration.
func constants(d ast.Decl) map[string]string {
	out := map[string]string{}
	g, ok := d.(*ast.GenDecl)
	if !ok || g.Tok != token.CONST {
		return out
	}
	for _, s := range g.Specs {
		v := s.(*ast.ValueSpec)
		for i, name := range v.Names {
			if i >= len(v.Values) {
				continue
			}
			if lit, ok := v.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				out[name.Name], _ = strconv.Unquote(lit.Value)
			}
		}
	}
	return out
}
