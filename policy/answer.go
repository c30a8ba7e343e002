package policy

import (
	"slices"

	"github.com/sluicegate/sluice/scan"
)

// NewAnswer returns all there is to say about the image of in, decided as d. Its
// findings are those of in, waived ones marked with who suppressed them and no
// longer counted. No slice of it is nil; in is not changed.
func NewAnswer(in Input, d Decision) Answer {
	a := Answer{Image: in.Image, Scan: in.Scan, Findings: slices.Clone(in.Findings), Decision: d}
	if a.Findings == nil {
		a.Findings = []scan.Finding{}
	}
	by := waivedFindings(d)
	for i := range a.Findings {
		f := &a.Findings[i]
		f.Aliases, f.Fix.Versions = orEmpty(f.Aliases), orEmpty(f.Fix.Versions)
		if f.SuppressedBy != nil {
			continue
		}
		if who, ok := by.find(f); ok {
			f.SuppressedBy = &who
			uncount(&a.Scan.Counts, f.Severity)
		}
	}
	a.Image.Tags = orEmpty(a.Image.Tags)
	a.Scan.Coverage.Problems = orEmpty(a.Scan.Coverage.Problems)
	a.Decision.Violations = nonNil(d.Violations)
	a.Decision.Warnings = nonNil(d.Warnings)
	a.Decision.Waived = orEmpty(d.Waived)
	return a
}

// setAside maps the findings that a decision sets aside to who says so: by ID and
// package's name for waivers, and its package URL too for VEX.
type setAside map[[3]string]string

func waivedFindings(d Decision) setAside {
	by := setAside{}
	for i := range d.Waived {
		if w := &d.Waived[i]; w.Finding != "" {
			by[[3]string{w.Finding, w.Package, w.PURL}] = w.by()
		}
	}
	return by
}

func (s setAside) find(f *scan.Finding) (who string, ok bool) {
	if who, ok = s[[3]string{f.ID, f.Package.Name, f.Package.PURL}]; !ok {
		who, ok = s[[3]string{f.ID, f.Package.Name, ""}]
	}
	return who, ok
}

func nonNil(vs []Violation) []Violation {
	vs = orEmpty(slices.Clone(vs))
	for i := range vs {
		vs[i].Findings = orEmpty(vs[i].Findings)
	}
	return vs
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// uncount takes one finding out of the counts.
func uncount(c *scan.Counts, severity string) {
	n := &c.Unknown
	switch severity {
	case "critical":
		n = &c.Critical
	case "high":
		n = &c.High
	case "medium":
		n = &c.Medium
	case "low":
		n = &c.Low
	case "negligible":
		n = &c.Negligible
	}
	if *n > 0 {
		*n--
	}
}
