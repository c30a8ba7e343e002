package configs

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// none is an environment without variables.
func none(string) string { return "" }

// TestReference holds reference.yaml to the code: it has every key, and loading it is
// the same as having no file.
func TestReference(t *testing.T) {
	c, err := Load("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	u := &c.Upstreams[0]
	u.RealmHosts, u.RedirectHosts, u.Allow, u.Deny, c.Gate.Modes, c.Policy.VEX = nil, nil, nil, nil, nil, nil // "[]"
	c.Auth.OIDC, c.Auth.Access = nil, nil
	c.Trust.Keys, c.Trust.Identities, c.Policy.Bundle.Keys, c.Webhooks = nil, nil, nil, nil // "[]" in the file
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("reference.yaml is not the defaults (-default +file):\n%s", diff)
	}

	b, err := os.ReadFile("reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(b, &tree); err != nil {
		t.Fatal(err)
	}
	for _, key := range Keys() {
		if !has(tree, strings.Split(key, "."), string(b)) {
			t.Errorf("reference.yaml lacks %s", key)
		}
	}
}

// has reports whether text has the key at path. The keys of a list that is empty by
// default stand in a comment, as an example.
func has(tree any, path []string, text string) bool {
	if list, ok := tree.([]any); ok && len(list) > 0 {
		tree = list[0]
	} else if ok {
		return regexp.MustCompile(`(?m)^ *#.*\b` + path[0] + `: `).MatchString(text)
	}
	m, ok := tree.(map[string]any)
	if !ok {
		return false
	}
	v, ok := m[path[0]]
	return ok && (len(path) == 1 || has(v, path[1:], text))
}

// TestKeys holds Config to what the decoder can set: every field has a key of its
// own, in snake case, and a type that there is a rule for.
func TestKeys(t *testing.T) {
	var check func(path string, typ reflect.Type)
	check = func(path string, typ reflect.Type) {
		switch {
		case typ == reflect.TypeFor[time.Duration](), typ == reflect.TypeFor[Size]():
		case typ.Kind() == reflect.Pointer:
			check(path, typ.Elem())
		case typ.Kind() == reflect.Slice:
			check(path, typ.Elem())
		case typ.Kind() == reflect.Struct:
			seen := map[string]bool{}
			for i := range typ.NumField() {
				f := typ.Field(i)
				key := f.Tag.Get("yaml")
				if key == "" || seen[key] || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") != "" {
					t.Errorf("%s.%s has the key %q", path, f.Name, key)
				}
				seen[key] = true
				check(join(path, key), f.Type)
			}
		case !slices.Contains([]reflect.Kind{reflect.String, reflect.Bool, reflect.Int, reflect.Float64}, typ.Kind()):
			t.Errorf("%s has the type %s", path, typ)
		}
	}
	check("", reflect.TypeFor[Config]())
}

// notConfigs are the YAML files here that are read by policy, not by Load.
var notConfigs = map[string]bool{"waivers.yaml": true}

// TestExamples loads every configuration file that stands here.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		if notConfigs[file] {
			continue
		}
		t.Run(file, func(t *testing.T) {
			c, err := Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if c.StateDir == "" {
				c.StateDir = "/state"
			}
			if _, err := c.Resolve(none); err != nil {
				t.Error(err)
			}
		})
	}
}
