package vuln

import (
	"slices"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/version"
	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/file"
	syftpkg "github.com/anchore/syft/syft/pkg"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// severities, from the least to the worst.
var severities = []string{"unknown", "negligible", "low", "medium", "high", "critical"}

// findings turns matches into findings. Several advisories that relate to one CVE in
// one place become one finding, which is as bad as the worst of them.
func (s *session) findings(matches []match.Match, ignored []match.IgnoredMatch) ([]scan.Finding, error) {
	byPlace := make(map[string]*scan.Finding)
	var order []string
	add := func(m match.Match, by *string) error {
		f, err := s.finding(m)
		if err != nil {
			return err
		}
		f.SuppressedBy = by
		key := strings.Join([]string{f.ID, f.Package.Name, f.Package.Version, f.Package.Type, f.Path}, "\x00")
		if have := byPlace[key]; have != nil {
			merge(have, f)
			return nil
		}
		byPlace[key] = &f
		order = append(order, key)
		return nil
	}
	for _, m := range matches {
		if err := add(m, nil); err != nil {
			return nil, err
		}
	}
	for _, m := range ignored {
		by := suppressor(m.AppliedIgnoreRules)
		if by == nil {
			continue
		}
		if err := add(m.Match, by); err != nil {
			return nil, err
		}
	}
	slices.Sort(order)
	out := make([]scan.Finding, 0, len(order))
	for _, key := range order {
		out = append(out, *byPlace[key])
	}
	return out, nil
}

// finding tells one match as fully as the database allows.
func (s *session) finding(m match.Match) (scan.Finding, error) {
	id, aliases := identity(m.Vulnerability)
	f := scan.Finding{
		ID: id, Aliases: aliases, Severity: severities[0],
		Package: scan.Package{Name: m.Package.Name, Version: m.Package.Version, Type: string(m.Package.Type), PURL: m.Package.PURL},
		Fix:     fix(m.Vulnerability.Fix),
		Path:    pathOf(m.Package),
		Layer:   layerOf(m.Package),
	}
	told := map[string]bool{} // CVEs whose KEV and EPSS grype has looked up
	if h, ok := m.Vulnerability.Internal.(*v6.VulnerabilityHandle); ok {
		f.Published = day(h.PublishedDate)
		told[strings.ToUpper(h.Name)] = true
		if h.BlobValue != nil {
			for _, a := range h.BlobValue.Aliases {
				told[strings.ToUpper(a)] = true
			}
		}
	}
	if meta := m.Vulnerability.Metadata; meta != nil {
		rate(&f, meta.Severity, meta.Cvss)
		for _, k := range meta.KnownExploited {
			f.KEV = earlier(f.KEV, s.kevDay(k.DateAdded, k.DueDate))
		}
		for _, e := range meta.EPSS {
			f.EPSS, f.Percentile = max(f.EPSS, e.EPSS), max(f.Percentile, e.Percentile)
		}
	}
	for _, cve := range append([]string{id}, aliases...) {
		if !isCVE(cve) {
			continue
		}
		if err := s.enrich(&f, cve, !told[strings.ToUpper(cve)]); err != nil {
			return f, err
		}
	}
	for _, r := range m.Vulnerability.RelatedVulnerabilities {
		if isCVE(r.ID) {
			continue
		}
		if err := s.relate(&f, r); err != nil {
			return f, err
		}
	}
	return f, nil
}

// identity names a vulnerability by its CVE, where the advisory relates to exactly
// one, and else by the advisory's own ID. The aliases are all other names, sorted.
func identity(v vulnerability.Vulnerability) (id string, aliases []string) {
	names := []string{v.ID}
	for _, r := range v.RelatedVulnerabilities {
		if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, r.ID) }) {
			names = append(names, r.ID)
		}
	}
	id = v.ID
	if !isCVE(id) {
		var cves []string
		for _, n := range names {
			if isCVE(n) {
				cves = append(cves, n)
			}
		}
		if len(cves) == 1 {
			id = cves[0]
		}
	}
	aliases = slices.DeleteFunc(names, func(n string) bool { return n == id })
	slices.Sort(aliases)
	return id, aliases
}

func isCVE(id string) bool {
	return len(id) > 4 && strings.EqualFold(id[:4], "CVE-")
}

// rate raises f to a severity and to the highest of some scores.
func rate(f *scan.Finding, severity string, cvss []vulnerability.Cvss) {
	severity = strings.ToLower(severity)
	if slices.Index(severities, severity) > slices.Index(severities, f.Severity) {
		f.Severity = severity
	}
	for _, c := range cvss {
		f.CVSS = max(f.CVSS, c.Metrics.BaseScore)
	}
}

// fix tells since when the first fix is out. grype names the fixes of all branches
// that an advisory knows, not just of the one installed.
func fix(f vulnerability.Fix) scan.Fix {
	out := scan.Fix{State: string(f.State), Versions: []string{}}
	if out.State == "" {
		out.State = string(vulnerability.FixStateUnknown)
	}
	for _, v := range f.Versions {
		if v != "" && !slices.Contains(out.Versions, v) {
			out.Versions = append(out.Versions, v)
		}
	}
	for _, a := range f.Available {
		out.Available = earlier(out.Available, day(&a.Date))
	}
	return out
}

// merge makes of two tellings of one finding the worse one. It stays suppressed only
// while both are.
func merge(into *scan.Finding, f scan.Finding) {
	for _, a := range f.Aliases {
		if a != into.ID && !slices.Contains(into.Aliases, a) {
			into.Aliases = append(into.Aliases, a)
		}
	}
	slices.Sort(into.Aliases)
	rate(into, f.Severity, nil)
	into.CVSS = max(into.CVSS, f.CVSS)
	into.EPSS, into.Percentile = max(into.EPSS, f.EPSS), max(into.Percentile, f.Percentile)
	into.KEV = earlier(into.KEV, f.KEV)
	into.Published = earlier(into.Published, f.Published)
	if f.SuppressedBy == nil {
		into.SuppressedBy = nil
	}
	states := []string{"unknown", "wont-fix", "not-fixed", "fixed"}
	if slices.Index(states, f.Fix.State) > slices.Index(states, into.Fix.State) {
		into.Fix.State = f.Fix.State
	}
	for _, v := range f.Fix.Versions {
		if !slices.Contains(into.Fix.Versions, v) {
			into.Fix.Versions = append(into.Fix.Versions, v)
		}
	}
	into.Fix.Available = earlier(into.Fix.Available, f.Fix.Available)
}

// suppressor says who holds that a match does not apply, nil where it is not worth
// telling: a package of kernel headers would carry thousands of the kernel's CVEs.
func suppressor(rules []match.IgnoreRule) *string {
	if len(rules) == 0 {
		return nil
	}
	r := rules[0]
	if r.MatchType == match.ExactIndirectMatch && r.Package.UpstreamName != "" {
		return nil
	}
	by := map[string]string{
		"":                       "scanner: known to be a false match",
		"distro-fixed":           "distribution: fixed in the installed version",
		"distro-nak":             "distribution: not affected",
		"Distro Fixed":           "distribution: fixed in the installed version",
		"Distro Not Vulnerable":  "distribution: not affected",
		"Alma Unaffected":        "distribution: not affected",
		"UnaffectedPackageEntry": "advisory: the installed version is not affected",
	}
	said, ok := by[r.Reason]
	if !ok {
		said = "scanner: " + oneLine(r.Reason)
	}
	return &said
}

// place returns where a package was found: where the evidence for it lies, rather
// than what merely supports it.
func place(p pkg.Package) (file.Location, bool) {
	all := p.Locations.ToSlice()
	for _, l := range all {
		if l.Annotations[syftpkg.EvidenceAnnotationKey] == syftpkg.PrimaryEvidenceAnnotation {
			return l, true
		}
	}
	if len(all) == 0 {
		return file.Location{}, false
	}
	return all[0], true
}

func pathOf(p pkg.Package) string {
	l, _ := place(p)
	return l.RealPath
}

// layerOf returns the diff ID of the layer that holds the package, empty when the
// location names none.
func layerOf(p pkg.Package) digest.Digest {
	l, _ := place(p)
	d, err := digest.Parse(l.FileSystemID)
	if err != nil {
		return ""
	}
	return d
}

// semantic are the package types whose advisories speak of semantic versions. grype
// knows no format of such a package's own version, and where it has none that can be
// read, it compares what it finds of numbers and letters.
var semantic = []syftpkg.Type{syftpkg.NpmPkg, syftpkg.RustPkg, syftpkg.DotnetPkg, syftpkg.PhpComposerPkg, syftpkg.HexPkg,
	syftpkg.DartPubPkg, syftpkg.SwiftPkg, syftpkg.CocoapodsPkg}

// readable reports whether the version of p can be compared in its own format.
func readable(p pkg.Package) bool {
	format := pkg.VersionFormat(p)
	if format == version.UnknownFormat && slices.Contains(semantic, p.Type) {
		format = version.SemanticFormat
	}
	return version.New(p.Version, format).Validate() == nil
}

// day formats a date, empty for none.
func day(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

// earlier returns the first of two days, either of which may be empty.
func earlier(a, b string) string {
	if a == "" || (b != "" && b < a) {
		return b
	}
	return a
}

// oneLine cuts a text that may hold a stranger's words to something for a report.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}
