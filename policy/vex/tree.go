package vex

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A tree is a product tree of CSAF, flat.
type tree struct {
	leaves map[string]*component
	parts  map[string][2]string // product → what it is a part of, and the part
	groups map[string][]string
	size   int
}

func newTree(doc *csafDocument) (*tree, error) {
	t := &tree{leaves: map[string]*component{}, parts: map[string][2]string{}, groups: map[string][]string{}}
	if err := t.branches(doc.ProductTree.Branches, 1); err != nil {
		return nil, err
	}
	for i := range doc.ProductTree.FullProductNames {
		if err := t.leaf(&doc.ProductTree.FullProductNames[i]); err != nil {
			return nil, err
		}
	}
	for _, r := range doc.ProductTree.Relationships {
		id := r.FullProductName.ProductID
		if err := t.add(id); err != nil {
			return nil, err
		}
		t.parts[id] = [2]string{r.RelatesTo, r.Product}
	}
	for id, of := range t.parts {
		for _, ref := range of {
			if !t.has(ref) {
				return nil, fmt.Errorf("product %q relates to %q, which is not there", clip(id), clip(ref))
			}
		}
	}
	for _, g := range doc.ProductTree.ProductGroups {
		if t.size += 1 + len(g.ProductIDs); t.size > maxTree {
			return nil, errTree
		}
		t.groups[g.GroupID] = g.ProductIDs
	}
	return t, nil
}

var errTree = fmt.Errorf("more than %d products, relationships and members of groups; split the document", maxTree)

func (t *tree) branches(bs []csafBranch, depth int) error {
	if depth > maxBranches {
		return fmt.Errorf("branches lie more than %d deep", maxBranches)
	}
	for i := range bs {
		if p := bs[i].Product; p != nil {
			if err := t.leaf(p); err != nil {
				return err
			}
		}
		if err := t.branches(bs[i].Branches, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) leaf(p *csafProduct) error {
	if err := t.add(p.ProductID); err != nil {
		return err
	}
	c := &component{}
	if p.Helper.PURL != "" {
		c.name(p.Helper.PURL)
	}
	for _, h := range p.Helper.Hashes {
		for _, f := range h.FileHashes {
			c.hash(f.Algorithm, f.Value)
		}
	}
	t.leaves[p.ProductID] = c
	return nil
}

// add notes that a product is there. One ID for two would make a statement about one of
// them a statement about the other.
func (t *tree) add(id string) error {
	switch {
	case strings.TrimSpace(id) == "":
		return errors.New("a product has no product_id")
	case t.has(id):
		return fmt.Errorf("product %q is there twice", clip(id))
	}
	if t.size++; t.size > maxTree {
		return errTree
	}
	if t.leaves[id] == nil {
		t.leaves[id] = &component{} // until it is known better
	}
	return nil
}

func (t *tree) has(id string) bool { return t.leaves[id] != nil }

// product returns what a product is, nil where no image or finding could be it.
func (t *tree) product(id string) (*product, error) {
	chain, err := t.chain(id, nil)
	if err != nil {
		return nil, err
	}
	switch outer := chain[0]; {
	case len(chain) == 1 && outer.namesImage():
		return &product{image: outer}, nil
	case len(chain) == 1:
		return &product{pkg: outer}, nil
	case len(chain) == 2 && outer.namesImage() && !chain[1].namesImage():
		return &product{image: outer, pkg: chain[1]}, nil
	}
	return nil, nil
}

// chain returns what a product is made of, the outermost first, and at most a few of
// them. above are the products that led to id.
func (t *tree) chain(id string, above []string) ([]*component, error) {
	if slices.Contains(above, id) {
		return nil, fmt.Errorf("product_tree: product %q is a part of itself; ask the publisher to mend it", clip(id))
	}
	if len(above) > maxBranches {
		return nil, fmt.Errorf("product_tree: relationships lie more than %d deep", maxBranches)
	}
	of, combined := t.parts[id]
	if !combined {
		return []*component{t.leaves[id]}, nil
	}
	above = append(above, id)
	outer, err := t.chain(of[0], above)
	if err != nil || len(outer) > 2 {
		return outer, err
	}
	inner, err := t.chain(of[1], above)
	if err != nil {
		return nil, err
	}
	return append(outer, inner...), nil
}
