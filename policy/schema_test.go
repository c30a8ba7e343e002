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

	"github.com/sluicegate/sluice/scan"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestInputSchema holds the schema that policies are checked against to the types
// that they are given.
func TestInputSchema(t *testing.T) {
	schema := schemaOf(reflect.TypeFor[Input]())
	for path, words := range vocabulary() {
		at := schema
		for _, name := range strings.Split(path, ".") {
			if at["type"] == "array" {
				at = at["items"].(map[string]any)
			}
			at = at["properties"].(map[string]any)[name].(map[string]any)
		}
		at["enum"] = words
	}
	want, err := json.MarshalIndent(schema, "", " ")
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

// vocabulary is what fields are one of, beside "".
func vocabulary() map[string][]string {
	kinds, formats := []string{"key", "keyless"}, []string{"bundle", "cosign-tag"}
	return map[string][]string{
		"request.action":     {"pull", "check", "admission"},
		"findings.severity":  {"critical", "high", "medium", "low", "negligible", "unknown"},
		"findings.fix.state": {"fixed", "not-fixed", "wont-fix", "unknown"},
		"scan.state":         {string(scan.Complete), string(scan.Partial), string(scan.Pending), string(scan.Failed), string(scan.Limit), string(scan.Unsupported)},
		"scan.cause": {
			string(scan.CauseScanTimeout), string(scan.CauseScanFailed), string(scan.CauseScanLimit), string(scan.CauseNoRoom),
			string(scan.CauseDBMissing), string(scan.CauseDBStale), string(scan.CauseStoreDown), string(scan.CauseUpstreamDown),
		},
		"image.signatures.kind": kinds, "image.signatures.format": formats,
		"image.attestations.kind": kinds, "image.attestations.format": formats,
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
