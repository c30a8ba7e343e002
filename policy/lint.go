package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// passedOver returns an error where a rule looks as if it decided, and nobody asks for it:
// one that stands deeper than its package, or has a name like those that count.
func passedOver(modules map[string]*ast.Module) error {
	asked := mentioned(modules)
	for _, file := range slices.Sorted(maps.Keys(modules)) {
		m := modules[file]
		_, below := packageBelow(m.Package)
		for _, r := range m.Rules {
			ref := r.Head.Ref()
			name := strings.Trim(ref[0].String(), `"`)
			for _, t := range ref[1:] {
				if s, ok := t.Value.(ast.String); ok && (s == "violations" || s == "warnings") {
					return fmt.Errorf("%s: nobody asks for %s: put it into a package of its own below sluice.policies, as the rule %s", r.Loc(), ref, s)
				}
			}
			if like := alike(name); r.Head.RuleKind() == ast.MultiValue && len(ref) == 1 && like != "" && !asked[name] && (below || like == "violations") {
				return fmt.Errorf("%s: nobody asks for the rule %s: those that decide are called violations and warnings, in packages below sluice.policies; did you mean %s?", r.Loc(), name, like)
			}
		}
	}
	return nil
}

// alike returns which of the rules that count somebody may have meant by a name, "" for
// none, and for themselves.
func alike(name string) string {
	switch name {
	case "violations", "warnings":
		return ""
	case "deny":
		return "violations"
	case "warn":
		return "warnings"
	}
	return nearest(name, "violations", "warnings")
}

// mentioned is every name that rules refer to.
func mentioned(modules map[string]*ast.Module) map[string]bool {
	names := map[string]bool{}
	v := ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Var:
			names[string(x)] = true
		case ast.String:
			names[string(x)] = true
		}
		return false
	})
	for _, m := range modules {
		for _, r := range m.Rules {
			for ; r != nil; r = r.Else {
				v.Walk(r.Body)
				for _, t := range []*ast.Term{r.Head.Key, r.Head.Value} {
					if t != nil {
						v.Walk(t)
					}
				}
			}
		}
	}
	return names
}

// misspelt returns an error where a policy reads a field of the input that there is none
// of, and OPA doesn't see it: as a key of object.get, and of what a function was given. It
// has OPA look at a copy of modules in which such keys are references.
func misspelt(modules map[string]*ast.Module) error {
	d, schema, err := newDereferencer(modules)
	if err != nil {
		return err
	}
	found, err := d.check(modules, schema)
	if err != nil {
		return err
	}
	var errs ast.Errors
	for _, e := range found {
		// Other errors are of the copy, or told already. Objects that policies make
		// themselves may have any keys.
		if detail, ok := e.Details.(*ast.RefErrInvalidDetail); ok && d.objects[fmt.Sprint(detail.OneOf)] {
			errs = append(errs, e)
		}
	}
	if len(errs) > 0 {
		return compileError(errs)
	}
	return nil
}

// newDereferencer knows the functions of modules and the fields of the input's schema, which
// it returns, too.
func newDereferencer(modules map[string]*ast.Module) (*dereferencer, any, error) {
	var schema any
	if err := json.Unmarshal(inputSchema, &schema); err != nil {
		return nil, nil, fmt.Errorf("input schema: %w", err)
	}
	d := &dereferencer{
		functions: map[string][]*ast.Rule{}, scopes: map[*ast.Rule]scope{}, words: map[string]bool{}, objects: map[string]bool{}, seen: map[*ast.Term]bool{},
		of: func(call []*ast.Term, _ scope) []ast.Ref {
			if ref := gotten(call); ref != nil {
				return []ast.Ref{ref}
			}
			return nil
		},
		lookup: func(ast.Ref, scope) []ast.Ref { return nil },
	}
	d.learn(schema)
	for _, m := range modules {
		d.declare(m)
	}
	return d, schema, nil
}

// check returns what OPA has against a copy of modules in which what is read is a reference.
func (d *dereferencer) check(modules map[string]*ast.Module, schema any) (ast.Errors, error) {
	copies := map[string]*ast.Module{}
	for file, m := range modules {
		m = m.Copy()
		d.scope = scopeOf(m)
		if _, err := ast.Transform(ast.NewGenericTransformer(d.transform), m); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		copies[file] = m
	}
	schemas := ast.NewSchemaSet()
	schemas.Put(ast.SchemaRootRef, schema)
	c := ast.NewCompiler().WithCapabilities(capabilities()).WithDefaultRegoVersion(ast.RegoV1).WithSchemas(schemas).SetErrorLimit(0)
	c.Compile(copies)
	return c.Errors, nil
}

// A scope is what names in a module stand for.
type scope struct {
	pkg      ast.Ref
	imports  map[ast.Var]ast.Ref
	literals map[ast.Var][]*ast.Term
}

func scopeOf(m *ast.Module) scope {
	s := scope{m.Package.Path, map[ast.Var]ast.Ref{}, literalsOf(m)}
	for _, i := range m.Imports {
		if ref, ok := i.Path.Value.(ast.Ref); ok {
			s.imports[i.Name()] = ref
		}
	}
	return s
}

// function returns the whole name of what a call calls.
func (s scope) function(op *ast.Term) string {
	ref, ok := op.Value.(ast.Ref)
	if !ok {
		return ""
	}
	head, _ := ref[0].Value.(ast.Var)
	switch from := s.imports[head]; {
	case from != nil:
		return slices.Concat(from, ref[1:]).String()
	case ref.HasPrefix(ast.DefaultRootRef):
		return ref.String()
	}
	return slices.Concat(s.pkg, ast.Ref{ast.StringTerm(string(head))}, ref[1:]).String()
}

// A dereferencer makes references of what is read by other means.
type dereferencer struct {
	functions map[string][]*ast.Rule
	scopes    map[*ast.Rule]scope // of functions
	words     map[string]bool     // every name of a field of the input
	objects   map[string]bool     // the names of the fields of each of its objects
	seen      map[*ast.Term]bool  // operators of calls, and heads of references, that stand as they are
	scope     scope               // of the module that is transformed

	of     func(call []*ast.Term, in scope) []ast.Ref // that a call stands for, of those that OPA knows
	lookup func(ref ast.Ref, in scope) []ast.Ref      // that a reference stands for beside itself
}

// learn notes the fields of all objects in a schema.
func (d *dereferencer) learn(schema any) {
	m, _ := schema.(map[string]any)
	if properties, ok := m["properties"].(map[string]any); ok {
		keys := slices.Sorted(maps.Keys(properties))
		var values []ast.Value
		for _, k := range keys {
			d.words[k] = true
			values = append(values, ast.String(k))
		}
		d.objects[fmt.Sprint(values)] = true
	}
	for _, v := range m {
		d.learn(v)
		if list, ok := v.([]any); ok {
			for _, x := range list {
				d.learn(x)
			}
		}
	}
}

func (d *dereferencer) declare(m *ast.Module) {
	s := scopeOf(m)
	for _, r := range m.Rules {
		if len(r.Head.Args) > 0 {
			name := s.function(ast.NewTerm(r.Head.Ref()))
			d.functions[name] = append(d.functions[name], r)
			d.scopes[r] = s
		}
	}
}

// transform is called for each node before those below it.
func (d *dereferencer) transform(x any) (any, error) {
	switch x := x.(type) {
	case *ast.Expr:
		if every, ok := x.Terms.(*ast.Every); ok { // whose body OPA doesn't look at
			x.Terms = some(every)
			return x, nil
		}
		terms, ok := x.Terms.([]*ast.Term)
		if !ok || len(terms) == 0 {
			return x, nil
		}
		if t := d.dereferenced(terms, x.Location); t != nil {
			x.Terms = t
		}
	case ast.Call:
		if d.seen[x[0]] {
			return x, nil
		}
		if t := d.dereferenced(x, x[0].Location); t != nil {
			return t.Value, nil
		}
	case ast.Ref:
		if refs := d.lookup(x, d.scope); !d.seen[x[0]] && len(refs) > 0 {
			d.seen[x[0]] = true
			return ast.NewArray(append(locatedAll(refs, x[0].Location), ast.NewTerm(x).SetLocation(x[0].Location))...), nil
		}
	}
	return x, nil
}

// some returns an "every" as a comprehension over "some".
func some(e *ast.Every) *ast.Term {
	in := ast.Member.Call(e.Value, e.Domain)
	if e.Key != nil {
		in = ast.MemberWithKey.Call(e.Key, e.Value, e.Domain)
	}
	of := ast.NewExpr(&ast.SomeDecl{Symbols: []*ast.Term{in}, Location: e.Location})
	of.Location = e.Location
	body := ast.NewBody(append([]*ast.Expr{of}, e.Body...)...)
	return ast.ArrayComprehensionTerm(ast.BooleanTerm(true), body).SetLocation(e.Location)
}

// dereferenced returns what stands for a call, nil for itself.
func (d *dereferencer) dereferenced(call []*ast.Term, at *ast.Location) *ast.Term {
	switch refs := d.of(call, d.scope); {
	case len(refs) == 1:
		return located(refs[0], at)
	case len(refs) > 1:
		return ast.ArrayTerm(locatedAll(refs, at)...).SetLocation(at)
	}
	var all []*ast.Term
	for i, arg := range call[1:] {
		head := reference(arg)
		if head == nil {
			continue
		}
		for _, path := range d.read(d.scope.function(call[0]), i, maxCalls) {
			all = append(all, located(slices.Concat(head, path), at))
		}
	}
	if len(all) == 0 {
		return nil
	}
	d.seen[call[0]] = true
	return ast.ArrayTerm(append(all, ast.NewTerm(ast.Call(call)).SetLocation(at))...).SetLocation(at)
}

// maxCalls is how many functions one through the other a value is followed.
const maxCalls = 4

// read returns what a function reads of its argument i, where that has a name which no
// field of the input has.
func (d *dereferencer) read(name string, i, calls int) (paths []ast.Ref) {
	if calls == 0 {
		return nil
	}
	for _, r := range d.functions[name] {
		if i >= len(r.Head.Args) {
			continue
		}
		param, ok := r.Head.Args[i].Value.(ast.Var)
		if !ok || param.IsWildcard() {
			continue
		}
		add := func(ref ast.Ref) {
			if ref[0].Value.Compare(param) != 0 {
				return
			}
			path := ref[1 : 1+len(constant(ref[1:]))]
			if slices.ContainsFunc(constant(path), func(s string) bool { return !d.words[s] }) {
				paths = append(paths, path)
			}
		}
		calling := func(call []*ast.Term) {
			if refs := d.of(call, d.scopes[r]); len(refs) > 0 {
				for _, ref := range refs {
					add(ref)
				}
				return
			}
			for j, arg := range call[1:] {
				if head := reference(arg); head != nil && head[0].Value.Compare(param) == 0 && len(constant(head[1:])) == len(head)-1 {
					for _, path := range d.read(d.scopes[r].function(call[0]), j, calls-1) {
						paths = append(paths, slices.Concat(head[1:], path))
					}
				}
			}
		}
		ast.NewGenericVisitor(func(x any) bool {
			switch x := x.(type) {
			case ast.Ref:
				for _, ref := range append(d.lookup(x, d.scopes[r]), x) {
					add(ref)
				}
			case ast.Call:
				calling(x)
			case *ast.Expr:
				if terms, ok := x.Terms.([]*ast.Term); ok && len(terms) > 0 {
					calling(terms)
				}
			}
			return false
		}).Walk(r)
	}
	return paths
}

// gotten returns the reference that object.get stands for, nil for any other call.
func gotten(call []*ast.Term) ast.Ref {
	if len(call) < 4 || call[0].String() != ast.ObjectGet.Name {
		return nil
	}
	head := reference(call[1])
	if _, isKey := call[2].Value.(ast.String); head == nil || !isKey {
		return nil
	}
	return slices.Concat(head, ast.Ref{call[2]})
}

// reference returns a term that has a name as a reference, nil for another.
func reference(t *ast.Term) ast.Ref {
	switch v := t.Value.(type) {
	case ast.Ref:
		return v
	case ast.Var:
		if !v.IsWildcard() {
			return ast.Ref{t}
		}
	}
	return nil
}

func locatedAll(refs []ast.Ref, at *ast.Location) (terms []*ast.Term) {
	for _, ref := range refs {
		terms = append(terms, located(ref, at))
	}
	return terms
}

// located returns a reference as it would stand somewhere.
func located(ref ast.Ref, at *ast.Location) *ast.Term {
	copied := make(ast.Ref, len(ref))
	for i, t := range ref {
		copied[i] = ast.NewTerm(t.Value).SetLocation(at)
	}
	return ast.NewTerm(copied).SetLocation(at)
}
