package policy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// quiet is a policy that is well, beside those that are not.
const quiet = `package sluice.policies.quiet

violations contains {"policy": "quiet", "message": "m"} if input.image.digest == "never"
`

const said = `violations contains {"policy": "x", "message": "m"} if `

// TestPoliciesThatWouldDecideNothing: what looks like a policy and would not be asked is
// an error with file and line, beside others that are well.
func TestPoliciesThatWouldDecideNothing(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"deeper than its package": {"x.rego", "package sluice.policies.x\n\nwarnings contains {\"policy\": \"x\", \"message\": \"m\"} if false\n\ny.violations contains {\"policy\": \"y\", \"message\": \"m\"}\n", "x.rego:5: nobody asks for y.violations"},
		"from above":              {"x.rego", "package sluice\n\npolicies.x.violations contains {\"policy\": \"y\", \"message\": \"m\"}\n", "x.rego:3: nobody asks for policies.x.violations"},
		"misspelt":                {"x.rego", "package sluice.policies.x\n\nviolation contains {\"policy\": \"x\", \"message\": \"m\"}\n\nwarnings contains {\"policy\": \"x\", \"message\": \"m\"} if false\n", "x.rego:3: nobody asks for the rule violation"},
		"of another engine":       {"x.rego", "package acme\n\ndeny contains \"no\"\n", "x.rego:3: nobody asks for the rule deny"},
		"among the tests":         {"penetration_test.rego", "package sluice.policies.x\n\n" + said + "true\n", "penetration_test.rego:3: a file named *_test.rego holds tests"},
		"in capitals":             {"X.REGO", "package sluice.policies.x\n\n" + said + "true\n", "X.REGO would not be read"},
	} {
		dir := t.TempDir()
		write(t, dir, "quiet.rego", quiet)
		write(t, dir, c.file, c.text)
		for of, err := range map[string]error{"open": openError(dir), "test": testError(dir)} {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, %s: %v, want %q", name, of, err, c.want)
			}
		}
	}
	for name, text := range map[string]string{
		"that is referred to": "package sluice.policies.x\n\ndeny contains 1 if input.image.digest == \"never\"\n\n" + said + "count(deny) > 0\n",
		"in a library":        "package acme.lib\n\nwarn contains 1\n",
	} {
		dir := t.TempDir()
		write(t, dir, "quiet.rego", quiet)
		write(t, dir, "x.rego", text)
		if err := openError(dir); err != nil {
			t.Errorf("a rule %s: %v", name, err)
		}
	}
}

func openError(dir string) error {
	_, err := Open(context.Background(), Config{Dir: dir})
	return err
}

func testError(dir string) error {
	_, err := Tests(context.Background(), dir)
	return err
}

// TestMisspeltFieldsThatOPADoesNotSee: a field of the input that there is none of is an
// error also where it is a key of object.get, in a function, or under every.
func TestMisspeltFieldsThatOPADoesNotSee(t *testing.T) {
	const lib = "package sluice.lib\n\nbad(f) if f.sevrity == \"high\"\n\nfixed(f) if object.get(f.fix, \"stat\", \"\") == \"fixed\"\n"
	for text, want := range map[string]string{
		said + `object.get(input.image, "usr", "") == "root"`:                                                                       `x.rego:5: rego_type_error: undefined ref: input.image.usr`,
		said + `object.get(object.get(input, "image", {}), "user", "") == "root"`:                                                   ``,
		said + `not object.get(input.scan.coverage, "distro_knwon", false)`:                                                         `undefined ref: input.scan.coverage.distro_knwon`,
		said + `{ some f in input.findings; object.get(f, "kve", "") != "" }`:                                                       `undefined ref: f.kve`,
		said + `{ some f in input.findings; bad(f) }` + "\n\nbad(x) if x.sevrity == \"high\"":                                       `undefined ref: f.sevrity`,
		said + `{ some f in input.findings; bad(f) }` + "\n\nbad(x) if lib.bad(x)":                                                  `undefined ref: f.sevrity`,
		said + `{ some f in input.findings; lib.fixed(f) }`:                                                                         `undefined ref: f.fix.stat`,
		said + `{ every f in input.findings { lib.bad(f) } }`:                                                                       `undefined ref: f.sevrity`,
		said + `{ every i, f in input.findings { f.sevrity == sprintf("%d", [i]) } }`:                                               `undefined ref: f.sevrity`,
		said + `count([1 | some f in input.findings; not lib.bad(f)]) > 0`:                                                          `undefined ref: f.sevrity`,
		said + `object.get(input.image, "user", null) == null`:                                                                      ``,
		said + `object.get(input.image.labels, "a", "") == "c"`:                                                                     ``,
		said + `{ some e in list; object.get(e, "c", 3) == 4 }` + "\n\nlist := [{\"a\": 1}, {\"b\": 2}]":                            ``,
		said + `{ some a in input.image.attestations; made(a.predicate) }` + "\n\nmade(p) if p.build.kind":                          ``,
		said + `{ some f in input.findings; of(f) == of(f.package) }` + "\n\nof(x) := x.id\n\nof(x) := x.name if x.version != \"\"": ``,
	} {
		dir := t.TempDir()
		write(t, dir, "x.rego", "package sluice.policies.x\n\nimport data.sluice.lib\n\n"+text+"\n\nuses := lib\n")
		write(t, dir, "lib.rego", lib)
		err := openError(dir)
		if want == "" && err != nil && strings.Contains(err.Error(), "undefined ref") || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}

// TestPoliciesBehindLinks: folders that are links, as those of a ConfigMap with items in
// folders are, hold policies like others; one that leads in a circle is an error.
func TestPoliciesBehindLinks(t *testing.T) {
	root := t.TempDir()
	write(t, root, "..1/rules/tame.rego", tame)
	write(t, root, "..1/parameters/data.yaml", "a: 1\n")
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/rules", "rules")
	link("..data/parameters", "parameters")
	write(t, root, "quiet.rego", quiet+"\nviolations contains {\"policy\": \"one\", \"message\": \"m\"} if data.parameters.a == 2\n")
	e, h := follow(t, Config{Dir: root})
	in := clean()
	in.Request.Caller = "denied"
	if allows(e, in) {
		t.Error("a policy in a folder that is a link is passed over")
	}
	write(t, root, "..1/rules/tame.rego", strings.Replace(tame, "denied", "nobody", 1))
	h.next(t, changed)
	if !allows(e, in) {
		t.Error("a change in a folder that is a link is not seen")
	}
	link(".", "circle")
	if err := openError(root); err == nil || !strings.Contains(err.Error(), "does a link lead to a folder above it?") {
		t.Errorf("a circle: %v", err)
	}
}

// TestLiteralsThatAFieldNeverHas: a rule that compares a field with what it never is would
// be loaded and refuse nothing.
func TestLiteralsThatAFieldNeverHas(t *testing.T) {
	const wrong = `x.rego:5: f.severity is never "Critical": it is one of critical, high, low, medium, negligible, unknown; did you mean "critical"?`
	const lib = "package sluice.lib\n\nbad(f) if f.severity == \"Hihg\"\n"
	for text, want := range map[string]string{
		said + `{ some f in input.findings; f.severity == "Critical" }`:                                               wrong,
		said + `{ some f in input.findings; "Critical" = f.severity }`:                                                wrong,
		said + `{ some f in input.findings; f.severity != "Critical" }`:                                               wrong,
		said + `{ some f in input.findings; f.severity in {"Critical", "high"} }`:                                     wrong,
		said + `{ some f in input.findings; object.get(f, "severity", "") == "Critical" }`:                            wrong,
		said + `{ every f in input.findings { f.severity == "Critical" } }`:                                           wrong,
		said + `count([f | some f in input.findings; f.severity == "Critical"]) > 0`:                                  wrong,
		said + `{ some f in input.findings; f.severity in levels }` + "\n\nlevels := [\"Critical\"]":                  wrong,
		said + `{ some f in input.findings; days[f.severity] > 3 }` + "\n\ndefault days := {\"Critical\": 3}":         wrong,
		said + `{ some f in input.findings; worst := "Critical"; f.severity == worst }`:                               wrong,
		said + `{ some f in input.findings; s := f.severity; s == "Critical" }`:                                       `x.rego:5: s is never "Critical"`,
		said + `input.findings[_].severity == "CRITICAL"`:                                                             `input.findings[_].severity is never "CRITICAL"`,
		said + `{ some f in input.findings; lib.bad(f) }`:                                                             `f.severity is never "Hihg": it is one of critical, high, low, medium, negligible, unknown; did you mean "high"?`,
		said + `{ some f in input.findings; high(f) }` + "\n\nhigh(x) if x.cvss >= \"7\"":                             `f.cvss is a number, and here is compared with the string "7"; write it without quotes`,
		said + `{ some f in input.findings; f.cvss > "7" }`:                                                           `x.rego:5: f.cvss is a number, and here is compared with the string "7"; write it without quotes`,
		said + `{ some f in input.findings; f.fix.state == "Fixed" }`:                                                 `did you mean "fixed"?`,
		said + `{ some f in input.findings; f.kev > 1 }`:                                                              `f.kev is a string, and here is compared with the number 1`,
		said + `{ some f in input.findings; f.kev == true }`:                                                          `x.rego:5: rego_type_error: match error`,
		said + `input.history.previously_allowed == "false"`:                                                          `x.rego:5: rego_type_error: match error`,
		said + `input.image.tags[_] == 1`:                                                                             `x.rego:5: rego_type_error: match error`,
		said + `input.scan.state == "unscanned"`:                                                                      `input.scan.state is never "unscanned": it is one of complete, failed,`,
		said + `input.scan.cause == "timeout"`:                                                                        `input.scan.cause is never "timeout"`,
		said + `not input.scan.state in {"complete", "Unsupported"}`:                                                  `input.scan.state is never "Unsupported"`,
		said + `{ some f in input.findings; f.severity == "critical"; f.cvss > 7; f.fix.state != "wont-fix" }`:        ``,
		said + `{ some f in input.findings; lower(f.severity) == "critical"; upper(f.severity) == "CRITICAL" }`:       ``,
		said + `{ some f in input.findings; f.suppressed_by != null; object.get(f, "kev", null) == null }`:            ``,
		said + `{ some f in input.findings; object.get(f, "kev", false) == false }`:                                   ``,
		said + `object.get(input.scan, "cause", "none") in {"none", "scan_failed"}`:                                   ``,
		said + `{ some f in input.findings; rank[f.severity] > 1 }` + "\n\nrank := {\"critical\": 2, \"high\": 1}":    ``,
		said + `{ some f in [{"severity": "Critical"}]; f.severity == "Critical" }`:                                   ``,
		said + `{ some a in input.image.attestations; a.predicate.severity == "Critical" }`:                           ``,
		said + `{ some f in input.findings; is(f.severity, "Critical") }` + "\n\nis(a, b) if lower(b) == a":           ``,
		said + `{ input.image.labels.tier == "Critical"; input.scan.counts.critical > 0; input.scan.cause == "" }`:    ``,
		said + `{ some severity, n in input.scan.counts; weight[severity] * n > 9 }` + "\n\nweight := {\"other\": 1}": ``,
	} {
		dir := t.TempDir()
		write(t, dir, "x.rego", "package sluice.policies.x\n\nimport data.sluice.lib\n\n"+text+"\n\nuses := lib\n")
		if strings.Contains(text, "lib.bad") {
			write(t, dir, "lib.rego", lib)
		} else {
			write(t, dir, "lib.rego", "package sluice.lib\n\nnothing := 1\n")
		}
		for of, err := range map[string]error{"open": openError(dir), "test": testError(dir)} {
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: %s\n%v\nwant %q", of, text, err, want)
			}
		}
	}
}
