package vuln

import (
	"fmt"
	"slices"
	"testing"

	"github.com/sluicegate/sluice/scan"
)

// TestTwinDistributions: what was learned of one image's distribution says nothing of
// another's, however their names and versions are written.
func TestTwinDistributions(t *testing.T) {
	db := sample(t)
	var m Matcher
	defer m.Close()
	match := func(release string) *scan.Matches {
		out, err := m.Match(t.Context(), catalogue(t, image(t, files{"var/lib/dpkg/status": debianStatus, "etc/os-release": release}.layer(t))), db)
		check(t, err)
		return out
	}
	known := match("ID=debian\nVERSION_ID=\"12.7/x\"\nVERSION_CODENAME=bookworm\n")
	if !known.DistroKnown || len(known.Findings) == 0 {
		t.Fatalf("the first: %+v", known)
	}
	twin := match("ID=debian\nVERSION_ID=\"12.7\"\nVERSION_CODENAME=x/bookworm\n")
	if twin.DistroKnown || len(twin.Problems) == 0 {
		t.Errorf("the second, of which the database knows nothing: %+v", twin)
	}
}

// TestVersionsOfNoFormat: a version that says nothing, of a package with advisories, is
// told of in ecosystems whose versions grype compares in any case.
func TestVersionsOfNoFormat(t *testing.T) {
	db := sample(t)
	var m Matcher
	defer m.Close()
	for version, readable := range map[string]bool{
		"1.2.5": true, "v1.2.5": true, "1.2": true, "1.2.8-beta.1": true, "1.2.8+build": true, "1.2.8.0": true, "01.2.8": true,
		" 1.2.5 ": false, "latest": false, "not!a!version": false, "*": false,
	} {
		out, err := m.Match(t.Context(), catalogue(t, image(t, files{"app/node_modules/minimist/package.json": fmt.Sprintf(`{"name":"minimist","version":%q}`, version)}.layer(t))), db)
		check(t, err)
		unread := slices.ContainsFunc(out.Problems, func(p scan.Problem) bool { return p.Kind == ProblemVersionUnreadable })
		if readable == unread {
			t.Errorf("%q: %d findings, %+v", version, len(out.Findings), out.Problems)
		}
	}
	out, err := m.Match(t.Context(), catalogue(t, image(t, files{"app/node_modules/other/package.json": `{"name":"other","version":"latest"}`}.layer(t))), db)
	check(t, err)
	if len(out.Problems) > 0 {
		t.Errorf("of a package without advisories: %+v", out.Problems)
	}
}
