package policy

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
)

const cookbook = "cookbook"

// recipes are what each policy of the cookbook must let pass and refuse, through the
// whole engine. Both begin with an image that all of them let pass.
var recipes = map[string]struct {
	refused string // name of the violation, "" for that of the policy
	change  func(*Input)
	passes  func(*Input) // what comes near and still passes
}{
	"severity_fix_grace": {
		change: func(in *Input) { in.Findings = []scan.Finding{scored("critical", "2025-12-20")} },
		passes: func(in *Input) { in.Findings = []scan.Finding{scored("critical", "2025-12-30")} },
	},
	"kev": {
		change: func(in *Input) { in.Findings = []scan.Finding{scored("low", "")}; in.Findings[0].KEV = "2025-12-30" },
		passes: func(in *Input) { in.Findings = []scan.Finding{scored("low", "")} },
	},
	"epss": {
		change: func(in *Input) { in.Findings = []scan.Finding{scored("low", "")}; in.Findings[0].EPSS = 0.2 },
		passes: func(in *Input) { in.Findings = []scan.Finding{scored("low", "")}; in.Findings[0].EPSS = 0.05 },
	},
	"service_levels": {
		change: func(in *Input) { in.Findings = []scan.Finding{scored("medium", "2025-12-01")} },
		passes: func(in *Input) { in.Findings = []scan.Finding{scored("medium", "2025-12-20")} },
	},
	"distribution_end_of_life": {
		change: func(in *Input) { in.Scan.Coverage.Distro, in.Scan.Coverage.DistroEOL = "debian", "2025-12-31" },
		passes: func(in *Input) { in.Scan.Coverage.Distro, in.Scan.Coverage.DistroEOL = "debian", "2026-01-01" },
	},
	"max_age": {
		change: func(in *Input) { in.Image.Created = "2025-06-01T00:00:00Z" },
		passes: func(in *Input) { in.Image.Created = "2025-11-01T00:00:00Z" },
	},
	"cooldown": {
		change: func(in *Input) { in.Image.Created = "2025-12-31T00:00:00Z" },
		passes: func(in *Input) { in.Image.Created = "2025-12-28T00:00:00Z" },
	},
	"non_root": {
		change: func(in *Input) { in.Image.User = "" },
		passes: func(in *Input) { in.Image.User = "nonroot" },
	},
	"license_denied": {
		change: func(in *Input) { in.Packages[0].Licenses = []string{"AGPL-3.0-only"} },
		passes: func(in *Input) { in.Packages[0].Licenses = []string{"AGPL-3.0-only OR MIT"} },
	},
	"approved_base": {
		change: func(in *Input) { in.Image.Base.Name = "docker.io/library/debian:12" },
		passes: func(in *Input) { in.Image.Base.Name = "cgr.dev/chainguard/go:latest" },
	},
	"outdated_base": {
		change: func(in *Input) { in.Image.Base.Outdated = new(bool); *in.Image.Base.Outdated = true },
		passes: func(in *Input) { in.Image.Base.LatestDigest = in.Image.Base.Digest },
	},
	"signed_by": {
		change: func(in *Input) { in.Image.Signatures = nil },
		passes: func(in *Input) { in.Image.Signatures = append([]Signature{{Kind: "key"}}, in.Image.Signatures...) },
	},
	"sbom_attested": {
		change: func(in *Input) { in.Image.Attestations[0].PredicateType = "https://slsa.dev/provenance/v1" },
		passes: func(in *Input) { in.Image.Attestations[0].PredicateType = "https://cyclonedx.org/bom" },
	},
	"unscannable": {
		change: func(in *Input) { in.Scan.State, in.Scan.Cause = scan.Partial, scan.CauseScanFailed },
		passes: func(in *Input) { in.Scan.State = scan.Unsupported },
	},
	"namespace_rules": {
		change: func(in *Input) {
			in.Request.Namespace, in.Findings = "payments", []scan.Finding{scored("high", "2025-12-31")}
		},
		passes: func(in *Input) {
			in.Request.Namespace, in.Findings = "web", []scan.Finding{scored("high", "2025-12-31")}
		},
	},
	"known_before": {
		change: func(in *Input) {
			in.History.PreviouslyAllowed, in.Findings = false, []scan.Finding{scored("critical", "2025-12-31")}
		},
		passes: func(in *Input) { in.Findings = []scan.Finding{scored("critical", "2025-12-31")} },
	},
	"package_denied": {
		change: func(in *Input) { in.Packages[0].Name, in.Packages[0].Version = "xz", "5.6.1" },
		passes: func(in *Input) { in.Packages[0].Name, in.Packages[0].Version = "xz", "5.8.1" },
	},
}

// scored is a finding with a fix since a day, or none, seen yesterday.
func scored(severity, fixed string) scan.Finding {
	f := finding("CVE-2025-1", severity, fixed)
	f.EPSS = 0.01
	return f
}

// approvedOfAll is an image that every policy of the cookbook lets pass.
func approvedOfAll() Input {
	in := clean()
	in.Request.Namespace = "sandbox-1" // whose rule refuses nothing
	in.Image.Created, in.Image.User = "2025-12-15T00:00:00Z", "65532"
	current, verified := false, true
	in.Image.Base = &Base{Name: "cgr.dev/chainguard/python:latest", Digest: killedDigest, LatestDigest: killedDigest, Outdated: &current, Verified: &verified}
	who := Signature{
		Verified: true, Kind: "keyless", Format: "bundle", Subject: in.Image.Digest,
		Issuer:   "https://token.actions.githubusercontent.com",
		Identity: "https://github.com/chainguard-images/images/.github/workflows/release.yaml@refs/heads/main",
	}
	in.Image.Signatures = []Signature{who}
	in.Image.Attestations = []Attestation{{Signature: who, PredicateType: "https://spdx.dev/Document"}}
	in.Packages = []scan.Package{{Name: "a", Version: "1", Type: "apk", Licenses: []string{"MIT"}}}
	in.Scan.Packages = 1
	in.History = History{FirstSeen: "2025-12-01T00:00:00Z", PreviouslyAllowed: true}
	return in
}

// TestCookbook opens all policies of the cookbook together and each by itself, and
// decides with both.
func TestCookbook(t *testing.T) {
	names := cookbookNames(t)
	if len(names) != len(recipes) {
		t.Errorf("the cookbook has %v, and %d are tried here", names, len(recipes))
	}
	all := open(t, Config{Dir: cookbook})
	if d := all.Decide(context.Background(), approvedOfAll()); !d.Allow || len(d.Warnings) > 0 {
		t.Fatalf("what all should let pass is refused: %+v %+v", d.Violations, d.Warnings)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			r, ok := recipes[name]
			if !ok {
				t.Fatal("not tried")
			}
			denied, passed := approvedOfAll(), approvedOfAll()
			r.change(&denied)
			r.passes(&passed)
			alone := open(t, Config{Dir: aloneIn(t, name)})
			for which, e := range map[string]*Engine{"alone": alone, "with the others": all} {
				if d := e.Decide(context.Background(), denied); d.Allow || !slices.Contains(policies(d.Violations), name) {
					t.Errorf("%s: what it should refuse: allow %v, %v", which, d.Allow, d.Violations)
				}
				if d := e.Decide(context.Background(), passed); slices.ContainsFunc(d.Violations, func(v Violation) bool { return v.Policy == name || v.Policy == PolicyError }) {
					t.Errorf("%s: what it should let pass: %v", which, d.Violations)
				}
			}
		})
	}
}

// TestCookbookOnNothing shows every policy the input of an image of which nothing is
// known. What asks for a fact must not take its absence for a good one.
func TestCookbookOnNothing(t *testing.T) {
	must := []string{
		"approved_base", "cooldown", "license_unknown", "max_age", "non_root", "outdated_base_unknown",
		"package_unknown", "sbom_attested", "signed_by", "unscannable",
	}
	in := sampleEmpty()
	in.Scan = scan.Summary{State: scan.Partial, Cause: scan.CauseScanFailed, Packages: 5, Coverage: scan.Coverage{Problems: []scan.Problem{}}}
	d := open(t, Config{Dir: cookbook}).Decide(context.Background(), in)
	if got := policies(d.Violations); !slices.Equal(got, must) {
		t.Errorf("refused by %v, want %v", got, must)
	}
}

// TestCookbookOnArtifacts: a signature or a chart has no user, no age and no signature.
func TestCookbookOnArtifacts(t *testing.T) {
	in := sampleEmpty()
	in.Scan = scan.Summary{State: scan.Unsupported, Coverage: scan.Coverage{DistroKnown: true, Problems: []scan.Problem{}}}
	if d := open(t, Config{Dir: cookbook}).Decide(context.Background(), in); !d.Allow {
		t.Errorf("refused: %v", d.Violations)
	}
}

// TestCookbookIsTested holds each policy to a file of tests, a title and a description,
// and to what it says of parameters.
func TestCookbookIsTested(t *testing.T) {
	for _, name := range cookbookNames(t) {
		text := readFile(t, filepath.Join(cookbook, name+".rego"))
		tests := readFile(t, filepath.Join(cookbook, name+"_test.rego"))
		for _, want := range []string{"# METADATA\n# title: ", "\n# description: ", "\npackage sluice.policies." + name + "\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s.rego has no %q", name, want)
			}
		}
		if strings.Count(tests, "\ntest_") < 3 {
			t.Errorf("%s has fewer than three tests", name)
		}
		if strings.Contains(text, "data.") && !strings.Contains(text, "data.parameters."+name+".") {
			t.Errorf("%s reads data that is not below data.parameters.%s", name, name)
		}
	}
}

// TestCookbookUnderLoad gives all of the policies a big image in the time that a
// decision has.
func TestCookbookUnderLoad(t *testing.T) {
	in := inputWith(500)
	for range 1000 {
		in.Packages = append(in.Packages, scan.Package{Name: "some-package", Version: "1.2.3-r4", Type: "apk", Licenses: []string{"MIT AND (Apache-2.0 OR BSD-3-Clause)"}})
	}
	e := open(t, Config{Dir: cookbook})
	began := time.Now()
	if d := e.Decide(context.Background(), in); d.Cause != "" {
		t.Fatal(d.Violations)
	}
	t.Logf("17 policies, 500 findings, 1,000 packages: %v", time.Since(began))
}

func cookbookNames(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cookbook, "*.rego"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !isTest(f) {
			names = append(names, strings.TrimSuffix(filepath.Base(f), ".rego"))
		}
	}
	return names
}

// aloneIn returns a directory with one policy and its tests.
func aloneIn(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{name + ".rego", name + "_test.rego"} {
		write(t, dir, file, readFile(t, filepath.Join(cookbook, file)))
	}
	return dir
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
