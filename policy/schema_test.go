package policy

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestInputSchema holds the schema that policies are checked against to the types
// that they are given.
func TestInputSchema(t *testing.T) {
	want, err := json.MarshalIndent(schemaOf(reflect.TypeFor[Input]()), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("input.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(inputSchema, want) {
		t.Errorf("input.schema.json is not what Input is; run go test ./policy -run %s -update", t.Name())
	}
}

func schemaOf(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string"}
	case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.String:
		return map[string]any{"type": []string{"string", "null"}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64, reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Interface: // a predicate: any value
		return map[string]any{}
	case reflect.Struct:
		props := map[string]any{}
		for i := range t.NumField() {
			name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if t.Field(i).Anonymous {
				maps.Copy(props, schemaOf(t.Field(i).Type)["properties"].(map[string]any))
			} else if name != "-" {
				props[name] = schemaOf(t.Field(i).Type)
			}
		}
		return map[string]any{"type": "object", "properties": props, "additionalProperties": false}
	}
	panic("no schema for " + t.String())
}
