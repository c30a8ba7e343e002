package policy

import (
	"context"
	"strings"
	"testing"
)

// limit denies what has more packages than a data document says.
const limit = `package sluice.policies.limit
import rego.v1
violations contains {"policy": "limit", "message": "too many packages"} if {
	input.scan.packages > data.parameters.limit.packages
}
`

// TestDataDocuments: policies have parameters in documents beside them, and a change of a
// document is a change of the policies.
func TestDataDocuments(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "limit.rego", limit)
	write(t, dir, "limit_test.rego", `package sluice.policies.limit_test
import rego.v1
import data.sluice.policies.limit
test_over if count(limit.violations) == 1 with input as {"scan": {"packages": 101}}
test_under if count(limit.violations) == 0 with input as {"scan": {"packages": 100}}
`)
	write(t, dir, "parameters/limit/data.yaml", "packages: 100 # at most\n")
	write(t, dir, "data.json", `{"parameters": {"other": ["a"]}}`)
	in := clean()
	in.Scan.Packages = 100
	e, h := follow(t, Config{Dir: dir})
	first := e.Revision()
	if !allows(e, in) {
		t.Errorf("denied: %+v", e.Decide(t.Context(), in))
	}
	write(t, dir, "limit_test.rego", "package sluice.policies.limit_test\n")
	h.next(t, changed)
	write(t, dir, "parameters/limit/data.yaml", "packages: 99\n")
	h.next(t, changed)
	if allows(e, in) || e.Revision() == first {
		t.Error("the new parameter has no effect")
	}
	write(t, dir, "parameters/limit/data.yaml", "packages: [99\n")
	if text := h.next(t, refused); !strings.Contains(text, "parameters/limit/data.yaml:1") {
		t.Errorf("a broken document: %s", text)
	}
	if allows(e, in) {
		t.Error("a broken document loosened the policies")
	}
}

// TestBadData: a document that can't be used is refused when it is loaded, with file and
// line and what to do.
func TestBadData(t *testing.T) {
	for name, tt := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"JSON":                   {map[string]string{"data.json": "{\n\"a\": 1,\n}"}, []string{"data.json:3", "well-formed"}},
		"YAML":                   {map[string]string{"data.yaml": "a: 1\na: 2\n"}, []string{"data.yaml:2"}},
		"an alias":               {map[string]string{"data.yml": "a: &x [1]\nb: *x\n"}, []string{"data.yml:1", "aliases"}},
		"no object":              {map[string]string{"data.json": "[1]"}, []string{"data.json", "object"}},
		"twice":                  {map[string]string{"data.json": `{"a": {"b": 1}}`, "a/data.yaml": "b: 2\n"}, []string{"data.a.b", "another"}},
		"a rule's":               {map[string]string{"data.json": `{"sluice": {"policies": {"limit": {"violations": []}}}}`}, []string{"limit.rego", "conflict"}},
		"a slip":                 {map[string]string{"data.json": `{"parameters": {"limit": {"package": 5}}}`}, []string{"limit.rego:4", "data.parameters.limit.packages", "default"}},
		"a slip by another name": {map[string]string{"data.json": ok, "x.rego": "package sluice.policies.x\nimport data.parameters as p\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if input.scan.packages > p.most"}, []string{"x.rego:3", "data.parameters.most"}},
		"a bad date":             {map[string]string{"data.json": `{"parameters": {"since": "2026-13-01", "limit": {"packages": 1}}}`, "since.rego": since}, []string{"since.rego:4", "2026-13-01"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "limit.rego", limit)
			for f, text := range tt.files {
				write(t, dir, f, text)
			}
			_, err := Open(context.Background(), Config{Dir: dir})
			if err == nil {
				t.Fatal("loaded")
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\nwant %q in it", err, w)
				}
			}
		})
	}
}

// ok is data for limit.
const ok = `{"parameters": {"limit": {"packages": 1}}}`

// TestDataThatMayBeMissing: what says what to do without data is loaded without.
func TestDataThatMayBeMissing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "x.rego", `package sluice.policies.x
import rego.v1
default most := 10
most := data.parameters.most
violations contains {"policy": "x", "message": "m"} if {
	not data.parameters.off
	input.scan.packages > most
	input.image.repository in helper.names
}
helper.names contains "acme/web"
`)
	open(t, Config{Dir: dir})
}

// since compares with a date of a data document.
const since = `package sluice.policies.since
import rego.v1
violations contains {"policy": "since", "message": "too old"} if {
	time.parse_ns("2006-01-02", data.parameters.since) > time.now_ns()
}
`

// TestBadDataLater: a date that is read only of some images, and is bad, denies these.
func TestBadDataLater(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "data.json", `{"parameters": {"since": "soon"}}`)
	write(t, dir, "since.rego", strings.Replace(since, "time.parse_ns", "input.image.repository == \"acme/web\"\n\ttime.parse_ns", 1))
	e := open(t, Config{Dir: dir})
	in := clean()
	in.Image.Repository = "acme/web"
	if d := e.Decide(t.Context(), in); d.Allow || d.Violations[0].Policy != PolicyError {
		t.Errorf("%+v", d)
	}
	in.Image.Repository = "acme/other"
	if d := e.Decide(t.Context(), in); !d.Allow {
		t.Errorf("%+v", d)
	}
}
