package policy

import (
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

// What a policy reads must be told from its text: a part that is left out by mistake is
// one that the policy holds for absent.
func TestNeeds(t *testing.T) {
	for _, tt := range []struct {
		name, rule string
		needs      []string
	}{
		{"nothing of it", `p if input.image.user == "root"`, nil},
		{"a reference", `p if count(input.packages) > 0`, []string{NeedPackages}},
		{"an element", `p if { some x in input.packages; x.name == "a" }`, []string{NeedPackages}},
		{"a key in brackets", `p if input["image"]["signatures"][_].verified`, []string{NeedSignatures}},
		{"inside another call", `p if { count([a | some a in input.image.attestations; a.verified]) == 0 }`, []string{NeedAttestations}},
		{"object.get of a name", `p if object.get(input.image, "user", "") == ""`, nil},
		{"object.get of a part", `p if object.get(input.image, "signatures", []) == []`, []string{NeedSignatures}},
		{"object.get of the root", `p if object.get(input, "packages", []) == []`, []string{NeedPackages}},
		{"object.get as a statement", `p if { object.get(input.image, "base", {}) }`, []string{NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"object.get with a default of the input", `p if object.get(input.image, "user", input.packages) == ""`, []string{NeedPackages}},
		{"object.get of a variable", `p if { some k in ["user"]; object.get(input.image, k, "") == "" }`, []string{NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"object.get of a path", `p if object.get(input, ["image", "user"], "") == ""`, []string{NeedPackages, NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"an object that is kept", `p if { i := input.image; i.user == "" }`, []string{NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"the whole input", `p if f(input)`, []string{NeedPackages, NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"a variable for a name", `p if { some k; input[k] == 1 }`, []string{NeedPackages, NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"a reference in a reference", `p if input.image.labels[input.packages[0].name]`, []string{NeedPackages}},
		{"an import", "import input.image as i\np if i.user", []string{NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
		{"an import of a part", "import input.packages\np if packages[0]", []string{NeedPackages}},
		{"a rule's head", `p contains input.packages[0].name if true`, []string{NeedPackages}},
		{"a default value's comprehension", `p := {x | some x in input.packages}`, []string{NeedPackages}},
		{"every", `p if every x in input.packages { x.name != "" }`, []string{NeedPackages}},
		{"a part of a part", `p if input.image.base.outdated`, []string{NeedBaseOutdated}},
		{"another part of a part", `p if input.image.base.name == ""`, nil},
		{"licences of findings", `p if { some f in input.findings; f["package"].licenses }`, []string{NeedLicenses}},
		{"with", `p if q with input as {}`, []string{NeedPackages, NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := ast.ParseModuleWithOpts("p.rego", "package p\n"+tt.rule, ast.ParserOptions{RegoVersion: ast.RegoV1})
			if err != nil {
				t.Fatal(err)
			}
			n := needsOf(map[string]*ast.Module{"p.rego": m})
			want := map[string]bool{}
			for _, w := range tt.needs {
				want[w] = true
			}
			for _, part := range []string{NeedPackages, NeedLicenses, NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified} {
				if n.has(part) != want[part] {
					t.Errorf("needs %s: %v", part, n.has(part))
				}
			}
		})
	}
}

func TestDefaultsNeedNothingMore(t *testing.T) {
	e := open(t, Config{})
	for _, part := range []string{NeedPackages, NeedLicenses, NeedSignatures, NeedAttestations, NeedBaseLatest, NeedBaseOutdated, NeedBaseVerified} {
		if e.Needs(part) {
			t.Errorf("the defaults need %s", part)
		}
	}
}
