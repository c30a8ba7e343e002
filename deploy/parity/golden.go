package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	"github.com/sluicegate/sluice/scan"
)

// A golden list is what comparators other than grype's found in an image.
type golden struct {
	Matches int
	Rows    []struct{ ID, Package, Version string }
}

func readGolden(file string) (*golden, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	g := new(golden)
	if err := json.Unmarshal(b, g); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if g.Rows == nil || len(g.Rows) != g.Matches {
		return nil, fmt.Errorf("%s: %d rows in a list of %d", file, len(g.Rows), g.Matches)
	}
	return g, nil
}

// A match is a row of either side, as a golden list would have it.
type match struct {
	ids                 []string
	name, version, kind string
}

// ofFindings and ofRows return what is found and not suppressed.
func ofFindings(fs []scan.Finding) (out []match) {
	for _, f := range fs {
		if f.SuppressedBy == nil {
			out = append(out, match{append([]string{f.ID}, f.Aliases...), f.Package.Name, f.Package.Version, f.Package.Type})
		}
	}
	return out
}

func ofRows(rows []row) (out []match) {
	for _, r := range rows {
		m := match{[]string{r.Vulnerability.ID}, r.Artifact.Name, r.Artifact.Version, r.Artifact.Type}
		for _, v := range r.RelatedVulnerabilities {
			m.ids = append(m.ids, v.ID)
		}
		out = append(out, m)
	}
	return out
}

// differences returns the rows that were not found and what was found without a row. The
// list covers packages of one type where only names it.
func (g *golden) differences(who, only string, found []match) (out []string) {
	for _, r := range g.Rows {
		if !slices.ContainsFunc(found, func(m match) bool { return m.is(r.ID, r.Package, r.Version) }) {
			out = append(out, fmt.Sprintf("golden: %s doesn't find %s in %s %s", who, r.ID, r.Package, r.Version))
		}
	}
	for _, m := range found {
		if only != "" && m.kind != only {
			continue
		}
		if !slices.ContainsFunc(g.Rows, func(r struct{ ID, Package, Version string }) bool { return m.is(r.ID, r.Package, r.Version) }) {
			out = append(out, fmt.Sprintf("golden: only %s finds %v in %s %s", who, m.ids, m.name, m.version))
		}
	}
	return out
}

func (m match) is(id, name, version string) bool {
	return m.name == name && m.version == version && slices.Contains(m.ids, id)
}
