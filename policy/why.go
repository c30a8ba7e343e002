package policy

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/sluicegate/sluice/scan"
)

// A Silent is a rule that has nothing to say of an image.
type Silent struct {
	Package string `json:"package"` // below sluice.policies, or the name of one of Chainguard's
	Title   string `json:"title,omitempty"`
	Kind    string `json:"kind"` // violations or warnings
	File    string `json:"file"`
	Line    int    `json:"line"`
	Why     string `json:"why"` // the condition that did not hold, as the file has it
}

// A ruleSpot is where a rule that adds violations or warnings stands.
type ruleSpot struct {
	Silent
	start, end int      // offsets in the file
	conditions []string // of its body, in order
	offsets    []int    // of each
}

// spotsOf finds the rules of modules, which must be as they were parsed: a compiler
// breaks up their conditions.
func spotsOf(modules map[string]*ast.Module, listings []Listing) (spots []ruleSpot) {
	for file, m := range modules {
		pkg, below := packageBelow(m.Package)
		if !below {
			continue
		}
		title := ""
		if i := slices.IndexFunc(listings, func(l Listing) bool { return l.Package == pkg }); i >= 0 {
			title = listings[i].Title
		}
		for i, r := range m.Rules {
			kind := strings.Trim(r.Head.Ref()[0].String(), `"`)
			if kind != "violations" && kind != "warnings" {
				continue
			}
			s := ruleSpot{Silent: Silent{Package: pkg, Title: title, Kind: kind, File: file, Line: r.Loc().Row}, start: r.Loc().Offset, end: int(^uint(0) >> 1)}
			if i+1 < len(m.Rules) {
				s.end = m.Rules[i+1].Loc().Offset
			}
			for _, x := range r.Body {
				if x.Loc().Offset <= s.start { // a rule without conditions has one that nobody wrote
					continue
				}
				s.conditions = append(s.conditions, conditionText(x))
				s.offsets = append(s.offsets, x.Loc().Offset)
			}
			spots = append(spots, s)
		}
	}
	slices.SortFunc(spots, func(a, b ruleSpot) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line)
	})
	return spots
}

// conditionText is a condition as people wrote it, in one line.
func conditionText(x *ast.Expr) string {
	text := string(x.Loc().Text)
	if text == "" {
		text = x.String()
	}
	return clip(strings.Join(strings.Fields(text), " "), 200)
}

// silent asks all policies about in once more and returns the rules that add nothing, with
// the condition on which each came to its end.
func (p *program) silent(ctx context.Context, in *Input, active []scan.Finding) ([]Silent, error) {
	input, err := inputValue(in, active)
	if err != nil {
		return nil, err
	}
	t := &whyTracer{spots: p.spots, spoke: make([]bool, len(p.spots)), failed: make([]int, len(p.spots))}
	for i := range t.failed {
		t.failed[i] = -1
	}
	// Without the index, which would leave out rules that it knows not to hold.
	_, err = p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(in.Now), rego.EvalQueryTracer(t), rego.EvalRuleIndexing(false))
	if err != nil {
		return nil, err
	}
	out := []Silent{}
	for i, s := range p.spots {
		if t.spoke[i] {
			continue
		}
		s.Why = "what it would say is undefined"
		if n := t.failed[i]; n >= 0 {
			s.Why = "does not hold: " + s.conditions[n]
		}
		out = append(out, s.Silent)
	}
	for _, m := range p.manifests {
		v, err := m.judge(ctx, in, p.data)
		if err != nil {
			return nil, err
		}
		if v == nil {
			out = append(out, Silent{Package: m.Name, Title: clip(m.Description, 100), Kind: "violations", File: m.file, Line: m.line, Why: "allows the image"})
		}
	}
	return out, nil
}

// A whyTracer notes how far each rule came.
type whyTracer struct {
	spots  []ruleSpot
	spoke  []bool
	failed []int // the furthest condition that failed, -1 for none
}

var _ topdown.QueryTracer = (*whyTracer)(nil)

// Enabled implements topdown.QueryTracer.
func (t *whyTracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (t *whyTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *whyTracer) TraceEvent(e topdown.Event) {
	if e.Location == nil || e.Op != topdown.ExitOp && e.Op != topdown.FailOp {
		return
	}
	i := slices.IndexFunc(t.spots, func(s ruleSpot) bool {
		return s.File == e.Location.File && s.start <= e.Location.Offset && e.Location.Offset < s.end
	})
	if i < 0 {
		return
	}
	if e.Op == topdown.ExitOp {
		t.spoke[i] = t.spoke[i] || e.HasRule()
		return
	}
	for n, offset := range t.spots[i].offsets {
		if offset <= e.Location.Offset && n > t.failed[i] {
			t.failed[i] = n
		}
	}
}
