package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// closed adds the embedded policy about what could not be scanned to modules and src, where
// none of them asks for the cause: that nothing was found would else let such an image pass.
func closed(modules map[string]*ast.Module, src sources) error {
	if slices.ContainsFunc(needsOf(modules).paths, func(p []string) bool { return len(p) > 1 && p[0] == "scan" && p[1] == "cause" }) {
		return nil
	}
	b, err := defaults.ReadFile("default/scanned.rego")
	if err != nil {
		return err
	}
	const file, pkg = "embedded/scanned.rego", "package sluice.policies.scanned"
	text := string(b)
	if slices.ContainsFunc(slices.Collect(maps.Values(modules)), func(m *ast.Module) bool { return m.Package.String() == pkg }) {
		text = strings.Replace(text, pkg, pkg+"_embedded", 1)
	}
	m, err := ast.ParseModuleWithOpts(file, text, ast.ParserOptions{RegoVersion: ast.RegoV1, Capabilities: capabilities(), ProcessAnnotation: true})
	if err != nil {
		return err
	}
	modules[file], src.texts[file] = m, text
	return nil
}

// maxHints bounds what is told of one set of policies.
const maxHints = 20

// absences returns a line for each rule that refuses nothing where a field of the input is
// absent, by file and line. They are no errors: that may be what is meant.
func absences(modules map[string]*ast.Module) (hints []string, err error) {
	b, err := json.Marshal(sampleEmpty())
	if err != nil {
		return nil, err
	}
	var always map[string]any // what every input has
	if err := json.Unmarshal(b, &always); err != nil {
		return nil, err
	}
	for _, file := range slices.Sorted(maps.Keys(modules)) {
		if _, below := packageBelow(modules[file].Package); !below || strings.HasPrefix(file, "embedded/") {
			continue
		}
		for _, r := range modules[file].Rules {
			if strings.Trim(r.Head.Ref()[0].String(), `"`) != "violations" {
				continue
			}
			ast.NewGenericVisitor(func(x any) bool {
				switch x := x.(type) {
				case *ast.Expr:
					return x.Negated
				case *ast.ArrayComprehension, *ast.SetComprehension, *ast.ObjectComprehension:
					return true // which is empty then
				case *ast.Term:
					ref, ok := x.Value.(ast.Ref)
					if !ok || !ref.HasPrefix(ast.InputRootRef) {
						return false
					}
					if n := absentAt(always, constant(ref[1:])); n > 0 && len(hints) < maxHints {
						hints = append(hints, fmt.Sprintf("%s: %s may be absent, and this rule refuses nothing then; read it as object.get(%s, %s, ...) if that is not meant",
							x.Loc(), ref[:n+1], ref[:n], ref[n]))
					}
				}
				return false
			}).Walk(r.Body)
		}
	}
	return slices.Compact(hints), nil
}

// absentAt returns which name of a path, from 1, is the first that an object lacks, 0 for
// none.
func absentAt(object map[string]any, path []string) int {
	var at any = object
	for i, name := range path {
		m, ok := at.(map[string]any)
		if !ok {
			return 0
		}
		if at, ok = m[name]; !ok {
			return i + 1
		}
	}
	return 0
}
