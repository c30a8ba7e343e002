package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

func explain(t testing.TB, e *Engine, in Input) Explanation {
	t.Helper()
	d := e.Decide(t.Context(), in)
	x := e.Explain(t.Context(), in, d)
	if again := e.Decide(t.Context(), in); again.ID != d.ID {
		t.Error("an explanation makes what was remembered be forgotten")
	}
	return x
}

// whys is what the silent rules say, a line each.
func whys(x Explanation) []string {
	lines := []string{}
	for _, s := range x.Silent {
		lines = append(lines, fmt.Sprintf("%s.%s %s:%d %s", s.Package, s.Kind, s.File[strings.LastIndexByte(s.File, '/')+1:], s.Line, s.Why))
	}
	return lines
}

const layered = `# METADATA
# title: Layered
package sluice.policies.layered

violations contains {"policy": "small", "message": "too many layers"} if {
	input.scan.state == "complete"
	many := [l | some l in numbers.range(1, input.image.layers); l > 3]
	count(many) > 5
	input.image.user == "root"
}

# Reached by an alias that the index would leave out.
warnings contains {"policy": "arm", "message": "built for arm"} if input.image.platform == "linux/arm64"

warnings contains {"policy": "nameless", "message": sprintf("vendor %s", [input.image.labels.vendor])}

warnings contains {"policy": "always", "message": "as ever", "findings": []}

warnings contains {"policy": "each", "message": f.id} if {
	some f in input.findings
	f.severity == "critical"
	f.epss > 0.99
}
`

// Whoever asks why sees each rule: what spoke, and of the others where they came to an end.
func TestExplainShowsEachRule(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "layered.rego", layered)
	e := open(t, Config{Dir: dir})
	x := explain(t, e, sampleFull())
	if len(x.Rules) != 1 || x.Rules[0].Policy != "always" || x.Rules[0].Blocks {
		t.Errorf("rules that speak: %+v", x.Rules)
	}
	want := []string{
		`layered.violations layered.rego:5 does not hold: count(many) > 5`,
		`layered.warnings layered.rego:13 does not hold: input.image.platform == "linux/arm64"`,
		`layered.warnings layered.rego:15 what it would say is undefined`,
		`layered.warnings layered.rego:19 does not hold: f.epss > 0.99`,
		`scanned.violations scanned.rego:45 does not hold: not scanned`,
	}
	if diff := cmp.Diff(want, whys(x)); diff != "" {
		t.Errorf("rules that don't (-want +got):\n%s", diff)
	}
	if x.Silent[0].Title != "Layered" || x.Note != "" {
		t.Errorf("%+v, note %q", x.Silent[0], x.Note)
	}
}

// The rules of the defaults all have a place, whichever speaks.
func TestExplainDefaults(t *testing.T) {
	e := open(t, Config{})
	for name, in := range map[string]Input{"all": sampleFull(), "nothing": clean(), "not scanned": sampleEmpty()} {
		x := explain(t, e, in)
		spoke := map[string]bool{}
		for _, r := range x.Rules {
			spoke[r.Policy] = true
			if len(r.Changes) == 0 {
				t.Errorf("%s: %s has no change", name, r.Policy)
			}
		}
		if got := len(spoke) + len(x.Silent); got != 6 {
			t.Errorf("%s: %d rules in place of 6: %v and %v", name, got, spoke, whys(x))
		}
		for _, s := range x.Silent {
			if !strings.HasPrefix(s.Why, "does not hold: ") || s.Line == 0 {
				t.Errorf("%s: %+v", name, s)
			}
		}
	}
}

// What a waiver and a VEX document set aside is named, and silences what it is for; what is
// off is shown as that.
func TestExplainExceptions(t *testing.T) {
	dir := t.TempDir()
	kev := finding("CVE-1", "critical", "2025-12-01")
	kev.KEV = "2025-12-02"
	kev.Package.PURL = "pkg:apk/wolfi/openssl@3.0.1"
	other := finding("CVE-2", "critical", "2025-12-01")
	in := with(clean(), kev, other)
	in.Scan.Coverage.DistroEOL = "2020-01-01"
	x := &Exceptions{VEX: []string{write(t, dir, "a.json", vexFor("CVE-1", absent, "pkg:oci/b?repository_url=registry.example/a/b"))}}
	if err := x.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := open(t, Config{
		WaiverFile: write(t, dir, "waivers.yaml", one("advisory: CVE-2")), Exceptions: x,
		Modes: []ModeRule{{Policy: "end_of_life", Mode: Off}},
	})
	got := explain(t, e, in)
	if len(got.Decision.Waived) != 2 || got.Decision.Waived[0].VEX == "" || got.Decision.Waived[1].Waiver == "" || !got.Decision.Allow {
		t.Errorf("set aside: %+v", got.Decision.Waived)
	}
	if len(got.Rules) != 1 || got.Rules[0].Policy != "end_of_life" || got.Rules[0].Mode != Off || got.Rules[0].Blocks {
		t.Errorf("rules: %+v", got.Rules)
	}
	for _, line := range whys(got) {
		if strings.Contains(line, "known_exploited") && strings.HasSuffix(line, "count(exploited) > 0") {
			return
		}
	}
	t.Errorf("the rule that has nothing left to say is missing: %v", whys(got))
}

func TestExplainNobodyAsked(t *testing.T) {
	in := sampleFull()
	e := open(t, Config{Kill: []string{in.Image.Digest}})
	if x := e.Explain(t.Context(), in, e.Decide(t.Context(), in)); !strings.Contains(x.Note, "kill list") || len(x.Rules) != 1 || !x.Rules[0].Blocks || x.Turn != nil {
		t.Errorf("killed: %+v", x)
	}
	e = open(t, Config{Mode: Off})
	if x := e.Explain(t.Context(), in, e.Decide(t.Context(), in)); !strings.Contains(x.Note, "mode is off") || len(x.Rules) != 0 || x.Silent == nil {
		t.Errorf("off: %+v", x)
	}
}

// What updates would do is decided, not guessed.
func TestExplainUpdates(t *testing.T) {
	e := open(t, Config{})
	overdue := finding("CVE-1", "critical", "2025-12-01")
	x := explain(t, e, with(clean(), overdue, finding("CVE-3", "low", "2025-12-01")))
	if diff := cmp.Diff(&Updates{Packages: []string{"openssl 3.0.2"}, Allowed: true}, x.Updates); diff != "" {
		t.Errorf("all fixed (-want +got):\n%s", diff)
	}
	kev := finding("CVE-2", "low", "")
	kev.KEV, kev.Package.Name = "2025-12-01", "curl"
	x = explain(t, e, with(clean(), overdue, kev))
	if x.Updates == nil || x.Updates.Allowed || len(x.Updates.Packages) != 1 {
		t.Errorf("one without a fix: %+v", x.Updates)
	}
	if x = explain(t, e, with(clean(), kev)); x.Updates != nil {
		t.Errorf("none with a fix: %+v", x.Updates)
	}
	if x = explain(t, e, clean()); x.Updates != nil {
		t.Errorf("nothing found: %+v", x.Updates)
	}
}

// When a grace period or a waiver ends is told before it does.
func TestExplainTurn(t *testing.T) {
	dir := t.TempDir()
	young := sampleFull()
	young.Findings, young.Image.Created = nil, "2025-12-31T06:30:00Z"
	waived := with(clean(), finding("CVE-1", "critical", "2025-12-01"))
	for _, tt := range []struct {
		name   string
		c      Config
		in     Input
		at     string
		blocks bool
		by     string
	}{
		{"seven days of grace", Config{}, with(clean(), finding("CVE-1", "critical", "2025-12-28")), "2026-01-04T00:00:00Z", true, "critical_fix_overdue"},
		{"a waiver", Config{WaiverFile: write(t, dir, "w.yaml", strings.ReplaceAll(one("advisory: CVE-1"), "2026-06-30", "2026-01-09T15:20:00Z"))}, waived, "2026-01-09T15:20:00Z", true, "critical_fix_overdue"},
		{"a cooldown", Config{Dir: aloneIn(t, "cooldown")}, young, "2026-01-03T06:30:00Z", false, ""},
		{"nothing", Config{}, clean(), "", false, ""},
		{"denied for good", Config{}, waived, "", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			turn := explain(t, open(t, tt.c), tt.in).Turn
			if turn == nil || tt.at == "" {
				if turn != nil || tt.at != "" {
					t.Fatalf("%+v, want %s", turn, tt.at)
				}
				return
			}
			if turn.At.Format(time.RFC3339) != tt.at || turn.Blocks != tt.blocks || turn.Allow == tt.blocks || strings.Join(policies(turn.Violations), ",") != tt.by {
				t.Errorf("%+v", turn)
			}
		})
	}
}

// An explanation of the largest images stays bearable, and ends with who asked for it.
func TestExplainIsBounded(t *testing.T) {
	e := open(t, Config{})
	in := clean()
	for i := range 2000 {
		in.Findings = append(in.Findings, finding(fmt.Sprintf("CVE-%d", i), "low", ""))
	}
	began := time.Now()
	if x := explain(t, e, in); x.Note != "" || len(x.Silent) != 6 {
		t.Errorf("note %q, %d silent", x.Note, len(x.Silent))
	}
	t.Log(time.Since(began))
	e.explains <- struct{}{} // another is being made
	d := e.Decide(t.Context(), in)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if x := e.Explain(ctx, in, d); len(x.Silent) != 0 || x.Image.Digest != in.Image.Digest {
		t.Errorf("%d silent", len(x.Silent))
	}
}

// A file of the wrong kind, and one that is broken, are named with their line.
func TestTestDir(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "layered.rego", layered)
	write(t, dir, "layered_test.rego", "package sluice.policies.layered_test\n\nimport data.sluice.policies.layered\n\ntest_good if count(layered.warnings) > 0 with input as {}\n\ntest_bad if {\n\tprint(\"seen\")\n\tcount(layered.violations) > 0 with input as {}\n}\n\ntodo_test_later if false\n")
	tests, err := Tests(t.Context(), dir)
	if err != nil || len(tests) != 3 {
		t.Fatalf("%v, %v", tests, err)
	}
	lines := make([]string, len(tests))
	for i, x := range tests {
		lines[i] = strings.TrimPrefix(x.String(), dir+"/")
	}
	want := []string{
		"layered_test.rego:12: test sluice.policies.layered_test.todo_test_later is skipped",
		"layered_test.rego:5: test sluice.policies.layered_test.test_good passed",
		"layered_test.rego:7: test sluice.policies.layered_test.test_bad failed (printed: seen)",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "layered_test.rego:7") {
		t.Errorf("a failed test is no reason to refuse: %v", err)
	}
	bundle := write(t, dir, "b.tar.gz", string(packed(t, bundled())))
	if tests, err := Tests(t.Context(), bundle); err != nil || len(tests) == 0 {
		t.Errorf("a bundle: %v, %v", tests, err)
	}
	write(t, dir, "bad.rego", "package sluice.policies.bad\n\nviolations contains x if {\n")
	if _, err := Tests(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "bad.rego:") {
		t.Errorf("%v", err)
	}
	if _, err := Tests(t.Context(), dir+"/bad.rego"); err == nil || !strings.Contains(err.Error(), "bad.rego: not a tar.gz") {
		t.Errorf("%v", err)
	}
}

func TestPolicies(t *testing.T) {
	ls := open(t, Config{}).Policies()
	if len(ls) != 5 || ls[0].Package != "end_of_life" || ls[0].Title != "End of life" || ls[0].File != "embedded/end_of_life.rego" || ls[0].Description == "" {
		t.Errorf("%+v", ls)
	}
}

func TestChanges(t *testing.T) {
	var many []scan.Finding
	for i := range 8 {
		f := finding(fmt.Sprintf("CVE-%d", i), "high", "2025-12-01")
		f.Package.Name = fmt.Sprintf("p%d", i)
		many = append(many, f)
	}
	many = append(many, finding("CVE-9", "high", ""))
	got := changes(Image{Repository: "a/b c"}, Violation{Policy: "it's", Remediation: "Do it."}, many)
	want := []string{
		"Do it.",
		"Update p0 to 3.0.2 or later, p1 to 3.0.2 or later, p2 to 3.0.2 or later, p3 to 3.0.2 or later, p4 to 3.0.2 or later and 3 more packages; 1 of its findings have no fix.",
		`Waive it, with a reason and an end: sluice waiver add --policy 'it'\''s' --repository 'a/b c' --expires 30d --owner NAME --reason TEXT`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := changes(Image{}, Violation{Policy: PolicyError}, nil); len(got) != 0 {
		t.Errorf("policy_error: %q", got)
	}
}

// The advice is the version of which messages say that it fixes the finding, and not that of
// an older branch: 2.12.2 would be no update of 2.14.1.
func TestFixesNameTheVersionOfTheMessage(t *testing.T) {
	f := finding("CVE-2021-44228", "critical", "2021-12-10")
	f.Package.Name, f.Package.Version, f.Fix.Versions = "log4j-core", "2.14.1", []string{"2.15.0", "2.12.2", "2.3.1"}
	if got := fixes([]scan.Finding{f}); got != "Update log4j-core to 2.15.0 or later." {
		t.Error(got)
	}
}
