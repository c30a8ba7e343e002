package policy

import (
	"context"
	"strings"
	"testing"
	"time"
)

// Manifests as organisations write them for Chainguard's registry.
const (
	ripe = `name: ripe
description: Refuses images younger than some days.
supported_resource_type: registry.chainguard.dev/Repo@v1
expression_type: EXPRESSION_TYPE_REGO
parameters:
  - name: days
    type: PARAMETER_TYPE_INTEGER
    description: How old an image must be.
    default: 7
    minimum: 1
    maximum: 365
expression: |
  package chainguard.policies

  import rego.v1

  default allow := false

  unused_by_all := 1

  allow if {
    born := time.parse_rfc3339_ns(input.create_time)
    time.now_ns() - born >= input.parameters.days * 24 * 60 * 60 * 1000000000
  }
`
	alive = `name: alive
supported_resource_type: Repo
expression: |
  package chainguard.policies
  default allow := false
  allow if not input.main_package_version.eolDate
  allow if time.parse_ns("2006-01-02", input.main_package_version.eolDate) > time.now_ns()
`
	picked = `name: picked
description: Only these packages.
supported_resource_type: registry.chainguard.dev/Repo@v1
parameters:
  - {name: packages, type: PARAMETER_TYPE_STRING_LIST, required: true}
  - {name: channel, type: PARAMETER_TYPE_STRING, default: stable, allowed_values: [stable, edge]}
  - {name: lts, type: PARAMETER_TYPE_BOOLEAN, default: false}
expression: |
  package chainguard.policies
  allow if {
    input.main_package in input.parameters.packages
    right_version
  }
  right_version if not input.parameters.lts
  right_version if input.main_package_version.lts
`
)

// chainguardDir has files and a policy of ours.
func chainguardDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "tame.rego", tame)
	for name, text := range files {
		write(t, dir, name, text)
	}
	return dir
}

func lifecycleData(text string) string {
	return `{"chainguard": {"lifecycle": {"python-3.12": ` + text + `}, "parameters": {"picked": {"packages": ["python-3.12"]}}}}`
}

// aged is an image of python that was made some days ago.
func aged(days int) Input {
	in := clean()
	in.Image.Created = in.Now.AddDate(0, 0, -days).Format(time.RFC3339)
	in.Image.Labels = map[string]string{mainPackageKey: "python-3.12"}
	return in
}

// says are the violations of a decision by policy.
func says(d Decision) map[string]string {
	m := map[string]string{}
	for _, v := range d.Violations {
		m[v.Policy] = v.Message + " → " + v.Remediation
	}
	return m
}

// TestChainguardPolicies: manifests decide beside policies of ours, by what is known of an
// image; what they read and nobody knows is an ERROR, which denies.
func TestChainguardPolicies(t *testing.T) {
	unlabelled := aged(30)
	unlabelled.Image.Labels = nil
	undated := aged(30)
	undated.Image.Created = ""
	misdated := aged(30)
	misdated.Image.Created = "yesterday"
	annotated := aged(30)
	annotated.Image.Annotations = map[string]string{createdKey: annotated.Now.Format(time.RFC3339)}
	for name, tt := range map[string]struct {
		in   Input
		data string
		want map[string]string // policies that refuse it, and a part of what they say
	}{
		"all is well":                   {aged(30), lifecycleData(`{"version": "3.12", "eolDate": "2199-01-01"}`), nil},
		"no end of life is recorded":    {aged(30), lifecycleData(`{"version": "3.12"}`), nil},
		"too young":                     {aged(6), lifecycleData(`{}`), map[string]string{"ripe": "Refuses images younger than some days."}},
		"by its annotation":             {annotated, lifecycleData(`{}`), map[string]string{"ripe": "Refuses images"}},
		"past its end":                  {aged(30), lifecycleData(`{"eolDate": "2000-01-01"}`), map[string]string{"alive": "alive does not allow the image"}},
		"an end that can't be read":     {aged(30), lifecycleData(`{"eolDate": "soon"}`), map[string]string{"alive": "ERROR: the policy can't be evaluated for this image (line 7 of alive.yaml)"}},
		"nobody knows the version":      {aged(30), `{"chainguard": {"parameters": {"picked": {"packages": ["python-3.12"]}}}}`, map[string]string{"alive": "ERROR: the gateway doesn't know input.main_package_version", "picked": "data.chainguard.lifecycle"}},
		"nobody knows what it is":       {unlabelled, lifecycleData(`{}`), map[string]string{"alive": "main_package_version", "picked": "input.main_package of this image"}},
		"nobody knows when it was made": {undated, lifecycleData(`{}`), map[string]string{"ripe": "input.create_time of this image → Pull an image with the annotation"}},
		"a date that is none":           {misdated, lifecycleData(`{}`), map[string]string{"ripe": "input.create_time"}},
		"not picked":                    {aged(30), strings.Replace(lifecycleData(`{}`), `["python-3.12"]`, `["go"]`, 1), map[string]string{"picked": "Only these packages."}},
		"another parameter":             {aged(30), strings.Replace(lifecycleData(`{}`), `"parameters": {`, `"parameters": {"ripe": {"days": 60}, `, 1), map[string]string{"ripe": "Refuses"}},
		"an undefined outcome":          {aged(30), strings.Replace(lifecycleData(`{}`), `"packages"`, `"lts": true, "packages"`, 1), map[string]string{"picked": "Only"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := chainguardDir(t, map[string]string{"ripe.yaml": ripe, "alive.yaml": alive, "more/picked.yml": picked, "data.json": tt.data, "kustomization.yaml": "resources: [x]\n"})
			e := open(t, Config{Dir: dir})
			d := e.Decide(t.Context(), tt.in)
			got := says(d)
			if len(got) != len(tt.want) || d.Allow != (len(tt.want) == 0) || d.Cause != "" {
				t.Errorf("%+v, want %v", d, tt.want)
			}
			for policy, text := range tt.want {
				if !strings.Contains(got[policy], text) {
					t.Errorf("%s says %q, want %q", policy, got[policy], text)
				}
			}
		})
	}
}

// TestChainguardPoliciesAreLikeOurs: they have modes and can be waived, are listed, come in
// bundles and without any of ours; a change of one is a change of the policies.
func TestChainguardPoliciesAreLikeOurs(t *testing.T) {
	in := aged(1)
	dir := chainguardDir(t, map[string]string{"ripe.yaml": ripe})
	e, h := follow(t, Config{Dir: dir, Modes: []ModeRule{{Policy: "ripe", Mode: Warn}}})
	if d := e.Decide(t.Context(), in); d.Blocks() || d.Allow || d.Mode != Warn {
		t.Errorf("in warn: %+v", d)
	}
	if l := e.Policies(); len(l) != 3 || l[2].Package != "ripe" || !strings.HasSuffix(l[2].File, "ripe.yaml") || e.Status().Policies != 3 {
		t.Errorf("%+v", l)
	}
	write(t, dir, "ripe.yaml", strings.Replace(ripe, "default: 7", "default: 1", 1))
	h.next(t, changed)
	if d := e.Decide(t.Context(), in); !d.Allow {
		t.Errorf("after a change: %+v", d)
	}
	waivers := write(t, t.TempDir(), "w.yaml", "waivers:\n  - {id: W, owner: o, reason: r, expires: 2999-01-01, scope: {policy: ripe}}\n")
	bundle := write(t, t.TempDir(), "b.tar.gz", string(packed(t, map[string]string{"p/ripe.yaml": ripe})))
	e = open(t, Config{Bundle: bundle, WaiverFile: waivers})
	if d := e.Decide(t.Context(), in); !d.Allow || len(d.Waived) != 1 {
		t.Errorf("waived: %+v", d)
	}
	e = open(t, Config{Bundle: bundle})
	if d := e.Decide(t.Context(), in); d.Allow {
		t.Errorf("alone: %+v", d)
	}
}

// TestBadManifests: one that can't be used is refused when it is loaded, with its file, the
// line in the manifest, and what is wrong.
func TestBadManifests(t *testing.T) {
	for name, tt := range map[string]struct {
		text, data string
		want       []string
	}{
		"no name":             {strings.Replace(ripe, "name: ripe", `name: ""`, 1), "", []string{"x.yaml", "name"}},
		"a name of ours":      {strings.Replace(ripe, "name: ripe", "name: policy_error", 1), "", []string{"belongs to the gateway"}},
		"an unknown key":      {ripe + "severity: high\n", "", []string{"x.yaml:25", "severity"}},
		"for libraries":       {strings.Replace(ripe, "registry.chainguard.dev/Repo@v1", "libraries.chainguard.dev/NPMPackage@v1", 1), "", []string{"serves images"}},
		"another language":    {strings.Replace(ripe, "TYPE_REGO", "TYPE_CEL", 1), "", []string{"EXPRESSION_TYPE_REGO"}},
		"another package":     {strings.Replace(ripe, "package chainguard.policies", "package mine", 1), "", []string{"x.yaml:13", "want chainguard.policies"}},
		"no allow":            {strings.ReplaceAll(ripe, "allow", "permit"), "", []string{"no rule named allow"}},
		"a misspelt field":    {strings.Replace(ripe, "input.create_time", "input.created_time", 1), "", []string{"x.yaml:22", "undefined ref: input.created_time"}},
		"a parameter of none": {strings.Replace(ripe, "input.parameters.days", "input.parameters.day", 1), "", []string{"x.yaml:23", "input.parameters.day"}},
		"network":             {strings.Replace(ripe, "default allow := false", `default allow := http.send({"url": "http://a", "method": "GET"}).body`, 1), "", []string{"x.yaml:17", "http.send"}},
		"syntax":              {strings.Replace(ripe, "allow if {", "allow if {{", 1), "", []string{"x.yaml:", "rego_parse_error"}},
		"a type of none":      {strings.Replace(ripe, "TYPE_INTEGER", "TYPE_FLOAT", 1), "", []string{"parameters[0].type", "PARAMETER_TYPE_INTEGER"}},
		"a default too small": {strings.Replace(ripe, "default: 7", "default: 0", 1), "", []string{"the default of parameter days", "under the minimum, 1"}},
		"a value too large":   {ripe, `{"chainguard": {"parameters": {"ripe": {"days": 366}}}}`, []string{`data.chainguard.parameters["ripe"].days`, "over the maximum, 365"}},
		"a fraction":          {ripe, `{"chainguard": {"parameters": {"ripe": {"days": 7.5}}}}`, []string{"7.5 is no PARAMETER_TYPE_INTEGER"}},
		"a value of none":     {ripe, `{"chainguard": {"parameters": {"ripe": {"weeks": 1}}}}`, []string{"weeks", "declares no such parameter"}},
		"a value for nobody":  {ripe, `{"chainguard": {"parameters": {"rope": {"days": 1}}}}`, []string{`"rope"`, "no such policy"}},
		"a required one":      {picked, "", []string{"parameter packages is required", `data.chainguard.parameters["picked"].packages`}},
		"not allowed":         {picked, `{"chainguard": {"parameters": {"picked": {"packages": ["a"], "channel": "nightly"}}}}`, []string{"nightly is none of allowed_values"}},
		"not a list":          {picked, `{"chainguard": {"parameters": {"picked": {"packages": "a"}}}}`, []string{`"a" is no PARAMETER_TYPE_STRING_LIST`}},
		"two in one file":     {ripe + "---\n" + alive, "", []string{"x.yaml", "more than one document"}},
		"only a comment":      {"# supported_resource_type: Repo\n", "", []string{"x.yaml"}},
		"its name is taken":   {ripe, "", []string{"is that of", "y.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"x.yaml": tt.text}
			if tt.data != "" {
				files["data.json"] = tt.data
			}
			if name == "its name is taken" {
				files["y.yaml"] = ripe
			}
			_, err := Open(context.Background(), Config{Dir: chainguardDir(t, files)})
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

// TestManifestsAreNotPassedOver: neither their form nor their file's name keeps them from
// deciding, and one without its manifest is an error.
func TestManifestsAreNotPassedOver(t *testing.T) {
	expression := `package chainguard.policies\nallow if input.create_time == \"never\"`
	for name, text := range map[string]string{
		"first.yaml": "supported_resource_type: Repo\nname: x\nexpression: \"" + expression + "\"\n",
		"flow.yml":   `{name: x, "supported_resource_type": Repo, expression: "` + expression + `"}`,
		"x.json":     `{"name": "x", "supported_resource_type": "Repo", "expression": "` + expression + `"}`,
		"dos.yaml":   "name: x\r\nsupported_resource_type: Repo\r\nexpression: \"" + expression + "\"\r\n",
	} {
		e := open(t, Config{Dir: chainguardDir(t, map[string]string{name: text})})
		if d := e.Decide(t.Context(), aged(30)); d.Allow {
			t.Errorf("%s is passed over", name)
		}
	}
	_, err := Open(context.Background(), Config{Dir: chainguardDir(t, map[string]string{"raw.rego": "package chainguard.policies\nallow if false\n"})})
	if err == nil || !strings.Contains(err.Error(), "raw.rego:1: package chainguard.policies counts in a manifest") {
		t.Error(err)
	}
}

// TestChainguardPolicyWithoutEnd: one that takes too long denies, as any policy does.
func TestChainguardPolicyWithoutEnd(t *testing.T) {
	endless := strings.Replace(ripe, "default allow := false", "default allow := false\n  allow if { input.create_time; some i, j in numbers.range(1, 30000); some k in numbers.range(1, 30000); i + j + k < 0 }", 1)
	dir := chainguardDir(t, map[string]string{"x.yaml": endless})
	if _, err := Open(context.Background(), Config{Dir: dir, Timeout: 500 * time.Millisecond}); err == nil || !strings.Contains(err.Error(), "x.yaml") {
		t.Errorf("loaded: %v", err)
	}
}

// One of them that allows the image is named among the rules that have nothing to say.
func TestChainguardPoliciesAreExplained(t *testing.T) {
	e := open(t, Config{Dir: chainguardDir(t, map[string]string{"ripe.yaml": ripe})})
	for _, s := range explain(t, e, aged(30)).Silent {
		if s.Package == "ripe" {
			if !strings.HasSuffix(s.File, "ripe.yaml") || s.Line < 2 || s.Why != "allows the image" {
				t.Errorf("%+v", s)
			}
			return
		}
	}
	t.Error("it is not there")
}
