package policy

import (
	"strings"
	"testing"
)

func TestModesOfPolicies(t *testing.T) {
	m, err := newModes(Warn, []ModeRule{
		{Policy: "known_exploited", Mode: Enforce},
		{Upstream: "docker.io", Repository: "library/**", Mode: Off},
		{Upstream: "docker.io", Mode: DryRun},
		{Policy: "*", Repository: "cgr.dev/acme/free", Mode: Off},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		upstream, repository, policy string
		want, strictest              Mode
	}{
		{"cgr.dev", "acme/web", "other", Warn, Enforce},
		{"cgr.dev", "acme/web", "known_exploited", Enforce, Enforce},
		{"docker.io", "library/alpine", "known_exploited", Enforce, Enforce},
		{"docker.io", "library/alpine", "other", Off, Enforce},
		{"docker.io", "acme/web", PolicyError, DryRun, Enforce},
		{"cgr.dev", "acme/free", "other", Off, Enforce},
		{"cgr.dev", "acme/free", PolicyError, Warn, Enforce},
	} {
		if got := m.of(tc.upstream, tc.repository, tc.policy); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
		if got := m.strictest(tc.upstream, tc.repository); got != tc.strictest {
			t.Errorf("%+v: strictest %s", tc, got)
		}
	}
	if _, err := newModes(Enforce, []ModeRule{{Mode: "loud"}}); err == nil || !strings.Contains(err.Error(), `rule 1: "loud"`) {
		t.Error(err)
	}
}

// What is only warned of stands behind what blocks, and the line for the client names
// what blocks alone.
func TestMixedModes(t *testing.T) {
	e := open(t, Config{Modes: []ModeRule{{Policy: "known_exploited", Mode: Warn}, {Policy: "high_fix_overdue", Mode: DryRun}, {Policy: "severity_unknown", Mode: Off}}})
	d := e.Decide(t.Context(), sampleFull())
	if !d.Blocks() || d.Mode != Enforce || len(d.Violations) < 2 || d.Violations[len(d.Violations)-1].Mode != Warn {
		t.Fatalf("%+v", d)
	}
	if line := Message(d, Image{}, sampleFull().Findings); strings.Contains(line, "known_exploited") || !strings.HasPrefix(line, "blocked by policy ") {
		t.Error(line)
	}
	for _, v := range d.Warnings {
		if v.Policy == "severity_unknown" {
			t.Error("a policy that is off warns")
		}
	}
	d.Violations = d.Violations[len(d.Violations)-1:]
	d.Mode = Warn
	if w := Warnings(d); !strings.Contains(w, "would be blocked by policy known_exploited") || strings.Contains(w, "high_fix_overdue") || d.Blocks() {
		t.Error(w)
	}
	plain := open(t, Config{})
	if e.Revision() == plain.Revision() {
		t.Error("a mode that changes leaves the revision")
	}
}
