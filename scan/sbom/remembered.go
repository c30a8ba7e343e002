package sbom

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
)

// remembered is a cataloguer that looks into the memo first.
type remembered struct {
	pkg.Cataloger
	memo *memo
}

// Catalog implements pkg.Cataloger.
func (c remembered) Catalog(ctx context.Context, files file.Resolver) ([]pkg.Package, []artifact.Relationship, error) {
	r, ok := files.(watchedResolver)
	if !ok {
		return c.Cataloger.Catalog(ctx, files)
	}
	packages, relationships, err, _ := c.memo.catalogue(ctx, c.Cataloger, c.Name(), view{watchedResolver: r})
	return packages, relationships, err
}

// byLayer is a cataloguer that looks at each of the files that it searches for by
// itself. So it may be shown those of one layer after those of another, and returns in
// all what it would for all of them: an image pays for the layers that are new, and for
// those of whose files a higher layer hides some. What it looks up by path it sees as
// ever; should it search for anything else, it is shown all at once after all.
type byLayer struct {
	pkg.Cataloger
	memo *memo
	join bool // an error at one file takes nothing away from the others
}

// Catalog implements pkg.Cataloger.
func (c byLayer) Catalog(ctx context.Context, files file.Resolver) ([]pkg.Package, []artifact.Relationship, error) {
	r, ok := files.(watchedResolver)
	if !ok {
		return c.Cataloger.Catalog(ctx, files)
	}
	layers, ok := c.layers(ctx, r)
	if !ok {
		return c.Cataloger.Catalog(ctx, files)
	}
	var packages []pkg.Package
	var relationships []artifact.Relationship
	var errs error
	for _, l := range layers {
		p, rels, err, strays := c.memo.catalogue(ctx, c.Cataloger, c.Name()+" "+l.id, view{r, l.answers})
		if strays || err != nil && !c.join {
			return c.Cataloger.Catalog(ctx, files)
		}
		packages, relationships, errs = append(packages, p...), append(relationships, rels...), errors.Join(errs, err)
	}
	return packages, relationships, errs
}

// A part is the answers to a cataloguer's searches, of one layer alone.
type part struct {
	id      string // the layer's diff ID
	answers map[string][]file.Location
}

// layers returns what the cataloguer searches for, by layer. It is false where it finds
// anything without a file.
func (c byLayer) layers(ctx context.Context, r watchedResolver) ([]part, bool) {
	all := &collector{watchedResolver: r, answers: map[string][]file.Location{}}
	packages, relationships, err := c.Cataloger.Catalog(ctx, all)
	if len(packages) > 0 || len(relationships) > 0 || err != nil {
		return nil, false
	}
	parts := map[string]part{}
	for key, found := range all.answers {
		for _, l := range found {
			if _, ok := parts[l.FileSystemID]; !ok {
				p := part{l.FileSystemID, map[string][]file.Location{}}
				for key := range all.answers {
					p.answers[key] = nil
				}
				parts[l.FileSystemID] = p
			}
			answers := parts[l.FileSystemID].answers
			answers[key] = append(answers[key], l)
		}
	}
	out := make([]part, 0, len(parts))
	for _, p := range parts {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b part) int { return cmp.Compare(a.id, b.id) })
	return out, true
}

// A view is an image of which some searches find less.
type view struct {
	watchedResolver
	only map[string][]file.Location // by the question's key
}

var _ file.Resolver = view{}

func (v view) FilesByGlob(patterns ...string) ([]file.Location, error) {
	if found, ok := v.only[question{byGlob, patterns}.key()]; ok {
		return clone(found), nil
	}
	return v.watchedResolver.FilesByGlob(patterns...)
}

func (v view) FilesByMIMEType(types ...string) ([]file.Location, error) {
	if found, ok := v.only[question{byMIME, types}.key()]; ok {
		return clone(found), nil
	}
	return v.watchedResolver.FilesByMIMEType(types...)
}

// A collector writes down what is searched for, and finds none of it.
type collector struct {
	watchedResolver
	mu      sync.Mutex // guards answers
	answers map[string][]file.Location
}

func (c *collector) FilesByGlob(patterns ...string) ([]file.Location, error) {
	found, err := c.watchedResolver.FilesByGlob(patterns...)
	return nil, c.collect(question{byGlob, patterns}, found, err)
}

func (c *collector) FilesByMIMEType(types ...string) ([]file.Location, error) {
	found, err := c.watchedResolver.FilesByMIMEType(types...)
	return nil, c.collect(question{byMIME, types}, found, err)
}

// collect keeps an answer; after an error, the question is asked again by each part.
func (c *collector) collect(q question, found []file.Location, err error) error {
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers[q.key()] = found
	return nil
}
