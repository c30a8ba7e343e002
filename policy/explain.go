package policy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/sluicegate/sluice/scan"
)

// An Explanation says why an image was decided as it was, rule by rule, and what would
// change that. Its JSON is that of the Answer with more fields.
type Explanation struct {
	Answer
	Rules   []Rule   `json:"rules"`             // those that have something to say, the strictest first; never null in JSON
	Silent  []Silent `json:"silent"`            // the others; never null in JSON
	Note    string   `json:"note,omitempty"`    // why there are no others
	Updates *Updates `json:"updates,omitempty"` // absent where no update would silence a rule that blocks
	Turn    *Turn    `json:"turn,omitempty"`    // absent where time alone changes nothing within 30 days
}

// A Rule is a policy that has something to say about an image.
type Rule struct {
	Policy   string         `json:"policy"`
	Mode     Mode           `json:"mode"`   // off: it is not counted here
	Blocks   bool           `json:"blocks"` // it alone is enough for the image to be refused
	Message  string         `json:"message"`
	Findings []scan.Finding `json:"findings"` // that made it speak, one for each advisory and package; never null in JSON
	Changes  []string       `json:"changes"`  // what would silence it, each by itself; never null in JSON
}

// Updates are new versions of all packages for which a rule blocks and there is a fix.
type Updates struct {
	Packages []string `json:"packages"` // openssl 3.0.2, worst first
	Allowed  bool     `json:"allowed"`  // with all of them the image is not blocked
}

// Explain says which rules made the decision of an answer what it is.
func Explain(a Answer) Explanation {
	e := Explanation{Answer: a, Rules: []Rule{}, Silent: []Silent{}}
	for i, vs := range [][]Violation{a.Decision.Violations, a.Decision.Warnings} {
		for _, v := range vs {
			e.Rules = append(e.Rules, ruleOf(a, v, i == 0))
		}
	}
	return e
}

// ruleOf explains one violation or warning.
func ruleOf(a Answer, v Violation, denies bool) Rule {
	mode := a.Decision.modeOf(v)
	r := Rule{Policy: v.Policy, Mode: mode, Blocks: denies && mode == Enforce, Message: v.Message, Findings: []scan.Finding{}}
	seen := map[[3]string]bool{}
	for _, f := range a.Findings {
		key := [3]string{f.ID, f.Package.Name, f.Package.Version}
		if f.SuppressedBy == nil && slices.Contains(v.Findings, f.ID) && !seen[key] {
			seen[key] = true
			r.Findings = append(r.Findings, f)
		}
	}
	r.Changes = changes(a.Image, v, r.Findings)
	return r
}

// Explain says why d was decided from in, and what would change it: for that it decides
// some forty times more, one explanation at a time. Where ctx ends, or something changed
// since, it says what it knows.
func (e *Engine) Explain(ctx context.Context, in Input, d Decision) Explanation {
	x := Explain(NewAnswer(in, d))
	s := e.snapshot()
	switch {
	case slices.ContainsFunc(d.Violations, func(v Violation) bool { return v.Policy == KillList }):
		x.Note = "no policy was asked: the kill list comes before all of them"
		return x
	case d.Mode == Off:
		x.Note = "no policy was asked: the mode is off here"
		return x
	case d.Cause == scan.CausePolicyError:
		x.Note = "the policies could not decide; the gateway's log names file and line"
		return x
	}
	select {
	case e.explains <- struct{}{}:
		defer func() { <-e.explains }()
	case <-ctx.Done():
		return x
	}
	if in.Now.IsZero() {
		in.Now = e.c.Now()
	}
	in.Now = in.Now.UTC()
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	active, _ := s.suppress(&in, s.waivers.active(&in))
	silent, err := s.program.silent(ctx, &in, active)
	if err != nil {
		x.Note = "which rules have nothing to say could not be found out: " + clip(err.Error(), 200)
		return x
	}
	x.Silent = silent
	if out, err := s.program.eval(ctx, &in, active, patience*e.c.Timeout); err == nil {
		for i, vs := range [][]Violation{out.violations, out.warnings} {
			for _, v := range vs {
				if v.Mode = e.modes.of(in.Image.Registry, in.Image.Repository, v.Policy); v.Mode == Off {
					x.Rules = append(x.Rules, ruleOf(x.Answer, v, i == 0))
				}
			}
		}
	}
	s.missedVEX(&in, x.Rules)
	x.Updates = e.updates(ctx, s, in, x)
	x.Turn = e.turn(ctx, s, in, d)
	return x
}

// updates decides about the image as it would be with the packages updated for which a
// rule blocks.
func (e *Engine) updates(ctx context.Context, s *snapshot, in Input, x Explanation) *Updates {
	var names []string
	updated := map[[2]string]bool{}
	for _, r := range x.Rules {
		for _, f := range r.Findings {
			if id := [2]string{f.Package.Name, f.Package.Version}; r.Blocks && len(f.Fix.Versions) > 0 && !updated[id] {
				updated[id] = true
				names = append(names, f.Package.Name+" "+f.Fix.Versions[0])
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	var left []scan.Finding
	for _, f := range in.Findings {
		if len(f.Fix.Versions) > 0 && updated[[2]string{f.Package.Name, f.Package.Version}] {
			uncount(&in.Scan.Counts, f.Severity)
			continue
		}
		left = append(left, f)
	}
	in.Findings = left
	d, err := e.replay(ctx, s, in)
	if err != nil {
		return nil
	}
	return &Updates{Packages: names, Allowed: !d.Blocks()}
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
	if s := fixes(findings); s != "" {
		out = append(out, s)
	}
	if v.Policy == PolicyError {
		return out // which no waiver sets aside
	}
	scope := "--policy " + shellWord(v.Policy)
	if len(findings) == 1 {
		scope = "--advisory " + shellWord(findings[0].ID) + " --package " + shellWord(findings[0].Package.Name)
	}
	if img.Repository != "" {
		scope += " --repository " + shellWord(img.Repository)
	}
	return append(out, fmt.Sprintf("Waive it, with a reason and an end: sluice waiver add %s --expires 30d --owner NAME --reason TEXT", scope))
}

// maxFixes is how many packages one change names.
const maxFixes = 5

// fixes names the versions that fix findings, "" where none has a fix.
func fixes(findings []scan.Finding) string {
	to, unfixed := map[string]string{}, 0
	var order []string
	for _, f := range findings {
		if len(f.Fix.Versions) == 0 {
			unfixed++
			continue
		}
		if _, known := to[f.Package.Name]; !known {
			order = append(order, f.Package.Name)
		}
		to[f.Package.Name] = f.Fix.Versions[0]
	}
	if len(order) == 0 {
		return ""
	}
	var parts []string
	for _, name := range order[:min(len(order), maxFixes)] {
		parts = append(parts, name+" to "+to[name]+" or later")
	}
	s := "Update " + strings.Join(parts, ", ")
	if more := len(order) - maxFixes; more > 0 {
		s += fmt.Sprintf(" and %d more packages", more)
	}
	if unfixed > 0 {
		s += fmt.Sprintf("; %d of its findings have no fix", unfixed)
	}
	return s + "."
}

// shellWord quotes what a shell would read as more than one word.
func shellWord(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
