package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

// checkLine holds a line for a client to what every line must be.
func checkLine(t *testing.T, line string) {
	t.Helper()
	if len(line) >= 300 || !strings.HasPrefix(line, "blocked by policy") {
		t.Errorf("%d bytes: %q", len(line), line)
	}
	for i := range len(line) {
		if line[i] < ' ' || line[i] > '~' {
			t.Errorf("byte %d is %#x: %q", i, line[i], line)
			return
		}
	}
}

func denial(vs ...Violation) Decision { return Decision{Mode: Enforce, Violations: vs} }

func TestMessage(t *testing.T) {
	log4j := finding("CVE-2021-44228", "critical", "2021-12-10")
	log4j.Package = scan.Package{Name: "log4j-core", Version: "2.14.1"}
	log4j.Fix.Versions = []string{"2.15.0", "2.12.2"}
	openssl, wont := finding("CVE-2026-1234", "critical", "2025-12-01"), finding("CVE-2026-2", "high", "")
	wont.Fix.State = "wont-fix"
	update := "Pull a newer build of the image, or rebuild it with the fixed packages."
	kev := Violation{Policy: "known_exploited", Message: "m", Findings: []string{"CVE-2021-44228"}, Remediation: update}
	overdue := Violation{Policy: "critical_fix_overdue", Message: "m", Findings: []string{"CVE-2021-44228", "CVE-2026-1234"}, Remediation: update}
	long := overdue
	long.Findings = nil
	many := []scan.Finding{}
	for i := range 700 {
		f := finding(fmt.Sprintf("CVE-2026-%d", i), "critical", "2025-12-01")
		f.Package.Name = strings.Repeat("long-name-", 10)
		many, long.Findings = append(many, f), append(long.Findings, f.ID)
	}
	nasty := finding("CVE-1\r\nX-Evil: 1", "critical", "2025-12-01")
	nasty.Package = scan.Package{Name: "a\"b\\c\x00\x1b[31m\u202eé", Version: strings.Repeat("9", 5000)}
	half := denial(overdue)
	half.Waived = []Waived{{Waiver: "W-1", Finding: "CVE-2021-44228", Package: "log4j-core"}}
	shaded := log4j
	shaded.Package.Name = "shaded-log4j"
	cases := []struct {
		name string
		d    Decision
		f    []scan.Finding
		want string
	}{
		{"allowed", Decision{Allow: true}, nil, ""},
		{"with its ID", Decision{ID: "ABC", Mode: Enforce, Violations: []Violation{kev}}, []scan.Finding{log4j}, "blocked by policy known_exploited: CVE-2021-44228 in log4j-core 2.14.1, fixed in 2.15.0. " + update + " (decision ABC)"},
		{"no reason", denial(), nil, "blocked by policy: sha256:d is denied"},
		{
			"one", denial(kev), []scan.Finding{log4j},
			"blocked by policy known_exploited: CVE-2021-44228 in log4j-core 2.14.1, fixed in 2.15.0. " + update,
		},
		{
			"two policies", denial(kev, overdue), []scan.Finding{log4j, openssl},
			"blocked by policy known_exploited, critical_fix_overdue: CVE-2021-44228 in log4j-core 2.14.1, fixed in 2.15.0; CVE-2026-1234 in openssl 3.0.1, fixed in 3.0.2. " + update,
		},
		{
			"no fix", denial(Violation{Policy: "x", Findings: []string{"CVE-2026-2", "CVE-9"}}), []scan.Finding{wont},
			"blocked by policy x: CVE-2026-2 in openssl 3.0.1, will not be fixed; CVE-9",
		},
		{
			"one package of two is waived", half, []scan.Finding{log4j, shaded, openssl},
			"blocked by policy critical_fix_overdue: CVE-2021-44228 in shaded-log4j 2.14.1, fixed in 2.15.0; CVE-2026-1234 in openssl 3.0.1, fixed in 3.0.2. " + update,
		},
		{
			"many", denial(long), many,
			"blocked by policy critical_fix_overdue: CVE-2026-0 in long-name-long-name-long-name-long-name-long-na... 3.0.1, fixed in 3.0.2, and 699 more. " + update,
		},
		{
			"nasty", denial(Violation{Policy: "x", Findings: []string{nasty.ID}}), []scan.Finding{nasty},
			`blocked by policy x: CVE-1?X-Evil: 1 in a"b\c?[31m? 999999999999999999999999999..., fixed in 3.0.2`,
		},
		{
			"no finding", denial(Violation{Policy: "scan_timeout", Message: "the scan is not finished yet.", Remediation: "Try again."}), nil,
			"blocked by policy scan_timeout: the scan is not finished yet. Try again.",
		},
		{
			"five policies", denial(kev, Violation{Policy: "b"}, Violation{Policy: "c"}, Violation{Policy: "d"}, Violation{Policy: "d"}), []scan.Finding{log4j},
			"blocked by policy known_exploited, b, 2 more: CVE-2021-44228 in log4j-core 2.14.1, fixed in 2.15.0. " + update,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := Message(c.d, Image{Digest: "sha256:d"}, c.f)
			if got != c.want {
				t.Errorf("\ngot  %s\nwant %s", got, c.want)
			}
			if got != "" {
				checkLine(t, got)
			}
		})
	}
}

func TestDetail(t *testing.T) {
	in := inputWith(2000)
	for i := range in.Findings {
		in.Findings[i].Severity, in.Findings[i].KEV = "critical", "2025-01-01"
		in.Findings[i].Package.Version = strings.Repeat("9", 5000)
	}
	d := open(t, Config{}).Decide(context.Background(), in)
	b, err := json.Marshal(Detail(d, in.Image, in.Findings))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Decision   string
		Digest     string
		Violations []Violation
		Findings   []struct{ ID, Package, Version, KEV string }
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(b) > 100<<10 || got.Decision != d.ID || got.Digest != in.Image.Digest || len(got.Violations) != 1 || len(got.Violations[0].Findings) != detailIDs || len(got.Findings) != detailFindings {
		t.Errorf("%d bytes: %.2000s", len(b), b)
	}
	if f := got.Findings[0]; f.ID != "CVE-2025-00000" || f.KEV == "" || len(f.Version) > 100 {
		t.Errorf("finding %+v", f)
	}
	b, err = json.Marshal(Detail(Decision{}, Image{}, nil))
	if want := `{"decision":"","digest":"","findings":[],"image":"","revision":"","violations":[]}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}

func TestWarnings(t *testing.T) {
	w := []Violation{{Policy: "old", Message: "say \"hi\"\r\nX: \\é"}}
	v := []Violation{{Policy: "bad", Message: "no"}}
	for _, c := range []struct {
		d    Decision
		want string
	}{
		{Decision{Allow: true, Mode: Enforce}, ""},
		{Decision{Allow: true, Mode: Enforce, Warnings: w}, `299 - "old: say 'hi'?X: /?"`},
		{Decision{Mode: Warn, Violations: v, Warnings: w}, `299 - "would be blocked by policy bad: no; old: say 'hi'?X: /?"`},
		{Decision{Mode: Enforce, Violations: v}, ""},
		{Decision{Mode: DryRun, Violations: v, Warnings: w}, ""},
		{Decision{Mode: Off, Warnings: w}, ""},
	} {
		if got := Warnings(c.d); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	long := Warnings(Decision{Mode: Enforce, Allow: true, Warnings: []Violation{{Policy: "x", Message: strings.Repeat("m", 9000)}}})
	if len(long) != headerMax || !strings.HasSuffix(long, `..."`) {
		t.Errorf("%d bytes, ends %q", len(long), long[len(long)-10:])
	}
}

// FuzzMessage puts a stranger's texts everywhere.
func FuzzMessage(f *testing.F) {
	f.Add("known_exploited", "message", "do this", "CVE-1", "openssl", "1.0", "1.1", 3)
	f.Add("\x00", "\"\\\r\n", "\u202e", "\xff", strings.Repeat("é", 400), "", "", 1)
	f.Fuzz(func(t *testing.T, policy, message, do, id, name, version, fixed string, n int) {
		var vs []Violation
		var fs []scan.Finding
		for i := range min(max(n, 1), 8) {
			v := Violation{Policy: policy[:len(policy)*i/8], Message: message, Remediation: do}
			if n%2 == 0 {
				v.Findings = []string{id, name}
			}
			vs = append(vs, v)
			fs = append(fs, scan.Finding{ID: id, Package: scan.Package{Name: name, Version: version}, Fix: scan.Fix{Versions: []string{fixed}}})
		}
		d := Decision{Mode: Warn, Violations: vs, Warnings: vs}
		checkLine(t, Message(d, Image{Reference: name, Digest: id}, fs))
		h := Warnings(d)
		inner := strings.TrimSuffix(strings.TrimPrefix(h, `299 - "`), `"`)
		if len(h) > headerMax || len(inner) != len(h)-len(`299 - ""`) || strings.ContainsAny(inner, "\"\\\r\n\x00") {
			t.Errorf("header %q", h)
		}
	})
}

func TestAnswer(t *testing.T) {
	a, b := finding("CVE-1", "critical", "2025-12-01"), finding("CVE-1", "critical", "2025-12-01")
	b.Package.Name = "libssl"
	vex := "VEX"
	c := finding("CVE-2", "high", "")
	c.SuppressedBy = &vex
	in := with(clean(), a, b, c)
	in.Scan.Counts = scan.Counts{Critical: 2}
	e := open(t, Config{WaiverFile: write(t, t.TempDir(), "w.yaml", one("package: openssl"))})
	d := e.Decide(context.Background(), in)
	got := NewAnswer(in, d)
	var by []string
	for _, f := range got.Findings {
		s := ""
		if f.SuppressedBy != nil {
			s = *f.SuppressedBy
		}
		by = append(by, s)
	}
	if diff := cmp.Diff([]string{"waiver W-1", "", "VEX"}, by); diff != "" {
		t.Errorf("suppressed by (-want +got):\n%s", diff)
	}
	if got.Scan.Counts.Critical != 1 || in.Scan.Counts.Critical != 2 || in.Findings[0].SuppressedBy != nil {
		t.Errorf("counts %+v; or the input was changed", got.Scan.Counts)
	}
	raw, err := json.Marshal(NewAnswer(Input{}, Decision{Violations: []Violation{{}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []string{"tags", "problems", "findings", "violations", "warnings", "waived"} {
		if strings.Contains(string(raw), `"`+list+`":null`) {
			t.Errorf("%s is null", list)
		}
	}
}
