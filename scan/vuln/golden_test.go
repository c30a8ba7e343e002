package vuln

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/scan"
)

// goldens are the real images with what comparators other than grype's found in them.
// Each difference is named with its reason; one that is not named fails the test, and
// so does one that has gone.
var goldens = []struct {
	golden string
	image  string
	only   string // the golden list covers one type of package
	// missing rows are in the golden list and not found, extra ones the reverse.
	missing, extra map[string]string
	known          bool // what the database knows of the distribution
}{
	{golden: "wolfi-2023-10-python", image: "wolfi-2023-10-python.tar", known: true},
	{golden: "wolfi-2024-06-db", image: "wolfi-2024-06-db.tar", known: true},
	{golden: "wolfi-2025-04-min", image: "wolfi-2025-04-min.tar", known: true},
	{golden: "wolfi-2025-04-node", image: "wolfi-2025-04-node.tar", known: true},
	{golden: "wolfi-base-real", image: "wolfi-base.apk-installed", known: true},
	{golden: "debian12.0-era-big-meta", image: "debian12.0-era-big-meta.tar.xz", only: "deb", known: true},
	{golden: "java-app", image: "java-app.tar", known: true},
	{golden: "php-composer", image: "php-composer.tar", known: true},
	{golden: "ruby-bundle", image: "ruby-bundle.tar", known: true},
	{golden: "rust-auditable", image: "rust-auditable.tar", known: true},
}

func TestGolden(t *testing.T) {
	if testing.Short() {
		t.Skip("catalogues and matches ten images")
	}
	images := goldens
	if underRace { // `make parity` runs them all
		images = goldens[2:5]
	}
	db := realDatabase(t)
	var m Matcher
	defer m.Close()
	for _, g := range images {
		t.Run(g.golden, func(t *testing.T) {
			out, err := m.Match(t.Context(), catalogue(t, realImage(t, g.image)), db)
			check(t, err)
			if out.DistroKnown != g.known || len(out.Problems) > 0 {
				t.Errorf("distro known %v, want %v; problems %+v", out.DistroKnown, g.known, out.Problems)
			}
			missing, extra := compare(out.Findings, golden(t, g.golden), g.only)
			explain(t, "not found", missing, g.missing)
			explain(t, "found besides", extra, g.extra)
		})
	}
}

// golden reads the rows of a golden list.
func golden(t *testing.T, name string) []row {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data(t), "golden", name+".json"))
	check(t, err)
	var doc struct {
		Matches int
		Rows    []row
	}
	check(t, json.Unmarshal(b, &doc))
	if len(doc.Rows) != doc.Matches {
		t.Fatalf("%d rows in a list of %d", len(doc.Rows), doc.Matches)
	}
	return doc.Rows
}

// compare returns the rows without a finding and the findings without a row. A row
// names a finding by its ID or by an alias.
func compare(findings []scan.Finding, rows []row, only string) (missing, extra []string) {
	for _, r := range rows {
		if !slices.ContainsFunc(findings, func(f scan.Finding) bool { return f.SuppressedBy == nil && r.names(f) }) {
			missing = append(missing, r.String())
		}
	}
	for _, f := range findings {
		if f.SuppressedBy != nil || (only != "" && f.Package.Type != only) {
			continue
		}
		if !slices.ContainsFunc(rows, func(r row) bool { return r.names(f) }) {
			extra = append(extra, row{f.ID, f.Package.Name, f.Package.Version}.String())
		}
	}
	return missing, extra
}

func (r row) names(f scan.Finding) bool {
	return r.Package == f.Package.Name && r.Version == f.Package.Version &&
		(r.ID == f.ID || slices.Contains(f.Aliases, r.ID))
}

// explain fails on each difference that has no reason, and on each reason that has
// no difference.
func explain(t *testing.T, what string, rows []string, reasons map[string]string) {
	t.Helper()
	for _, r := range rows {
		if strings.TrimSpace(reasons[r]) == "" {
			t.Errorf("%s: %s", what, r)
		}
	}
	for r := range reasons {
		if !slices.Contains(rows, r) {
			t.Errorf("explained as %s, but it agrees now: %s", what, r)
		}
	}
}
