package vex

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	maxBranches = 100     // one below the other; real trees have about five
	maxTree     = 100_000 // products, relationships and groups of one tree
)

// A csafDocument is what is read of CSAF 2.0:
// https://docs.oasis-open.org/csaf/csaf/v2.0/os/csaf-v2.0-os.html, section 4.5 being the
// profile VEX.
type csafDocument struct {
	Document    csafHead `json:"document"`
	ProductTree struct {
		Branches         []csafBranch       `json:"branches"`
		FullProductNames []csafProduct      `json:"full_product_names"`
		Relationships    []csafRelationship `json:"relationships"`
		ProductGroups    []struct {
			GroupID    string   `json:"group_id"`
			ProductIDs []string `json:"product_ids"`
		} `json:"product_groups"`
	} `json:"product_tree"`
	Vulnerabilities []csafVulnerability `json:"vulnerabilities"`
}

type csafHead struct {
	Category    string `json:"category"`
	CSAFVersion string `json:"csaf_version"`
	Publisher   struct {
		Name string `json:"name"`
	} `json:"publisher"`
	Tracking struct {
		ID                 string     `json:"id"`
		Status             string     `json:"status"`
		CurrentReleaseDate *time.Time `json:"current_release_date"`
	} `json:"tracking"`
}

type csafBranch struct {
	Branches []csafBranch `json:"branches"`
	Product  *csafProduct `json:"product"`
}

type csafProduct struct {
	ProductID string `json:"product_id"`
	Helper    struct {
		PURL   string `json:"purl"`
		Hashes []struct {
			FileHashes []struct {
				Algorithm string `json:"algorithm"`
				Value     string `json:"value"`
			} `json:"file_hashes"`
		} `json:"hashes"`
	} `json:"product_identification_helper"`
}

type csafRelationship struct {
	FullProductName csafProduct `json:"full_product_name"`
	Product         string      `json:"product_reference"`
	RelatesTo       string      `json:"relates_to_product_reference"`
}

type csafVulnerability struct {
	CVE string `json:"cve"`
	IDs []struct {
		Text string `json:"text"`
	} `json:"ids"`
	ProductStatus map[string][]string `json:"product_status"`
	Flags         []csafReason        `json:"flags"`
	Threats       []csafReason        `json:"threats"`
}

// A csafReason is a flag (label) or a threat (category, details).
type csafReason struct {
	Label      string   `json:"label"`
	Category   string   `json:"category"`
	Details    string   `json:"details"`
	ProductIDs []string `json:"product_ids"`
	GroupIDs   []string `json:"group_ids"`
}

// csafStatus is section 3.2.3.9; what is recommended says nothing of a vulnerability.
var csafStatus = map[string]Status{
	"first_affected": Affected, "known_affected": Affected, "last_affected": Affected,
	"first_fixed": Fixed, "fixed": Fixed,
	"known_not_affected": NotAffected, "under_investigation": UnderInvestigation,
	"recommended": "",
}

func (d *Document) csaf(data []byte) error {
	var doc csafDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return jsonError(data, err)
	}
	head, tracking := &doc.Document, &doc.Document.Tracking
	if err := head.check(); err != nil {
		at, _ := lines(data, "document")
		return fmt.Errorf("line %d: %w", at, err)
	}
	d.ID, d.Author = clip(tracking.ID), clip(head.Publisher.Name)
	tree, err := newTree(&doc)
	if err != nil {
		at, _ := lines(data, "product_tree")
		return fmt.Errorf("line %d: product_tree: %w", at, err)
	}
	_, elements := lines(data, "vulnerabilities")
	left := maxProducts
	for i := range doc.Vulnerabilities {
		v := &doc.Vulnerabilities[i]
		ss, err := v.statements(tree, &left)
		if err != nil {
			return fmt.Errorf("line %d: vulnerability %d (%s): %w", lineOf(elements, i), i+1, clip(cmp.Or(v.CVE, "without cve")), err)
		}
		for j := range ss {
			ss[j].at, ss[j].line = *tracking.CurrentReleaseDate, lineOf(elements, i)
		}
		d.statements = append(d.statements, ss...)
	}
	return nil
}

// check refuses a document that says too little of itself.
func (h *csafHead) check() error {
	tracking := &h.Tracking
	switch {
	case h.CSAFVersion != "2.0":
		return fmt.Errorf("document.csaf_version is %q, want 2.0", clip(h.CSAFVersion))
	case h.Category != "csaf_vex":
		return fmt.Errorf("document.category is %q, want csaf_vex: only that profile says what is not affected, and why", clip(h.Category))
	case tracking.ID == "" || h.Publisher.Name == "":
		return errors.New("document.tracking.id or document.publisher.name is missing: nobody could tell whose statement it is")
	case tracking.Status != "final" && tracking.Status != "interim":
		return fmt.Errorf("document.tracking.status is %q, want final or interim: wait until it is published", clip(tracking.Status))
	case tracking.CurrentReleaseDate == nil || tracking.CurrentReleaseDate.IsZero():
		return errors.New("document.tracking.current_release_date is missing: nobody could tell which statement is the latest")
	}
	return nil
}

// statements returns one for each status and reason. left is how many products the
// document may still name.
func (v *csafVulnerability) statements(t *tree, left *int) (ss []statement, err error) {
	var ids []string
	if v.CVE != "" {
		ids = append(ids, v.CVE)
	}
	for _, id := range v.IDs {
		ids = append(ids, id.Text)
	}
	if len(ids) == 0 {
		return nil, errors.New("cve and ids are missing")
	}
	reasons, err := v.reasons(t)
	if err != nil {
		return nil, err
	}
	for word, products := range v.ProductStatus {
		status, known := csafStatus[word]
		if !known {
			return nil, fmt.Errorf("product_status.%s is no status of CSAF 2.0", clip(word))
		}
		if status == "" {
			continue
		}
		if *left -= len(products); *left < 0 {
			return nil, fmt.Errorf("the document's statements name more than %d products; split it", maxProducts)
		}
		by := map[string]*statement{} // by reason
		for _, id := range products {
			if !t.has(id) {
				return nil, fmt.Errorf("product_status.%s names product %q, which product_tree lacks", word, clip(id))
			}
			why := ""
			if status == NotAffected {
				if why = reasons[id]; why == "" {
					return nil, fmt.Errorf("product %q is not affected, with neither a flag nor an impact that says why: ask the publisher for it", clip(id))
				}
			}
			p, err := t.product(id)
			if err != nil {
				return nil, err
			}
			if by[why] == nil {
				by[why] = &statement{vulnerabilities: ids, status: status, why: why}
			}
			if p != nil {
				by[why].products = append(by[why].products, *p)
			}
		}
		for _, s := range by {
			ss = append(ss, *s)
		}
	}
	return ss, nil
}

// reasons returns why each product is not affected: its flag, or else the impact that is
// told of as a threat.
func (v *csafVulnerability) reasons(t *tree) (map[string]string, error) {
	why := map[string]string{}
	n := 0
	for _, rs := range [][]csafReason{v.Flags, v.Threats} {
		for _, r := range rs {
			text := r.Label
			if r.Category == "impact" {
				text = r.Details
			}
			ids := slices.Clone(r.ProductIDs)
			for _, g := range r.GroupIDs {
				if len(ids) > maxProducts {
					break
				}
				ids = append(ids, t.groups[g]...)
			}
			if n += len(ids); n > maxProducts {
				return nil, fmt.Errorf("flags and threats name more than %d products; split the document", maxProducts)
			}
			for _, id := range ids {
				if why[id] == "" {
					why[id] = clip(text)
				}
			}
		}
	}
	return why, nil
}
