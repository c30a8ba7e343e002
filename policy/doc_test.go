package policy

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A field is one line of the reference of the input.
type field struct{ path, kind string }

// fieldsOf returns the fields of a struct, in order. A kind ends with "?" where the field
// may be left out.
func fieldsOf(t reflect.Type, prefix string) (fields []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			fields = append(fields, fieldsOf(f.Type, prefix)...)
			continue
		}
		if name == "-" {
			continue
		}
		kind, inner, each := kindOf(f.Type)
		if strings.HasPrefix(options, "omit") {
			kind += "?"
		}
		// The four objects of the root need no line of their own.
		if prefix != "" || kind != "object" {
			fields = append(fields, field{prefix + name, kind})
		}
		if inner != nil {
			fields = append(fields, fieldsOf(inner, prefix+name+each+".")...)
		}
	}
	return fields
}

func kindOf(t reflect.Type) (kind string, inner reflect.Type, each string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[time.Time]() || t.Kind() == reflect.String:
		return "string", nil, ""
	case t.Kind() == reflect.Bool:
		return "boolean", nil, ""
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64 || t.Kind() == reflect.Float64:
		return "number", nil, ""
	case t.Kind() == reflect.Map:
		return "map", nil, ""
	case t.Kind() == reflect.Interface:
		return "any", nil, ""
	case t.Kind() == reflect.Struct:
		return "object", t, ""
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return "[]object", t.Elem(), "[]"
	case t.Kind() == reflect.Slice:
		return "[]string", nil, ""
	}
	panic("no kind for " + t.String())
}

// TestReference holds the reference of the input to its types: each field once, in order,
// with its type and whether it may be absent, and when that is.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "// # Input\n")
	section, _, ok2 := strings.Cut(section, "// # Output\n")
	if !ok || !ok2 {
		t.Fatal("doc.go has no section Input before Output")
	}
	var got []field
	for line := range strings.Lines(section) {
		line, ok := strings.CutPrefix(line, "//\t")
		if !ok {
			continue
		}
		words := strings.Fields(line)
		if len(words) < 3 {
			t.Fatalf("no description: %q", line)
		}
		got = append(got, field{words[0], words[1]})
		if strings.HasSuffix(words[1], "?") && !strings.Contains(line, "absent") {
			t.Errorf("%s: the line doesn't say when it is absent", words[0])
		}
	}
	want := fieldsOf(reflect.TypeFor[Input](), "")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d of the reference: got %v, want %v", i+1, got[min(i, len(got)):min(i+1, len(got))], want[min(i, len(want)):min(i+1, len(want))])
		}
	}
}
