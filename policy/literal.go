package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// unheard returns an error where a policy compares a field of the input with what it never
// is: "Critical" where severities are in small letters, "7" where a score is a number. Such
// a rule would be loaded, and never refuse anything.
//
// OPA knows no types of one value. So it is shown a schema in which each such field may be
// an object, too: of the one kind that it has, and below that of its words where they are
// counted. And modules in which f.severity == "Critical" reads
// f.severity[" string"].Critical.
func unheard(modules map[string]*ast.Module) error {
	d, _, err := newDereferencer(modules)
	if err != nil {
		return err
	}
	d.of, d.lookup = compared, lookedUp
	var schema any
	if err := json.Unmarshal(inputSchema, &schema); err != nil {
		return fmt.Errorf("input schema: %w", err)
	}
	errs, err := d.check(modules, kinded(schema))
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range errs {
		detail, ok := e.Details.(*ast.RefErrInvalidDetail)
		if !ok {
			continue
		}
		if s := neverIs(detail); s != "" {
			lines = append(lines, fmt.Sprintf("%s:%d: %s", e.Location.File, e.Location.Row, s))
		}
	}
	slices.Sort(lines)
	if lines = slices.Compact(lines); len(lines) > 0 {
		return joined(lines)
	}
	return nil
}

// kinded returns a schema in which what has a simple type may be an object of it, too.
func kinded(schema any) any {
	m, ok := schema.(map[string]any)
	if !ok {
		return schema
	}
	for _, kind := range []string{"string", "number", "boolean"} {
		list, _ := m["type"].([]any)
		if m["type"] != kind && !slices.Contains(list, any(kind)) {
			continue
		}
		var below any = map[string]any{}
		if words, ok := m["enum"].([]any); ok {
			properties := map[string]any{"": map[string]any{}}
			for _, w := range words {
				properties[fmt.Sprint(w)] = map[string]any{}
			}
			below = map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
		}
		return map[string]any{"anyOf": []any{
			map[string]any{"type": kind},
			map[string]any{"type": "object", "properties": map[string]any{" " + kind: below}, "additionalProperties": false},
		}}
	}
	next := maps.Clone(m)
	for _, k := range []string{"items", "additionalProperties"} {
		if v, ok := m[k]; ok {
			next[k] = kinded(v)
		}
	}
	if properties, ok := m["properties"].(map[string]any); ok {
		of := map[string]any{}
		for k, v := range properties {
			of[k] = kinded(v)
		}
		next["properties"] = of
	}
	return next
}

// neverIs says what is wrong with a comparison, "" where OPA's error is about another thing.
func neverIs(detail *ast.RefErrInvalidDetail) string {
	at := slices.IndexFunc(detail.Ref, func(t *ast.Term) bool {
		s, ok := t.Value.(ast.String)
		return ok && strings.HasPrefix(string(s), " ")
	})
	if at < 0 || at+1 >= len(detail.Ref) {
		return ""
	}
	field := detail.Ref[:at].String()
	kind := strings.TrimSpace(string(detail.Ref[at].Value.(ast.String)))
	literal := string(detail.Ref[at+1].Value.(ast.String))
	var can []string
	for _, v := range detail.OneOf {
		if s, ok := v.(ast.String); ok && s != "" {
			can = append(can, string(s))
		}
	}
	switch {
	case detail.Pos == at+1 && len(can) > 0:
		s := fmt.Sprintf("%s is never %s: it is one of %s", field, quote(literal), strings.Join(can, ", "))
		if near := nearest(literal, can...); near != "" {
			s += fmt.Sprintf("; did you mean %q?", near)
		}
		return s
	case detail.Pos != at || len(can) != 1 || !strings.HasPrefix(can[0], " "):
		return ""
	case kind == "string":
		s := fmt.Sprintf("%s is a%s, and here is compared with the string %s", field, can[0], quote(literal))
		if json.Valid([]byte(literal)) {
			s += "; write it without quotes"
		}
		return s
	}
	return fmt.Sprintf("%s is a%s, and here is compared with the %s %s", field, can[0], kind, literal)
}

// isComparison reports whether an operator compares two values.
func isComparison(op string) bool {
	return slices.ContainsFunc([]*ast.Builtin{ast.Equality, ast.Equal, ast.NotEqual, ast.LessThan, ast.LessThanEq, ast.GreaterThan, ast.GreaterThanEq},
		func(b *ast.Builtin) bool { return b.Name == op })
}

// compared returns what stands for a comparison of a field with literals.
func compared(call []*ast.Term, in scope) (refs []ast.Ref) {
	if len(call) != 3 {
		return nil
	}
	switch op := call[0].String(); {
	case op == ast.Member.Name:
		for _, of := range in.values(call[2]) {
			each(of, false, func(t *ast.Term) { refs = append(refs, is(call[1], t)...) })
		}
	case isComparison(op):
		for i, t := range call[1:] {
			other := call[2-i]
			if _, isVar := other.Value.(ast.Var); isVar && op == ast.Equality.Name {
				continue // which may be what gives it its value
			}
			for _, v := range in.values(t) {
				refs = append(refs, is(other, v)...)
			}
		}
	}
	return refs
}

// lookedUp returns what stands for days[f.severity], where days has its keys written out.
func lookedUp(ref ast.Ref, in scope) (refs []ast.Ref) {
	if len(ref) < 2 || reference(ref[1]) == nil {
		return nil
	}
	if _, isVar := ref[1].Value.(ast.Var); isVar { // which may go through all of them
		return nil
	}
	for _, of := range in.values(ref[0]) {
		each(of, true, func(t *ast.Term) { refs = append(refs, is(ref[1], t)...) })
	}
	return refs
}

// each calls f for what is in a collection, and for the keys of an object where keys says so.
func each(of *ast.Term, keys bool, f func(*ast.Term)) {
	switch v := of.Value.(type) {
	case ast.Set:
		v.Foreach(f)
	case *ast.Array:
		if !keys {
			v.Foreach(f)
		}
	case ast.Object:
		v.Foreach(func(k, x *ast.Term) {
			if keys {
				x = k
			}
			f(x)
		})
	}
}

// is returns what stands for a term being a literal: nothing, where it is no field, or the
// literal is what object.get gives in place of the field.
func is(t, literal *ast.Term) []ast.Ref {
	field := reference(t)
	if call, ok := t.Value.(ast.Call); ok && len(call) == 4 && call[3].Value.Compare(literal.Value) != 0 {
		field = gotten(call)
	}
	if field == nil {
		return nil
	}
	kind, text := "", literal.Value.String()
	switch v := literal.Value.(type) {
	case ast.String:
		kind, text = " string", string(v)
	case ast.Number:
		kind = " number"
	case ast.Boolean:
		kind = " boolean"
	default:
		return nil
	}
	return []ast.Ref{slices.Concat(field, ast.Ref{ast.StringTerm(kind), ast.StringTerm(text)})}
}

// values returns the literals that a term stands for: itself, or what a rule or a local
// variable of that name is said to be.
func (s scope) values(t *ast.Term) []*ast.Term {
	if v, ok := t.Value.(ast.Var); ok {
		return s.literals[v]
	}
	if ast.IsConstant(t.Value) {
		return []*ast.Term{t}
	}
	return nil
}

// literalsOf returns what names in a module are said to be, where that is written out: of
// rules all of their values that are, of variables those of that name in one place alone.
func literalsOf(m *ast.Module) map[ast.Var][]*ast.Term {
	literals := map[ast.Var][]*ast.Term{}
	rules, declared := map[ast.Var]bool{}, map[ast.Var]int{}
	for _, r := range m.Rules {
		if name, ok := r.Head.Ref()[0].Value.(ast.Var); ok && len(r.Head.Ref()) == 1 && len(r.Head.Args) == 0 {
			rules[name] = true
			for ; r != nil; r = r.Else {
				if r.Head.Value != nil && r.Head.Key == nil && ast.IsConstant(r.Head.Value.Value) {
					literals[name] = append(literals[name], r.Head.Value)
				}
			}
		}
	}
	assigned := map[ast.Var]*ast.Term{}
	ast.NewGenericVisitor(func(x any) bool {
		switch x := x.(type) {
		case ast.Args:
			declare(declared, x...)
		case *ast.SomeDecl:
			for _, v := range x.Symbols {
				if in, ok := v.Value.(ast.Call); ok { // some k, v in domain
					declare(declared, in[1:len(in)-1]...)
					continue
				}
				declare(declared, v)
			}
		case *ast.Every:
			declare(declared, x.Value)
			if x.Key != nil {
				declare(declared, x.Key)
			}
		case *ast.Expr:
			if x.IsAssignment() {
				declare(declared, x.Operand(0))
				if v, ok := x.Operand(0).Value.(ast.Var); ok {
					assigned[v] = x.Operand(1)
				}
			}
		}
		return false
	}).Walk(m)
	for name, n := range declared {
		if rules[name] {
			delete(literals, name)
		} else if t := assigned[name]; n == 1 && t != nil && ast.IsConstant(t.Value) {
			literals[name] = []*ast.Term{t}
		}
	}
	return literals
}

// declare counts the variables in terms.
func declare(declared map[ast.Var]int, ts ...*ast.Term) {
	for _, t := range ts {
		ast.WalkVars(t, func(v ast.Var) bool {
			declared[v]++
			return false
		})
	}
}
