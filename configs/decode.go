package configs

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// A decoder sets a struct from a syntax tree, strictly, and gathers every problem in
// place of stopping at the first.
type decoder struct {
	name     string // of the file
	problems []error
}

func (d *decoder) problem(n ast.Node, format string, args ...any) {
	d.problems = append(d.problems, fmt.Errorf("%s:%d: %s", d.name, line(n), fmt.Sprintf(format, args...)))
}

// decode sets the struct that dst points to. What n does not mention stays as it is.
func (d *decoder) decode(n ast.Node, dst any) {
	d.value(n, "", reflect.ValueOf(dst).Elem())
}

// value sets v, the value of the key with the given path ("gate.mode"), from n.
func (d *decoder) value(n ast.Node, path string, v reflect.Value) {
	switch n.Type() {
	case ast.NullType:
		d.problem(n, "%s has no value: give it one, or remove the line", path)
		return
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		d.problem(n, "%s: anchors, aliases and tags are not read here, write the value itself", orFile(path))
		return
	}
	switch {
	case v.Kind() == reflect.Pointer:
		d.optional(n, path, v)
	case v.Type() == reflect.TypeFor[time.Duration]():
		d.duration(n, path, v)
	case v.CanAddr() && v.Addr().Type().Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		d.text(n, path, v)
	case v.Kind() == reflect.Struct:
		d.mapping(n, path, v)
	case v.Kind() == reflect.Slice:
		d.list(n, path, v)
	default:
		d.scalar(n, path, v)
	}
}

func (d *decoder) mapping(n ast.Node, path string, v reflect.Value) {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		d.problem(n, "%s must be a group of keys, not %s", orFile(path), kind(n))
		return
	}
	fields := fields(v.Type())
	seen := map[string]int{}
	for _, e := range entries {
		key, ok := e.Key.(*ast.StringNode)
		if !ok {
			d.problem(e.Key, "%.60s is no key", strings.TrimSpace(e.Key.String()))
			continue
		}
		full := join(path, fmt.Sprintf("%.60s", key.Value))
		i, known := fields[key.Value]
		if !known {
			d.problem(e.Key, "there is no key %s%s", full, suggest(key.Value, path, v.Type()))
			continue
		}
		if first, twice := seen[key.Value]; twice {
			d.problem(e.Key, "%s is given twice, first in line %d", full, first)
			continue
		}
		seen[key.Value] = line(e.Key)
		d.value(e.Value, full, v.Field(i))
	}
}

// list replaces the slice v: a list in the file is the whole list.
func (d *decoder) list(n ast.Node, path string, v reflect.Value) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.problem(n, "%s must be a list, not %s: write each item behind a dash", path, kind(n))
		return
	}
	items := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		d.value(item, fmt.Sprintf("%s[%d]", path, i), items.Index(i))
	}
	v.Set(items)
}

// optional leaves the pointer v nil where the text is empty.
func (d *decoder) optional(n ast.Node, path string, v reflect.Value) {
	if text, ok := word(n); ok && text == "" {
		v.SetZero()
		return
	}
	v.Set(reflect.New(v.Type().Elem()))
	d.value(n, path, v.Elem())
}

func (d *decoder) duration(n ast.Node, path string, v reflect.Value) {
	text, ok := word(n)
	p, err := time.ParseDuration(text)
	if !ok || err != nil {
		d.problem(n, "%s must be a duration such as 20s, 4m or 2h, not %s", path, kind(n))
		return
	}
	v.SetInt(int64(p))
}

func (d *decoder) text(n ast.Node, path string, v reflect.Value) {
	text, ok := word(n)
	if !ok {
		d.problem(n, "%s can't be %s", path, kind(n))
		return
	}
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
		d.problem(n, "%s: %v", path, err)
	}
}

func (d *decoder) scalar(n ast.Node, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if s, ok := n.(*ast.StringNode); ok {
			v.SetString(s.Value)
			return
		}
		d.problem(n, "%s must be a text, not %s: put it in quotes", path, kind(n))
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
			return
		}
		d.problem(n, "%s must be true or false, not %s", path, kind(n))
	case reflect.Int:
		if i, ok := n.(*ast.IntegerNode); ok {
			if u, ok := i.Value.(uint64); ok && u <= math.MaxInt64 {
				v.SetInt(int64(u))
				return
			}
			if s, ok := i.Value.(int64); ok {
				v.SetInt(s)
				return
			}
		}
		d.problem(n, "%s must be a whole number, not %s", path, kind(n))
	case reflect.Float64:
		switch f := n.(type) {
		case *ast.FloatNode:
			v.SetFloat(f.Value)
			return
		case *ast.IntegerNode:
			if u, ok := f.Value.(uint64); ok {
				v.SetFloat(float64(u))
				return
			}
		}
		d.problem(n, "%s must be a number, not %s", path, kind(n))
	default:
		panic("configs: no rule for a field of type " + v.Type().String()) // held by a test
	}
}

// word returns the text of a string or number as it was written.
func word(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode:
		return n.Token.Value, true
	}
	return "", false
}

// kind describes n for an error, in a few words.
func kind(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a group of keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.StringNode:
		return fmt.Sprintf("%.60q", n.Value)
	}
	return fmt.Sprintf("%.60s", n.GetToken().Value)
}

func orFile(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fields returns the index of each field of the struct t by its key.
func fields(t reflect.Type) map[string]int {
	m := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		m[t.Field(i).Tag.Get("yaml")] = i
	}
	return m
}
