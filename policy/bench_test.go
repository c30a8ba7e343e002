package policy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"

	"github.com/sluicegate/sluice/scan"
)

// inputWith returns an image with n findings of all severities, overdue and not.
func inputWith(n int) Input {
	in := sampleFull()
	in.Findings = nil
	severities := []string{"critical", "high", "medium", "low", "negligible", "unknown"}
	for i := range n {
		f := scan.Finding{
			ID: fmt.Sprintf("CVE-2025-%05d", i), Aliases: []string{fmt.Sprintf("GHSA-%d", i)}, Severity: severities[i*len(severities)/n],
			CVSS: 9.8, EPSS: 0.01, Published: "2025-01-01", FirstSeen: "2025-02-01",
			Package: scan.Package{Name: fmt.Sprintf("package-%d", i/3), Version: "1.2.3-r4", Type: "apk", PURL: "pkg:apk/wolfi/package@1.2.3-r4?arch=x86_64"},
			Fix:     scan.Fix{State: "fixed", Versions: []string{"1.2.4-r0"}, Available: "2025-12-28"},
			Layer:   "sha256:0000000000000000000000000000000000000000000000000000000000000000", Path: "/usr/lib/apk/db/installed",
		}
		if i%2 == 1 {
			f.Fix = scan.Fix{State: "not-fixed", Versions: []string{}}
		}
		in.Findings = append(in.Findings, f)
	}
	in.Sum = scan.SumOf(in.Findings) // as a gateway has it
	return in
}

// BenchmarkDecide measures a decision that is made, by the number of findings, and
// one that is remembered; beside them what OPA alone takes for the policies, and a decision
// by all of the cookbook. Waivers are there in the number of a big organisation.
func BenchmarkDecide(b *testing.B) {
	var w strings.Builder
	w.WriteString("waivers:\n")
	for i := range 500 {
		fmt.Fprintf(&w, "  - {id: W%d, owner: o, reason: r, expires: 2030-01-01, scope: {advisory: CVE-2020-%d, repository: a/*}}\n", i, i)
	}
	file := write(b, b.TempDir(), "waivers.yaml", w.String())
	e, err := Open(context.Background(), Config{WaiverFile: file})
	if err != nil {
		b.Fatal(err)
	}
	book, err := Open(context.Background(), Config{Dir: "cookbook", Timeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{20, 200, 2000} {
		in := inputWith(n)
		b.Run(fmt.Sprintf("bare/%d", n), func(b *testing.B) { // OPA alone, on input that is converted
			b.ReportAllocs()
			input, err := inputValue(&in, in.Findings)
			if err != nil {
				b.Fatal(err)
			}
			query := e.snapshot().program.query
			for range b.N {
				if rs, err := query.Eval(context.Background(), rego.EvalParsedInput(input), rego.EvalTime(in.Now)); err != nil || len(rs) != 1 {
					b.Fatal(rs, err)
				}
			}
		})
		b.Run(fmt.Sprintf("cookbook/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				in.Request.Caller = fmt.Sprint(i)
				if d := book.Decide(context.Background(), in); d.Cause != "" {
					b.Fatal(d.Violations)
				}
			}
		})
		b.Run(fmt.Sprintf("made/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				in.Request.Caller = fmt.Sprint(i)
				if d := e.Decide(context.Background(), in); d.Cause != "" {
					b.Fatal(d.Violations)
				}
			}
		})
		in.Request.Caller = "same"
		in.Now = in.Now.Add(time.Hour)
		b.Run(fmt.Sprintf("remembered/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if d := e.Decide(context.Background(), in); d.Cause != "" {
					b.Fatal(d.Violations)
				}
			}
		})
	}
}
