package vuln

import "testing"

// Wolfi's advisory has GitHub's ID and no more; that the CVE behind it may be exploited is
// known from GitHub's advisory alone, and must not be lost.
func TestRelatedAdvisory(t *testing.T) {
	db := realDatabase(t)
	var m Matcher
	defer m.Close()
	out, err := m.Match(t.Context(), catalogue(t, image(t, wolfi(apk("py3-urllib3", "2.0.5-r0", "py3-urllib3")).layer(t))), db)
	check(t, err)
	const id, cve = "GHSA-v845-jxx5-vc9f", "CVE-2023-43804"
	epss := map[string]float64{}
	for _, f := range out.Findings {
		epss[f.ID] = f.EPSS
	}
	if epss[cve] == 0 {
		t.Fatalf("%s is not found, or has no EPSS: %v", cve, epss)
	}
	if got, ok := epss[id]; !ok || got != epss[cve] {
		t.Errorf("%s (found %v) has an EPSS of %v, its CVE %v", id, ok, got, epss[cve])
	}
}
