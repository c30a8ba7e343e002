package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/util"
)

// isData reports whether a file is a data document, which OPA finds by its name:
// https://www.openpolicyagent.org/docs/management-bundles.
func isData(name string) bool {
	switch path.Base(name) {
	case "data.json", "data.yaml", "data.yml":
		return true
	}
	return false
}

// addData puts a data document where its directory says: what is in parameters/data.yaml
// is data.parameters. Two documents may add to one object; a name that both have is an
// error.
func (s *sources) addData(prefix, name string, b []byte) error {
	shown := path.Join(prefix, name)
	doc, err := readData(shown, b)
	if err != nil {
		return err
	}
	if dir := path.Dir(name); dir != "." {
		for _, key := range slices.Backward(strings.Split(dir, "/")) {
			doc = map[string]any{key: doc}
		}
	}
	object, ok := doc.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: a data document without a folder must be an object, so that it has names; put it into a folder, or wrap it", shown)
	}
	if s.data == nil {
		s.data = map[string]any{}
	}
	if at, clash := mergeData(s.data, object, nil); clash {
		return fmt.Errorf("%s: data.%s stands in another data document too; keep one of them", shown, strings.Join(at, "."))
	}
	return nil
}

// store holds the data documents for evaluations.
func (s sources) store() storage.Store {
	if s.data == nil {
		return inmem.New()
	}
	return inmem.NewFromObject(s.data)
}

// missing returns an error where a rule needs data that no document has: it would be
// undefined for ever, and refuse nothing. A rule with a default has another way, and
// "not" asks just that.
func (s sources) missing(c *ast.Compiler) error {
	var errs ast.Errors
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[name]
		defaults := map[string]bool{}
		for _, r := range m.Rules {
			if r.Default {
				defaults[r.Head.Ref().String()] = true
			}
		}
		for _, r := range m.Rules {
			if defaults[r.Head.Ref().String()] {
				continue
			}
			ast.NewGenericVisitor(func(x any) bool {
				if e, ok := x.(*ast.Expr); ok && e.Negated {
					return true
				}
				t, ok := x.(*ast.Term)
				if !ok {
					return false
				}
				if ref, ok := t.Value.(ast.Ref); ok && !s.has(c, ref) {
					errs = append(errs, ast.NewError(ast.CompileErr, t.Location,
						"%v is in no data document, so this rule would never hold; add a data.yaml with it, or give the rule a default", ref.ConstantPrefix()))
				}
				return false
			}).Walk(r)
		}
	}
	if len(errs) > 0 {
		return compileError(errs)
	}
	return nil
}

// has reports whether a reference leads to a rule, to data, or to something else.
func (s sources) has(c *ast.Compiler, ref ast.Ref) bool {
	if !ref.HasPrefix(ast.DefaultRootRef) {
		return true
	}
	path := constant(ref[1:])
	var at any = s.data
	node := c.RuleTree.Child(ast.DefaultRootDocument.Value)
	for _, key := range path {
		if node != nil {
			node = node.Child(ast.String(key))
		}
		if node != nil && len(node.Values) > 0 {
			return true // a rule; what is below it is its own affair
		}
		object, ok := at.(map[string]any)
		if at != nil && !ok {
			return true // an array, or a value that has no names
		}
		at = object[key]
		if at == nil && node == nil {
			return false
		}
	}
	return true
}

// readData returns a document in OPA's types.
func readData(name string, b []byte) (doc any, err error) {
	if path.Ext(name) == ".json" {
		if !json.Valid(b) {
			var syntax *json.SyntaxError
			err := json.Unmarshal(b, &doc)
			if errors.As(err, &syntax) {
				return nil, fmt.Errorf("%s:%d: not well-formed JSON: %w", name, 1+bytes.Count(b[:min(syntax.Offset, int64(len(b)))], []byte("\n")), err)
			}
			return nil, fmt.Errorf("%s: not well-formed JSON: %w", name, err)
		}
	} else {
		var tokens token.Tokens = lexer.Tokenize(string(b))
		for _, t := range tokens {
			if t.Type == token.AliasType || t.Type == token.AnchorType || t.Type == token.MergeKeyType {
				return nil, fmt.Errorf("%s:%d: anchors, aliases and merge keys are not allowed here", name, t.Position.Line)
			}
		}
		if b, err = yaml.YAMLToJSON(b); err != nil {
			return nil, yamlError(name, err)
		}
	}
	if err := util.UnmarshalJSON(b, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return doc, nil
}

// mergeData adds what is in from to into. Where both have a value that is not an object
// in both, it stops and returns where.
func mergeData(into, from map[string]any, at []string) (clash []string, clashes bool) {
	for k, v := range from {
		old, there := into[k]
		if !there {
			into[k] = v
			continue
		}
		a, ok1 := old.(map[string]any)
		b, ok2 := v.(map[string]any)
		here := append(slices.Clone(at), k)
		if !ok1 || !ok2 {
			return here, true
		}
		if clash, clashes := mergeData(a, b, here); clashes {
			return clash, true
		}
	}
	return nil, false
}
