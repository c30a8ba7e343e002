package vex

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	openvex "github.com/openvex/go-vex/pkg/vex"
)

// openVEX reads OpenVEX 0.2.0: https://github.com/openvex/spec/blob/main/OPENVEX-SPEC.md.
func (d *Document) openVEX(data []byte) error {
	doc, err := openvex.Parse(data)
	if err != nil {
		if again := json.Unmarshal(data, &openvex.VEX{}); again != nil {
			err = again
		}
		return fmt.Errorf("%w; OpenVEX 0.2.0 is read here", jsonError(data, err))
	}
	d.ID, d.Author = clip(doc.ID), clip(doc.Author)
	if d.ID == "" || d.Author == "" {
		return errors.New("line 1: @id or author is missing: nobody could tell whose statement it is")
	}
	_, elements := lines(data, "statements")
	for i := range doc.Statements {
		s, err := openStatement(doc, &doc.Statements[i])
		if err != nil {
			return fmt.Errorf("line %d: statement %d: %w", lineOf(elements, i), i+1, err)
		}
		s.line = lineOf(elements, i)
		d.statements = append(d.statements, s)
	}
	return nil
}

func openStatement(doc *openvex.VEX, from *openvex.Statement) (statement, error) {
	s := statement{status: Status(from.Status), why: clip(cmp.Or(string(from.Justification), from.ImpactStatement))}
	if err := from.Validate(); err != nil {
		return s, err
	}
	v := &from.Vulnerability
	s.vulnerabilities = []string{string(v.Name)}
	if v.Name == "" {
		s.vulnerabilities[0] = path.Base(v.ID)
	}
	for _, a := range v.Aliases {
		s.vulnerabilities = append(s.vulnerabilities, string(a))
	}
	if strings.Trim(s.vulnerabilities[0], "./ ") == "" {
		return s, errors.New("vulnerability.name is missing")
	}
	if len(from.Products) == 0 {
		return s, errors.New("products is missing: it would be about nothing")
	}
	if s.at = latest(from.Timestamp, from.LastUpdated); s.at.IsZero() {
		s.at = latest(doc.Timestamp, doc.LastUpdated)
	}
	if s.at.IsZero() {
		return s, errors.New("timestamp is missing, here and in the document: nobody could tell which statement is the latest")
	}
	for i := range from.Products {
		p := &from.Products[i]
		s.products = append(s.products, openProducts(p)...)
		if len(s.products) > maxProducts {
			return s, fmt.Errorf("more than %d products; split the document", maxProducts)
		}
	}
	return s, nil
}

func latest(ts ...*time.Time) (last time.Time) {
	for _, t := range ts {
		if t != nil && t.After(last) {
			last = *t
		}
	}
	return last
}

// openProducts returns one product for each subcomponent, or one where there is none. What
// is within a package matches nothing: a package is no image.
func openProducts(p *openvex.Product) (ps []product) {
	c := openComponent(&p.Component)
	switch {
	case len(p.Subcomponents) == 0 && c.namesImage():
		return []product{{image: c}}
	case len(p.Subcomponents) == 0:
		return []product{{pkg: c}}
	}
	for i := range p.Subcomponents {
		ps = append(ps, product{image: c, pkg: openComponent(&p.Subcomponents[i].Component)})
	}
	return ps
}

func openComponent(from *openvex.Component) *component {
	c := &component{}
	c.name(from.ID)
	for t, id := range from.Identifiers {
		if t == openvex.PURL {
			c.name(id)
		}
	}
	for algorithm, value := range from.Hashes {
		c.hash(string(algorithm), string(value))
	}
	return c
}
