package vex

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluicegate/sluice/scan"
)

// A Statement is what is said about a finding.
type Statement struct {
	Document string // its ID
	Author   string
	Status   Status
	Why      string // justification or impact; for not_affected never ""
}

// A Set is any number of documents. It is never changed; a nil one is empty.
type Set struct {
	by map[string][]*statement // by vulnerability, in lower case
}

// NewSet returns the set of all documents.
func NewSet(docs []*Document) *Set {
	s := &Set{by: map[string][]*statement{}}
	for _, d := range docs {
		for i := range d.statements {
			for _, id := range d.statements[i].vulnerabilities {
				id = strings.ToLower(id)
				s.by[id] = append(s.by[id], &d.statements[i])
			}
		}
	}
	return s
}

// Find returns the statement that counts about a finding in an image: of those about it
// in all sets, the latest; of two at one time, the one that suppresses less.
func Find(sets []*Set, img *Image, f *scan.Finding) (Statement, bool) {
	var best *statement
	suppresses := false // what best says
	for _, s := range sets {
		if s == nil {
			continue
		}
		for i := -1; i < len(f.Aliases); i++ {
			id := f.ID
			if i >= 0 {
				id = f.Aliases[i]
			}
			for _, x := range s.by[strings.ToLower(id)] {
				if x.before(best) || !x.about(img, f, false) {
					continue
				}
				mine := x.suppresses(img, f)
				if best != nil && x.at.Equal(best.at) && mine {
					continue
				}
				best, suppresses = x, mine
			}
		}
	}
	if best == nil || best.status.Suppresses() && !suppresses {
		return Statement{}, false
	}
	return Statement{Document: best.document.ID, Author: best.document.Author, Status: best.status, Why: best.why}, true
}

// A Miss is a statement that would set a finding aside if it were about it, and names
// another image or package.
type Miss struct {
	Place    string   // FILE:LINE; "" for an attestation
	Document string   // its ID
	Status   Status   // one that suppresses
	Products []string // what it names, at most 3
}

// Misses returns what sets say of a finding's vulnerability elsewhere: whoever wrote that may
// have meant this image. At most 3.
func Misses(sets []*Set, img *Image, f *scan.Finding) (ms []Miss) {
	for _, s := range sets {
		if s == nil {
			continue
		}
		for _, id := range append([]string{f.ID}, f.Aliases...) {
			for _, x := range s.by[strings.ToLower(id)] {
				if len(ms) == 3 || !x.status.Suppresses() || x.about(img, f, false) {
					continue
				}
				m := Miss{Document: x.document.ID, Status: x.status}
				if x.document.Name != "" {
					m.Place = fmt.Sprintf("%s:%d", x.document.Name, x.line)
				}
				for _, p := range x.products[:min(3, len(x.products))] {
					m.Products = append(m.Products, p.String())
				}
				ms = append(ms, m)
			}
		}
	}
	return ms
}

// String is for people.
func (p product) String() string {
	switch {
	case p.image == nil:
		return p.pkg.String()
	case p.pkg == nil:
		return p.image.String()
	}
	return p.pkg.String() + " in " + p.image.String()
}

// String is the first name of c.
func (c *component) String() string {
	names := slices.Concat(c.packages, c.refs, c.digests)
	for _, p := range c.images {
		names = append(names, p.ToString())
	}
	if len(names) == 0 {
		return "something without a package URL, an image reference or a digest"
	}
	return clip(names[0])
}

// before reports whether other is later than x.
func (x *statement) before(other *statement) bool { return other != nil && x.at.Before(other.at) }

// suppresses reports whether x, which is about a finding, has it set aside. That something
// is fixed is said of a version: where none is named it holds for some, and nobody knows
// for which.
func (x *statement) suppresses(img *Image, f *scan.Finding) bool {
	return x.status == NotAffected || x.status == Fixed && (x.document.bound || x.about(img, f, true))
}

// about reports whether x names a finding in an image; exactly: by a version.
func (x *statement) about(img *Image, f *scan.Finding, exactly bool) bool {
	return slices.ContainsFunc(x.products, func(p product) bool {
		return (p.image == nil || p.image.image(img, x.document.bound)) && (p.pkg == nil || p.pkg.pkg(f.Package.PURL)) &&
			(!exactly || p.image != nil && p.image.exact().image(img, false) || p.pkg != nil && p.pkg.exact().pkg(f.Package.PURL))
	})
}
