package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicegate/sluice/scan"
)

// An Explanation says why an image was decided as it was, rule by rule.
type Explanation struct {
	Decision string   `json:"decision"` // its ID
	Allow    bool     `json:"allow"`
	Rules    []Rule   `json:"rules"`  // those that have something to say, the strictest first; never null in JSON
	Waived   []Waived `json:"waived"` // never null in JSON
}

// A Rule is a policy that has something to say about an image.
type Rule struct {
	Policy   string         `json:"policy"`
	Mode     Mode           `json:"mode"`
	Blocks   bool           `json:"blocks"` // it alone is enough for the image to be refused
	Message  string         `json:"message"`
	Findings []scan.Finding `json:"findings"` // that made it speak, one for each advisory and package; never null in JSON
	Changes  []string       `json:"changes"`  // what would silence it, each by itself; never null in JSON
}

// Explain says why the image of an answer was decided as it was.
func Explain(a Answer) Explanation {
	e := Explanation{Decision: a.Decision.ID, Allow: a.Decision.Allow, Rules: []Rule{}, Waived: orEmpty(a.Decision.Waived)}
	for i, vs := range [][]Violation{a.Decision.Violations, a.Decision.Warnings} {
		for _, v := range vs {
			mode := a.Decision.modeOf(v)
			r := Rule{Policy: v.Policy, Mode: mode, Blocks: i == 0 && mode == Enforce, Message: v.Message, Findings: []scan.Finding{}, Changes: []string{}}
			seen := map[[3]string]bool{}
			for _, f := range a.Findings {
				key := [3]string{f.ID, f.Package.Name, f.Package.Version}
				if f.SuppressedBy == nil && slices.Contains(v.Findings, f.ID) && !seen[key] {
					seen[key] = true
					r.Findings = append(r.Findings, f)
				}
			}
			r.Changes = changes(a.Image, v, r.Findings)
			e.Rules = append(e.Rules, r)
		}
	}
	return e
}

// changes says what would silence a violation.
func changes(img Image, v Violation, findings []scan.Finding) []string {
	if v.Policy == KillList {
		return []string{cmp.Or(v.Remediation, "Use another image.")}
	}
	out := []string{}
	if v.Remediation != "" {
		out = append(out, v.Remediation)
	}
	fixes, unfixed := map[string]string{}, 0
	var order []string
	for _, f := range findings {
		if len(f.Fix.Versions) == 0 {
			unfixed++
			continue
		}
		if _, known := fixes[f.Package.Name]; !known {
			order = append(order, f.Package.Name)
		}
		fixes[f.Package.Name] = f.Fix.Versions[len(f.Fix.Versions)-1]
	}
	if len(order) > 0 {
		var parts []string
		for _, name := range order[:min(len(order), 5)] {
			parts = append(parts, name+" to "+fixes[name]+" or later")
		}
		more := ""
		if len(order) > 5 {
			more = fmt.Sprintf(" and %d more packages", len(order)-5)
		}
		s := "Update " + strings.Join(parts, ", ") + more
		if unfixed > 0 {
			s += fmt.Sprintf("; %d of its findings have no fix", unfixed)
		}
		out = append(out, s+".")
	}
	if v.Policy == PolicyError {
		return out // which no waiver sets aside
	}
	scope := "--policy " + shellWord(v.Policy)
	if len(findings) == 1 {
		scope = "--advisory " + shellWord(findings[0].ID) + " --package " + shellWord(findings[0].Package.Name)
	}
	return append(out, fmt.Sprintf("Waive it, with a reason and an end: sluice waiver add %s --repository %s --expires 30d --owner NAME --reason TEXT",
		scope, shellWord(img.Repository)))
}

// shellWord quotes what a shell would read as more than one word.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
