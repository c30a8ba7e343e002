package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluicegate/sluice/scan"
)

const (
	// lineMax keeps the whole line visible: clients cut error bodies, and some show
	// only the first few hundred bytes of one.
	lineMax = 299
	// headerMax is the limit of the distribution specification for all warnings of
	// one response.
	headerMax = 4096

	maxMessage     = 1024 // bytes of one violation's message or remediation
	detailFindings = 20   // findings spelled out in Detail
	detailIDs      = 50   // IDs of one violation in Detail

	detailViolations = 20
)

// Message returns the one line that tells a client why an image is refused: at most
// 299 bytes of printable ASCII that start with "blocked by policy", name the policies
// and the worst findings, and say what to do, and end with the decision's ID where there
// is room. f is where packages and fixes are
// looked up. It is empty where d allows. Clients name the image themselves, so a is
// named only where nothing else is.
func Message(d Decision, a Image, f []scan.Finding) string {
	if d.Allow {
		return ""
	}
	if len(d.binding()) == 0 {
		return clip("blocked by policy: "+word(a.Digest, 100)+" is denied", lineMax)
	}
	f = active(d, f)
	vs := d.binding()
	v := vs[0]
	head := "blocked by policy " + policyNames(vs) + ": "
	tail := ""
	if v.Remediation != "" {
		tail = ". " + word(v.Remediation, 110)
	}
	room := lineMax - len(head) - len(tail)
	body := word(strings.TrimRight(v.Message, ". "), room)
	if len(v.Findings) > 0 {
		body = findingsText(allFindings(vs, f), f, room)
	}
	line := clip(head+body+tail, lineMax)
	if id := " (decision " + word(d.ID, 40) + ")"; d.ID != "" && len(line)+len(id) <= lineMax {
		line += id
	}
	return line
}

// active returns the findings that nobody has set aside. One advisory may be waived
// in one package and hold in another; the message must not name the wrong one.
func active(d Decision, f []scan.Finding) []scan.Finding {
	waived := waivedFindings(d)
	return slices.DeleteFunc(slices.Clone(f), func(f scan.Finding) bool {
		_, ok := waived.find(&f)
		return ok || f.SuppressedBy != nil
	})
}

// policyNames names up to three policies.
func policyNames(vs []Violation) string {
	var names []string
	for _, v := range vs {
		if n := word(v.Policy, 40); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if n := len(names); n > 3 {
		names = append(names[:2], fmt.Sprintf("%d more", n-2))
	}
	return strings.Join(names, ", ")
}

// allFindings returns the IDs of all violations once each, in the order of f, which
// is worst first; what f doesn't know comes last.
func allFindings(vs []Violation, f []scan.Finding) []string {
	left := map[string]bool{}
	for _, v := range vs {
		for _, id := range v.Findings {
			left[id] = true
		}
	}
	var ids []string
	take := func(id string) {
		if left[id] {
			delete(left, id)
			ids = append(ids, id)
		}
	}
	for i := range f {
		take(f[i].ID)
	}
	for _, v := range vs {
		for _, id := range v.Findings {
			take(id)
		}
	}
	return ids
}

// findingsText names as many of the findings as fit, worst first.
func findingsText(ids []string, f []scan.Finding, room int) string {
	const more = len(", and 99999 more")
	s := ""
	for i, id := range ids {
		t := findingText(id, f)
		if i > 0 {
			t = "; " + t
		}
		if i == 3 || len(s)+len(t)+more > room {
			if i == 0 {
				return clip(t, room)
			}
			return s + fmt.Sprintf(", and %d more", len(ids)-i)
		}
		s += t
	}
	return s
}

func findingText(id string, findings []scan.Finding) string {
	for i := range findings {
		f := &findings[i]
		if f.ID != id {
			continue
		}
		t := word(id, 30) + " in " + word(f.Package.Name, 50) + " " + word(f.Package.Version, 30)
		switch {
		case len(f.Fix.Versions) > 0:
			t += ", fixed in " + word(f.Fix.Versions[0], 30)
		case f.Fix.State == "wont-fix":
			t += ", will not be fixed"
		default:
			t += ", no fix yet"
		}
		return t
	}
	return word(id, 30)
}

// Detail returns the JSON object that goes with Message, for programs: the image,
// the violations and the worst findings, all bounded: some 100 KiB at the very most.
func Detail(d Decision, a Image, f []scan.Finding) map[string]any {
	f = active(d, f)
	violations := []Violation{}
	want := map[string]bool{}
	for _, v := range d.Violations[:min(len(d.Violations), detailViolations)] {
		if len(v.Findings) > detailIDs {
			v.Findings = v.Findings[:detailIDs:detailIDs]
		}
		v.Findings = orEmpty(v.Findings)
		for _, id := range v.Findings {
			want[id] = true
		}
		violations = append(violations, v)
	}
	findings := []map[string]any{}
	for i := range f {
		if len(findings) == detailFindings {
			break
		}
		if x := &f[i]; want[x.ID] {
			findings = append(findings, detailFinding(x))
		}
	}
	m := map[string]any{
		"decision":   d.ID,
		"image":      clip(a.Reference, 512),
		"digest":     a.Digest,
		"revision":   d.Revision,
		"violations": violations,
		"findings":   findings,
	}
	if a.Platform != "" {
		m["platform"] = clip(a.Platform, 64)
	}
	if d.Cause != "" {
		m["cause"] = d.Cause
	}
	return m
}

func detailFinding(f *scan.Finding) map[string]any {
	fixed := []string{}
	for _, v := range f.Fix.Versions[:min(len(f.Fix.Versions), 5)] {
		fixed = append(fixed, clip(v, 100))
	}
	m := map[string]any{
		"id":       clip(f.ID, 100),
		"severity": clip(f.Severity, 20),
		"package":  clip(f.Package.Name, 200),
		"version":  clip(f.Package.Version, 100),
		"fixed_in": fixed,
	}
	if f.KEV != "" {
		m["kev"] = clip(f.KEV, 20)
	}
	return m
}

// Warnings returns the value of a Warning header, `299 - "…"`: at most 4096 bytes
// that are safe in a quoted string, or "" where there is nothing to say. Of violations
// in mode Warn it tells that they would block; of those in DryRun clients are told nothing.
func Warnings(d Decision) string {
	var parts []string
	for _, v := range d.Violations {
		if d.modeOf(v) == Warn {
			parts = append(parts, "would be blocked by policy "+v.Policy+": "+v.Message)
		}
	}
	for _, v := range d.Warnings {
		if m := d.modeOf(v); m == Enforce || m == Warn {
			parts = append(parts, v.Policy+": "+v.Message)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	const frame = len(`299 - ""`)
	text := strings.NewReplacer(`"`, "'", `\`, "/").Replace(printable(strings.Join(parts, "; ")))
	return `299 - "` + clip(text, headerMax-frame) + `"`
}

// word makes text of a stranger safe in a line, at most n bytes long.
func word(s string, n int) string { return clip(printable(s), n) }

// printable replaces what is not printable ASCII by "?", each run of it once. It reads
// no more than the longest line can hold.
func printable(s string) string {
	var b strings.Builder
	bad := false
	for i := 0; i < len(s) && b.Len() < headerMax; i++ {
		c := s[i]
		if c >= ' ' && c <= '~' {
			b.WriteByte(c)
			bad = false
			continue
		}
		if !bad {
			b.WriteByte('?')
		}
		bad = true
	}
	return b.String()
}

// clip cuts s to at most n bytes, at a rune's boundary, and marks the cut.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	if n < 4 {
		return ""
	}
	cut := n - 3
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + "..."
}

func quote(s string) string { return fmt.Sprintf("%q", clip(s, 100)) }
