package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/sluicegate/sluice/scan"
)

// maxOutput bounds the violations and the warnings of one evaluation.
const maxOutput = 1000

// output is what policies say about an input.
type output struct {
	violations, warnings []Violation
}

// eval asks all policies about in, of whose findings they see only active. Any
// outcome that is not a well-formed answer of each of them is an error.
func (p *program) eval(ctx context.Context, in *Input, active []scan.Finding, timeout time.Duration) (output, error) {
	findings, err := p.findings(in, active)
	if err != nil {
		return output{}, fmt.Errorf("convert input: %w", err)
	}
	input, err := inputOf(in, findings)
	if err != nil {
		return output{}, fmt.Errorf("convert input: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v: %w", timeout, context.DeadlineExceeded))
	defer cancel()
	rs, err := p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(in.Now))
	switch {
	case topdown.IsCancel(err) || err != nil && ctx.Err() != nil:
		return output{}, context.Cause(ctx)
	case err != nil:
		return output{}, err
	case len(rs) != 1:
		return output{}, errors.New("the policies are undefined")
	}
	order := make(map[string]int, len(active)) // worst first
	for i := len(active) - 1; i >= 0; i-- {
		order[active[i].ID] = i
	}
	var out output
	for i, pkg := range p.packages {
		vs, err := p.answers(rs[0].Bindings, "violations", i, order)
		if err != nil {
			return output{}, fmt.Errorf("package sluice.policies.%s: %w", pkg, err)
		}
		ws, err := p.answers(rs[0].Bindings, "warnings", i, order)
		if err != nil {
			return output{}, fmt.Errorf("package sluice.policies.%s: %w", pkg, err)
		}
		out.violations, out.warnings = append(out.violations, vs...), append(out.warnings, ws...)
	}
	for _, m := range p.manifests {
		v, err := m.judge(ctx, in, p.data)
		if err != nil {
			return output{}, fmt.Errorf("%s: %w", m.file, err)
		}
		if v != nil {
			out.violations = append(out.violations, *v)
		}
	}
	if len(out.violations) > maxOutput || len(out.warnings) > maxOutput {
		return output{}, fmt.Errorf("more than %d violations or warnings: return one for each policy, with its findings", maxOutput)
	}
	worstFirst(out.violations, order)
	worstFirst(out.warnings, order)
	return out, nil
}

// answers reads one variable of the query: an array that is empty where the rule is
// undefined, and otherwise holds the rule's set.
func (p *program) answers(b rego.Vars, kind string, i int, order map[string]int) ([]Violation, error) {
	v, asked := b[fmt.Sprintf("%s%d", kind, i)]
	if !asked {
		return nil, nil
	}
	defined, ok := v.([]any)
	if !ok || len(defined) != 1 {
		return nil, fmt.Errorf("%s is undefined", kind)
	}
	set, ok := defined[0].([]any)
	if !ok {
		return nil, fmt.Errorf("%s is %s, want a set of objects", kind, typeName(defined[0]))
	}
	var vs []Violation
	for _, e := range set {
		v, err := violation(e, order)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		vs = append(vs, v)
	}
	return vs, nil
}

// violation checks one element of what a policy returned.
func violation(e any, order map[string]int) (Violation, error) {
	m, ok := e.(map[string]any)
	if !ok {
		return Violation{}, fmt.Errorf("an element is %s, want an object {policy, message, findings, remediation}", typeName(e))
	}
	v := Violation{Findings: []string{}}
	for key, val := range m {
		s, isString := val.(string)
		switch key {
		case "policy", "message", "remediation":
			if !isString {
				return v, fmt.Errorf("%s is %s, want a string", key, typeName(val))
			}
		case "findings":
			ids, err := findingIDs(val, order)
			if err != nil {
				return v, err
			}
			v.Findings = ids
			continue
		default:
			return v, fmt.Errorf("unknown key %s, want policy, message, findings, remediation", quote(key))
		}
		switch key {
		case "policy":
			v.Policy = s
		case "message":
			v.Message = clip(s, maxMessage)
		case "remediation":
			v.Remediation = clip(s, maxMessage)
		}
	}
	switch {
	case v.Policy == "" || len(v.Policy) > 100:
		return v, errors.New("policy is missing or longer than 100 bytes")
	case v.Policy == PolicyError || v.Policy == KillList:
		return v, fmt.Errorf("the name %s belongs to the engine", v.Policy)
	case strings.TrimSpace(v.Message) == "":
		return v, errors.New("message is missing")
	}
	return v, nil
}

// findingIDs returns the IDs once each, worst first; what the input doesn't know
// comes last.
func findingIDs(val any, order map[string]int) ([]string, error) {
	list, ok := val.([]any)
	if !ok {
		return nil, fmt.Errorf("findings is %s, want a set or an array of finding IDs", typeName(val))
	}
	ids := make([]string, 0, len(list))
	for _, x := range list {
		id, ok := x.(string)
		if !ok || id == "" {
			return nil, fmt.Errorf("findings holds %s, want finding IDs", typeName(x))
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		if c := rank(order, a) - rank(order, b); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(ids), nil
}

func rank(order map[string]int, id string) int {
	if i, ok := order[id]; ok {
		return i
	}
	return len(order) + 1<<30
}

// worstFirst puts the violation with the worst finding first; those without findings
// lead, since they say that findings could not be had.
func worstFirst(vs []Violation, order map[string]int) {
	first := func(v Violation) int {
		if len(v.Findings) == 0 {
			return -1
		}
		return rank(order, v.Findings[0])
	}
	slices.SortStableFunc(vs, func(a, b Violation) int { return first(a) - first(b) })
}

func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case []any:
		return "an array or a set"
	case map[string]any:
		return "an object"
	}
	return fmt.Sprintf("%T", v)
}
