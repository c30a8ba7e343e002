package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// A judgement is how long a decision takes, by how many findings there are.
type judgement struct {
	findings         int
	input            policy.Input
	made, remembered []time.Duration

	bare, cookbook time.Duration // of the policy package's own benchmark; 0 where it wasn't run
}

// decided is how many decisions of each kind are made for a row; a twentieth, with -quick.
const decided = 400

// measureDecisions asks an engine with the built-in policies: each time for another caller,
// and then again and again for one.
func measureDecisions(ctx context.Context, o options) (rows []*judgement, err error) {
	e, err := policy.Open(ctx, policy.Config{})
	if err != nil {
		return nil, err
	}
	n := decided
	if o.quick {
		n /= 20
	}
	for _, findings := range []int{20, 200, 2000} {
		in := invented(findings)
		in.Sum = scan.SumOf(in.Findings) // as a scan has it
		rows = append(rows, &judgement{findings: findings, input: in})
	}
	for i := range n {
		for _, row := range rows {
			if err := row.decide(ctx, e, i); err != nil {
				return nil, err
			}
		}
	}
	return rows, compareDecisions(ctx, rows, n)
}

// compareDecisions runs package policy's benchmark of OPA alone, and of the cookbook.
func compareDecisions(ctx context.Context, rows []*judgement, n int) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkDecide$/^(bare|cookbook)$", "-benchtime", strconv.Itoa(n)+"x", "./policy")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("benchmark of package policy: %w\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "ns/op" {
			continue
		}
		took, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return fmt.Errorf("benchmark of package policy: %q: %w", line, err)
		}
		name, _, _ := strings.Cut(f[0], "-") // of the number of cores
		for _, row := range rows {
			switch name {
			case fmt.Sprintf("BenchmarkDecide/bare/%d", row.findings):
				row.bare = time.Duration(took)
			case fmt.Sprintf("BenchmarkDecide/cookbook/%d", row.findings):
				row.cookbook = time.Duration(took)
			}
		}
	}
	for _, row := range rows {
		if row.bare == 0 || row.cookbook == 0 {
			return fmt.Errorf("benchmark of package policy tells nothing of %d findings:\n%s", row.findings, out)
		}
	}
	return nil
}

func (j *judgement) decide(ctx context.Context, e *policy.Engine, i int) error {
	in := j.input
	in.Request.Caller = strconv.Itoa(i)
	for _, took := range []*[]time.Duration{&j.made, &j.remembered} {
		start := time.Now()
		d := e.Decide(ctx, in)
		*took = append(*took, time.Since(start))
		if d.Cause != "" || d.Allow {
			return errors.New("the built-in policies don't decide as they should: " + d.ID)
		}
	}
	return nil
}

// invented is an image with findings, half of which have a fix that is overdue.
func invented(findings int) policy.Input {
	in := policy.Input{
		Request: policy.Request{Groups: []string{}, Action: "pull"},
		Image:   policy.Image{Reference: "cgr.dev/acme/web:1", Registry: "cgr.dev", Repository: "acme/web", Digest: "sha256:" + strings.Repeat("0", 64), Tags: []string{"1"}},
		Scan:    scan.Summary{State: scan.Complete, Packages: findings, Coverage: scan.Coverage{DistroKnown: true, Problems: []scan.Problem{}}},
		Now:     time.Now(),
	}
	for i := range findings {
		f := scan.Finding{
			ID: fmt.Sprintf("CVE-2025-%05d", i), Aliases: []string{fmt.Sprintf("GHSA-%d", i)}, Severity: []string{"critical", "high", "medium", "low"}[i*4/findings],
			CVSS: 9.8, EPSS: 0.01, Published: "2025-01-01", FirstSeen: "2025-02-01",
			Package: scan.Package{Name: fmt.Sprintf("package-%d", i/3), Version: "1.2.3-r4", Type: "apk", PURL: "pkg:apk/wolfi/package@1.2.3-r4?arch=x86_64"},
			Fix:     scan.Fix{State: "fixed", Versions: []string{"1.2.4-r0"}, Available: "2025-03-01"},
		}
		if i%2 == 1 {
			f.Fix = scan.Fix{State: "not-fixed", Versions: []string{}}
		}
		in.Findings = append(in.Findings, f)
	}
	return in
}

func (r *report) writeDecisions(b *strings.Builder) {
	b.WriteString("Decisions by the built-in policies, in process: medians, and the slowest of a hundred; beside\n" +
		"them means of OPA alone for these policies on input that is converted, and of a decision by\n" +
		"the whole cookbook:\n\n")
	b.WriteString("| findings | made anew | 99 of 100 | remembered | 99 of 100 | OPA alone | the cookbook |\n|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, j := range r.decisions {
		fmt.Fprintf(b, "| %d | **%s** | %s | **%s** | %s | %s | %s |\n", j.findings, fine(median(j.made)), fine(most(j.made)),
			fine(median(j.remembered)), fine(most(j.remembered)), fine(j.bare), fine(j.cookbook))
	}
	b.WriteString("\n")
}

// most is what 99 of 100 don't exceed.
func most(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)*99/100]
}

// fine writes a duration in ms, with the digits that a short one needs.
func fine(d time.Duration) string { return fmt.Sprintf("%.3g ms", d.Seconds()*1000) }
