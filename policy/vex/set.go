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
// in all sets, the latest.
func Find(sets []*Set, img *Image, f *scan.Finding) (Statement, bool) {
	var best *statement
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
				if x.before(best) || !x.about(img, f) {
					continue
				}
				best = x
			}
		}
	}
	if best == nil {
		return Statement{}, false
	}
	return Statement{Document: best.document.ID, Author: best.document.Author, Status: best.status, Why: best.why}, true
}

// before reports whether other counts rather than x. Of two at one time, the one does
// that suppresses less.
func (x *statement) before(other *statement) bool {
	if other == nil {
		return false
	}
	if !x.at.Equal(other.at) {
		return x.at.Before(other.at)
	}
	return x.status.Suppresses()
}

func (x *statement) about(img *Image, f *scan.Finding) bool {
	return slices.ContainsFunc(x.products, func(p product) bool {
		return (p.image == nil || p.image.image(img, x.document.bound)) && (p.pkg == nil || p.pkg.pkg(f.Package.PURL))
	})
}
