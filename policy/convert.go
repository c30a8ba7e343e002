package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/sluicegate/sluice/scan"
)

// inputValue converts in to what Rego sees, with active in place of its findings.
//
// The result is that of a round trip through JSON, which a test holds it to, except
// that lists are never null: count(null) would be an error, and deny. Only
// findings and packages are converted by hand, since they are nearly all of an input: it
// takes a quarter of the time.
func inputValue(in *Input, active []scan.Finding) (ast.Value, error) {
	findings, err := findingsTerm(active)
	if err != nil {
		return nil, err
	}
	return inputOf(in, findings)
}

// findingsTerm is what Rego sees as input.findings.
func findingsTerm(active []scan.Finding) (*ast.Term, error) {
	c := converter{terms: map[string]*ast.Term{}}
	fs := make([]*ast.Term, len(active))
	for i := range active {
		var err error
		if fs[i], err = c.finding(&active[i]); err != nil {
			return nil, err
		}
	}
	return ast.ArrayTerm(fs...), nil
}

// termBytes is about how much memory the term of a finding takes.
const termBytes = 3 << 10

// findings is findingsTerm, made once for a verdict of which nothing is set aside.
func (p *program) findings(in *Input, active []scan.Finding) (*ast.Term, error) {
	if len(active) != len(in.Findings) {
		return findingsTerm(active)
	}
	sum := in.Sum.Of(in.Findings)
	if t, ok := p.converted.Get(sum); ok {
		return t, nil
	}
	t, err := findingsTerm(active)
	if err == nil {
		p.converted.Put(sum, t, termBytes*(1+len(active)))
	}
	return t, err
}

// inputOf is inputValue with findings that are converted.
func inputOf(in *Input, findings *ast.Term) (ast.Value, error) {
	doc := *in
	doc.Findings, doc.Packages = []scan.Finding{}, nil
	doc.Request.Groups = orEmpty(doc.Request.Groups)
	doc.Image.Tags = orEmpty(doc.Image.Tags)
	doc.Scan.Coverage.Problems = orEmpty(doc.Scan.Coverage.Problems)
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	v, err := ast.ValueFromReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	o, ok := v.(ast.Object)
	if !ok {
		return nil, fmt.Errorf("input is %T", v)
	}
	c := converter{terms: map[string]*ast.Term{}}
	o.Insert(c.word("findings"), findings)
	if len(in.Packages) > 0 {
		ps := make([]*ast.Term, len(in.Packages))
		for i := range in.Packages {
			ps[i] = c.pkg(&in.Packages[i])
		}
		o.Insert(c.word("packages"), ast.ArrayTerm(ps...))
	}
	return o, nil
}

// A converter makes each term that occurs often once: keys, severities, dates,
// packages' names. Terms are never changed, so they may be shared.
type converter struct{ terms map[string]*ast.Term }

func (c *converter) word(s string) *ast.Term {
	t, ok := c.terms[s]
	if !ok {
		t = ast.StringTerm(s)
		c.terms[s] = t
	}
	return t
}

func (c *converter) words(ss []string) *ast.Term {
	ts := make([]*ast.Term, len(ss))
	for i, s := range ss {
		ts[i] = c.word(s)
	}
	return ast.ArrayTerm(ts...)
}

func (c *converter) number(f float64) (*ast.Term, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, fmt.Errorf("a score is %v", f)
	}
	return ast.NumberTerm(json.Number(strconv.FormatFloat(f, 'g', -1, 64))), nil
}

// object builds an object of fields, without those that are optional and empty.
type object struct {
	c     *converter
	pairs [][2]*ast.Term
}

func (o *object) add(key string, t *ast.Term) {
	o.pairs = append(o.pairs, [2]*ast.Term{o.c.word(key), t})
}

func (o *object) optional(key, s string) {
	if s != "" {
		o.add(key, o.c.word(s))
	}
}

func (o *object) term() *ast.Term { return ast.ObjectTerm(o.pairs...) }

func (c *converter) pkg(p *scan.Package) *ast.Term {
	o := object{c, make([][2]*ast.Term, 0, 5)}
	o.add("name", c.word(p.Name))
	o.add("version", c.word(p.Version))
	o.add("type", c.word(p.Type))
	o.add("purl", c.word(p.PURL))
	if len(p.Licenses) > 0 {
		o.add("licenses", c.words(p.Licenses))
	}
	return o.term()
}

func (c *converter) finding(f *scan.Finding) (*ast.Term, error) {
	cvss, err := c.number(f.CVSS)
	if err != nil {
		return nil, fmt.Errorf("finding %s: cvss: %w", quote(f.ID), err)
	}
	epss, err := c.number(f.EPSS)
	if err != nil {
		return nil, fmt.Errorf("finding %s: epss: %w", quote(f.ID), err)
	}
	percentile, err := c.number(f.Percentile)
	if err != nil {
		return nil, fmt.Errorf("finding %s: epss_percentile: %w", quote(f.ID), err)
	}
	fix := object{c, make([][2]*ast.Term, 0, 3)}
	fix.add("state", c.word(f.Fix.State))
	fix.add("versions", c.words(f.Fix.Versions))
	fix.optional("available", f.Fix.Available)

	o := object{c, make([][2]*ast.Term, 0, 14)}
	o.add("id", ast.StringTerm(f.ID))
	o.add("aliases", c.words(f.Aliases))
	o.add("severity", c.word(f.Severity))
	o.add("cvss", cvss)
	o.add("epss", epss)
	o.add("epss_percentile", percentile)
	o.optional("kev", f.KEV)
	o.optional("published", f.Published)
	o.add("first_seen", c.word(f.FirstSeen))
	o.add("package", c.pkg(&f.Package))
	o.add("fix", fix.term())
	o.optional("layer", string(f.Layer))
	o.optional("path", f.Path)
	by := ast.NullTerm()
	if f.SuppressedBy != nil {
		by = c.word(*f.SuppressedBy)
	}
	o.add("suppressed_by", by)
	return o.term(), nil
}
