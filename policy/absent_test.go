package policy

import (
	"strings"
	"testing"
)

// TestAbsentFieldsAreToldOf: a rule that refuses nothing where a field is absent loads, and
// whoever checks the policies is told where and what to write.
func TestAbsentFieldsAreToldOf(t *testing.T) {
	for body, want := range map[string]string{
		`input.image.user == "root"`:                                     `a.rego:4: input.image.user may be absent, and this rule refuses nothing then; read it as object.get(input.image, "user", ...)`,
		`input.image.base.name == "x"`:                                   `a.rego:4: input.image.base may be absent`,
		`input.image.labels["a"] == "b"`:                                 `a.rego:4: input.image.labels may be absent`,
		`object.get(input.image, "user", "") == "root"`:                  ``,
		`not input.image.user`:                                           ``,
		`input.image.digest == "x"`:                                      ``,
		`input.scan.coverage.distro_known == false`:                      ``,
		`count([1 | some s in input.image.signatures; s.verified]) == 0`: ``,
		`{ some f in input.findings; f.kev != "" }`:                      ``,
	} {
		dir := t.TempDir()
		write(t, dir, "a.rego", "package sluice.policies.a\n\nviolations contains {\"policy\": \"a\", \"message\": \"m\"} if {\n"+strings.Trim(body, "{}")+"\n}\n")
		hints := open(t, Config{Dir: dir}).Status().Hints
		if want == "" && len(hints) > 0 || want != "" && (len(hints) != 1 || !strings.Contains(hints[0], want)) {
			t.Errorf("%s: %q", body, hints)
		}
	}
	if hints := open(t, Config{}).Status().Hints; len(hints) > 0 {
		t.Errorf("of the defaults: %q", hints)
	}
}
