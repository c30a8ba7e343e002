package vex

import (
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
