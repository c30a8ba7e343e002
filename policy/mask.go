package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
)

// A Mask names a part of a decision log's record that must not be written.
type Mask struct {
	Path   string // JSON pointer (RFC 6901) into the record: /input/request/caller
	Remove bool   // it is taken out; else Value takes its place
	Value  any    // of JSON
}

// maskPackage is where the rule mask stands. Its input is a record, so that it is compiled
// apart from what decides.
const maskPackage = "data.sluice.log"

// maskTimeout bounds the evaluation for one record.
const maskTimeout = time.Second

// compileMask takes the modules of maskPackage out of modules, and prepares their rule. It
// is nil where there are none.
func compileMask(ctx context.Context, modules map[string]*ast.Module, store storage.Store) (*rego.PreparedEvalQuery, error) {
	mine := map[string]*ast.Module{}
	for name, m := range modules {
		if m.Package.Path.String() == maskPackage {
			mine[name] = m
			delete(modules, name)
		}
	}
	if len(mine) == 0 {
		return nil, nil
	}
	for name, m := range mine {
		if firstRule(m, "violations", "warnings") != nil {
			return nil, fmt.Errorf("%s: package sluice.log holds the rule mask, of the decision log; policies stand below sluice.policies", name)
		}
	}
	c := newCompiler()
	if c.Compile(mine); c.Failed() {
		return nil, compileError(c.Errors)
	}
	q, err := rego.New(
		rego.Compiler(c),
		rego.Store(store),
		rego.Query("masks = [x | x := "+maskPackage+".mask]"),
		rego.Capabilities(capabilities()),
		rego.SetRegoVersion(ast.RegoV1),
		rego.StrictBuiltinErrors(true),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare package sluice.log: %w", err)
	}
	return &q, nil
}

// Mask returns what the policies' rule sluice.log.mask says of a record of the decision
// log: strings are pointers to what is removed, objects {"op": "remove"|"upsert", "path",
// "value"}, as OPA has them. Without such a rule there are none. An error means that the
// record must not be written as it is.
func (e *Engine) Mask(ctx context.Context, record any) ([]Mask, error) {
	return e.snapshot().program.masks(ctx, record, e.c.Now())
}

func (p *program) masks(ctx context.Context, record any, now time.Time) ([]Mask, error) {
	if p.mask == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, maskTimeout)
	defer cancel()
	rs, err := p.mask.Eval(ctx, rego.EvalInput(record), rego.EvalTime(now))
	if err != nil {
		return nil, err
	}
	if len(rs) != 1 {
		return nil, errors.New("sluice.log.mask is undefined")
	}
	defined, _ := rs[0].Bindings["masks"].([]any)
	if len(defined) != 1 {
		return nil, errors.New("sluice.log.mask is undefined")
	}
	set, ok := defined[0].([]any)
	if !ok {
		return nil, fmt.Errorf("sluice.log.mask is %s, want a set", typeName(defined[0]))
	}
	var masks []Mask
	for _, x := range set {
		m, err := maskOf(x)
		if err != nil {
			return nil, fmt.Errorf("sluice.log.mask: %w", err)
		}
		masks = append(masks, m)
	}
	return masks, nil
}

func maskOf(x any) (Mask, error) {
	switch x := x.(type) {
	case string:
		return Mask{Path: x, Remove: true}, nil
	case map[string]any:
		path, _ := x["path"].(string)
		op, _ := x["op"].(string)
		if strings.HasPrefix(path, "/") && (op == "remove" || op == "upsert") {
			return Mask{Path: path, Remove: op == "remove", Value: x["value"]}, nil
		}
	}
	return Mask{}, errors.New(`an element is neither a path nor an object {"op": "remove" or "upsert", "path", "value"}`)
}
