package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// said is what the grype command says, as far as it is compared.
type said struct {
	Matches        []row
	IgnoredMatches []row
}

// A row is one match.
type row struct {
	Vulnerability          record
	RelatedVulnerabilities []record
	Artifact               struct {
		Name, Version, Type, PURL string
		Locations                 []struct {
			Path, LayerID string
			Annotations   map[string]string
		}
	}
	AppliedIgnoreRules []struct {
		Reason    string
		MatchType string `json:"match-type"`
		Package   *struct {
			UpstreamName string `json:"upstream-name"`
		}
	}
}

// A record is what the database says of a vulnerability.
type record struct {
	ID, Namespace, Severity string
	CVSS                    []struct{ Metrics struct{ BaseScore float64 } }
	KnownExploited          []struct{ DateAdded, DueDate string }
	EPSS                    []struct{ EPSS, Percentile float64 }
	Fix                     struct {
		State     string
		Versions  []string
		Available []struct{ Date string }
	}
}

// unsaid are the fields of a finding that the command doesn't print: they can't be
// compared.
func unsaid(f scan.Finding) scan.Finding {
	f.Published, f.FirstSeen = "", ""
	f.Aliases, f.Fix.Versions = slices.Sorted(slices.Values(f.Aliases)), slices.Sorted(slices.Values(f.Fix.Versions))
	return f
}

// diffFindings returns where the gateway's findings are not what the command's rows
// make, a line each.
func diffFindings(want []scan.Finding, got []scan.Finding) (out []string) {
	index := func(fs []scan.Finding) map[string]scan.Finding {
		m := map[string]scan.Finding{}
		for _, f := range fs {
			m[place(f)] = unsaid(f)
		}
		return m
	}
	w, g := index(want), index(got)
	if len(g) != len(got) {
		out = append(out, fmt.Sprintf("%d of the findings stand twice", len(got)-len(g)))
	}
	for _, key := range slices.Sorted(maps.Keys(w)) {
		if f, ok := g[key]; !ok {
			out = append(out, "only grype finds "+tell(w[key]))
		} else if d := gocmp.Diff(w[key], f); d != "" {
			out = append(out, fmt.Sprintf("%s (-grype +ours):\n%s", tell(f), d))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(g)) {
		if _, ok := w[key]; !ok {
			out = append(out, "grype doesn't find "+tell(g[key]))
		}
	}
	return out
}

func tell(f scan.Finding) string {
	s := fmt.Sprintf("%s in %s %s (%s) at %s", f.ID, f.Package.Name, f.Package.Version, f.Package.Type, f.Path)
	if f.SuppressedBy != nil {
		s += ", suppressed: " + *f.SuppressedBy
	}
	return s
}

func place(f scan.Finding) string {
	return strings.Join([]string{f.ID, f.Package.Name, f.Package.Version, f.Package.Type, f.Path}, "\x00")
}

// expected makes findings of the command's rows, by these rules:
//
//   - A row is known by its CVE where it relates to exactly one, else by its own ID; its
//     other names are aliases.
//   - Rows of one name, package, version, type and path are one finding: the worst
//     severity, score and probability, all fixes, the first date; the fix state is the most
//     hopeful; it is suppressed where all of them are.
//   - The path and layer are those of the package's primary evidence, else of its first
//     location.
//   - An advisory without a severity has that of its CVE in NVD's data, or else that of
//     another advisory that it relates to, with the scores. Known exploitation and its
//     probability are taken from all of them.
//   - Ignored rows are suppressed, and say why; those of kernel headers, which would carry
//     all of the kernel's, are left out.
func expected(s *said) []scan.Finding {
	byPlace := map[string]*scan.Finding{}
	take := func(r row, by *string) {
		f := r.finding()
		f.SuppressedBy = by
		if have := byPlace[place(f)]; have != nil {
			worse(have, f)
			return
		}
		byPlace[place(f)] = &f
	}
	for _, r := range s.Matches {
		take(r, nil)
	}
	for _, r := range s.IgnoredMatches {
		if by := r.suppressed(); by != "" {
			take(r, &by)
		}
	}
	var out []scan.Finding
	for _, key := range slices.Sorted(maps.Keys(byPlace)) {
		out = append(out, *byPlace[key])
	}
	return out
}

func (r row) finding() scan.Finding {
	a := r.Artifact
	f := scan.Finding{
		Severity: strings.ToLower(r.Vulnerability.Severity),
		Package:  scan.Package{Name: a.Name, Version: a.Version, Type: a.Type, PURL: a.PURL},
		Fix:      scan.Fix{State: cmp.Or(r.Vulnerability.Fix.State, "unknown"), Versions: r.Vulnerability.Fix.Versions},
	}
	for _, d := range r.Vulnerability.Fix.Available {
		f.Fix.Available = first(f.Fix.Available, d.Date)
	}
	for i, l := range a.Locations {
		if primary := l.Annotations["evidence"] == "primary"; i == 0 || primary {
			f.Path, f.Layer = l.Path, digest.Digest(l.LayerID)
			if primary {
				break
			}
		}
	}
	r.name(&f)
	r.rate(&f)
	return f
}

// name sets the ID and the aliases.
func (r row) name(f *scan.Finding) {
	names := []string{r.Vulnerability.ID}
	var cves []string
	for _, v := range append([]record{r.Vulnerability}, r.RelatedVulnerabilities...) {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, v.ID) }) {
			names = append(names, v.ID)
		}
		if strings.HasPrefix(v.ID, "CVE-") && !slices.Contains(cves, v.ID) {
			cves = append(cves, v.ID)
		}
	}
	f.ID = r.Vulnerability.ID
	if !strings.HasPrefix(f.ID, "CVE-") && len(cves) == 1 {
		f.ID = cves[0]
	}
	f.Aliases = slices.DeleteFunc(names, func(n string) bool { return n == f.ID })
}

// rate sets severity, scores and what is known of exploitation. NVD's word counts where
// the advisory has none, then that of other advisories, and what is known of the CVE by
// itself.
func (r row) rate(f *scan.Finding) {
	score := func(v record) {
		for _, c := range v.CVSS {
			f.CVSS = max(f.CVSS, c.Metrics.BaseScore)
		}
	}
	score(r.Vulnerability)
	for _, v := range append([]record{r.Vulnerability}, r.RelatedVulnerabilities...) {
		for _, k := range v.KnownExploited {
			f.KEV = first(f.KEV, cmp.Or(k.DateAdded, k.DueDate))
		}
		for _, e := range v.EPSS {
			f.EPSS, f.Percentile = max(f.EPSS, e.EPSS), max(f.Percentile, e.Percentile)
		}
	}
	if f.Severity == "" {
		f.Severity = "unknown"
	}
	for _, nvd := range []bool{true, false} {
		for _, v := range r.RelatedVulnerabilities {
			if f.Severity == "unknown" && (v.Namespace == "nvd:cpe") == nvd {
				f.Severity = cmp.Or(strings.ToLower(v.Severity), "unknown")
				score(v)
			}
		}
	}
}

// reasons are how findings tell grype's reasons to ignore a row.
var reasons = map[string]string{
	"":                       "scanner: known to be a false match",
	"distro-fixed":           "distribution: fixed in the installed version",
	"distro-nak":             "distribution: not affected",
	"Distro Fixed":           "distribution: fixed in the installed version",
	"Distro Not Vulnerable":  "distribution: not affected",
	"Alma Unaffected":        "distribution: not affected",
	"UnaffectedPackageEntry": "advisory: the installed version is not affected",
}

// suppressed says why a row is ignored, "" for one of kernel headers.
func (r row) suppressed() string {
	if len(r.AppliedIgnoreRules) == 0 {
		return "scanner: says nothing"
	}
	rule := r.AppliedIgnoreRules[0]
	if rule.MatchType == "exact-indirect-match" && rule.Package != nil && rule.Package.UpstreamName != "" {
		return ""
	}
	return cmp.Or(reasons[rule.Reason], "scanner: "+rule.Reason)
}

// worse makes of two rows of one finding the worse one.
func worse(into *scan.Finding, f scan.Finding) {
	rank := func(order []string, a, b string) string {
		if slices.Index(order, b) > slices.Index(order, a) {
			return b
		}
		return a
	}
	into.Severity = rank([]string{"unknown", "negligible", "low", "medium", "high", "critical"}, into.Severity, f.Severity)
	into.Fix.State = rank([]string{"unknown", "wont-fix", "not-fixed", "fixed"}, into.Fix.State, f.Fix.State)
	into.CVSS, into.EPSS, into.Percentile = max(into.CVSS, f.CVSS), max(into.EPSS, f.EPSS), max(into.Percentile, f.Percentile)
	into.KEV, into.Fix.Available = first(into.KEV, f.KEV), first(into.Fix.Available, f.Fix.Available)
	into.Aliases = union(into.Aliases, f.Aliases)
	into.Fix.Versions = union(into.Fix.Versions, f.Fix.Versions)
	if f.SuppressedBy == nil {
		into.SuppressedBy = nil
	}
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// first returns the earlier of two days, either of which may be empty.
func first(a, b string) string {
	if a == "" || b != "" && b < a {
		return b
	}
	return a
}
