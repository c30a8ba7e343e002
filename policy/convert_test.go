package policy

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/sluicegate/sluice/scan"
)

// fill sets every field of a struct, so that a new field can't be forgotten.
func fill(v reflect.Value, n *int) {
	*n++
	if v.Type() == reflect.TypeFor[scan.Sum]() {
		return // it is made of the findings
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, *n, time.UTC)))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"k": "v"}))
	case reflect.String:
		v.SetString(strings.Repeat("x", *n%7+1) + "\"é<>\x01")
	case reflect.Float64:
		v.SetFloat(float64(*n) / 1e7)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Interface:
		v.Set(reflect.ValueOf(map[string]any{"k": "v"}))
	case reflect.Bool:
		v.SetBool(true)
	default:
		panic("fill " + v.Type().String())
	}
}

func TestInputValueIsItsJSON(t *testing.T) {
	var full Input
	n := 0
	fill(reflect.ValueOf(&full).Elem(), &n)
	for name, in := range map[string]Input{"full": full, "sample": sampleFull(), "empty": sampleEmpty()} {
		if in.Findings == nil {
			in.Findings = []scan.Finding{}
		}
		got, err := inputValue(&in, in.Findings)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ast.ValueFromReader(strings.NewReader(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		if got.Compare(want) != 0 || got.Hash() != want.Hash() {
			t.Errorf("%s: got\n%v\nwant\n%v", name, got, want)
		}
	}
}

func TestInputValueOfNoNumber(t *testing.T) {
	for _, x := range []float64{math.NaN(), math.Inf(1)} {
		for _, f := range []scan.Finding{{CVSS: x}, {EPSS: x}} {
			if _, err := inputValue(&Input{}, []scan.Finding{f}); err == nil {
				t.Errorf("a score of %v is accepted", x)
			}
		}
	}
}

// TestEveryFieldIsRemembered changes each field of an input in turn: all but the time, the
// last allowed, what only the kill list reads and where the database lies change the key, or
// a decision would be used for another image or caller.
func TestEveryFieldIsRemembered(t *testing.T) {
	s := open(t, Config{}).current.Load()
	var in Input
	n := 0
	fill(reflect.ValueOf(&in).Elem(), &n)
	base := keyOf(s, &in)
	checked := 0
	walk(reflect.ValueOf(&in).Elem(), "Input", func(path string, v reflect.Value) {
		if strings.HasPrefix(path, "Input.Now") || path == "Input.History.LastAllowed" || strings.HasPrefix(path, "Input.Image.Aliases") ||
			strings.HasSuffix(path, ".Database.Dir") || strings.HasSuffix(path, ".Database.Elsewhere") {
			return
		}
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "!")
		case reflect.Float64:
			v.SetFloat(v.Float() + 1)
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Interface:
			v.Set(reflect.ValueOf("another"))
		case reflect.Bool:
			v.SetBool(false)
		}
		if keyOf(s, &in) == base {
			t.Errorf("%s is not part of the key", path)
		}
		v.Set(old)
		checked++
	})
	if checked < 60 {
		t.Errorf("only %d fields were looked at", checked)
	}
	if keyOf(s, &in) != base {
		t.Error("the key is not stable")
	}
}

// walk calls f for each plain value.
func walk(v reflect.Value, path string, f func(string, reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		walk(v.Elem(), path, f)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() || v.Type() == reflect.TypeFor[scan.Sum]() {
			return
		}
		for i := range v.NumField() {
			walk(v.Field(i), path+"."+v.Type().Field(i).Name, f)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), path, f)
		}
	case reflect.Map:
	default:
		f(path, v)
	}
}
