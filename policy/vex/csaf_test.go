package vex

import (
	"fmt"
	"strings"
	"testing"
)

// csaf1 is a document about one image (web), another (db), the packages openssl and curl,
// and openssl in each of the images.
func csaf1(status string) string {
	return `{"document": {"category": "csaf_vex", "csaf_version": "2.0", "publisher": {"name": "vendor"},
  "tracking": {"id": "V-1", "status": "final", "current_release_date": "2026-01-01T00:00:00Z"}},
 "product_tree": {
  "branches": [{"category": "vendor", "name": "acme", "branches": [
    {"category": "product_name", "name": "web", "branches": [{"category": "product_version", "name": "1", "product":
      {"name": "web 1", "product_id": "web", "product_identification_helper": {"purl": "pkg:oci/web?repository_url=cgr.dev/acme/web"}}}]},
    {"category": "product_version", "name": "db", "product": {"name": "db", "product_id": "db", "product_identification_helper":
      {"hashes": [{"filename": "db", "file_hashes": [{"algorithm": "sha256", "value": "` + others[7:] + `"}]}]}}}]}],
  "full_product_names": [
    {"name": "openssl", "product_id": "openssl", "product_identification_helper": {"purl": "pkg:apk/wolfi/openssl"}},
    {"name": "curl", "product_id": "curl", "product_identification_helper": {"purl": "pkg:apk/wolfi/curl"}},
    {"name": "web, by digest", "product_id": "digest", "product_identification_helper":
      {"hashes": [{"filename": "web", "file_hashes": [{"algorithm": "sha256", "value": "` + strings.ToUpper(index[7:]) + `"}]}]}},
    {"name": "some", "product_id": "cpe", "product_identification_helper": {"cpe": "cpe:2.3:a:acme:web:1:*:*:*:*:*:*:*"}}],
  "relationships": [
    {"category": "default_component_of", "product_reference": "openssl", "relates_to_product_reference": "web", "full_product_name": {"name": "a", "product_id": "web:openssl"}},
    {"category": "default_component_of", "product_reference": "openssl", "relates_to_product_reference": "db", "full_product_name": {"name": "b", "product_id": "db:openssl", "product_identification_helper": {"purl": "pkg:apk/wolfi/openssl"}}},
    {"category": "default_component_of", "product_reference": "curl", "relates_to_product_reference": "web", "full_product_name": {"name": "c", "product_id": "web:curl"}},
    {"category": "installed_on", "product_reference": "openssl", "relates_to_product_reference": "cpe", "full_product_name": {"name": "d", "product_id": "cpe:openssl"}},
    {"category": "installed_on", "product_reference": "openssl", "relates_to_product_reference": "web:curl", "full_product_name": {"name": "e", "product_id": "web:curl:openssl"}}],
  "product_groups": [{"group_id": "all", "product_ids": ["web", "db", "digest", "openssl", "curl", "cpe", "web:openssl", "db:openssl", "web:curl", "cpe:openssl", "web:curl:openssl"]}]},
 "vulnerabilities": [{"cve": "CVE-2026-1", "flags": [{"label": "component_not_present", "group_ids": ["all"]}], "product_status": {` + status + `}}]}`
}

func TestCSAFProducts(t *testing.T) {
	for products, want := range map[string]bool{
		`"web"`: true, `"digest"`: true, `"openssl"`: true, `"web:openssl"`: true, `"db", "web"`: true,
		`"db"`: false, `"curl"`: false, `"cpe"`: false, `"db:openssl"`: false, `"web:curl"`: false, `"cpe:openssl"`: false, `"web:curl:openssl"`: false, ``: false,
	} {
		for status, suppresses := range map[string]bool{
			"known_not_affected": true, "fixed": true, "first_fixed": true,
			"known_affected": false, "under_investigation": false, "recommended": false, "last_affected": false,
		} {
			sets := parsed(t, csaf1(fmt.Sprintf("%q: [%s]", status, products)))
			if strings.Contains(status, "fixed") && products != `"digest"` { // of which version nobody says
				suppresses = false
			}
			if got := suppressed(sets, web(), openssl()); got != (want && suppresses) {
				t.Errorf("%s of %s: suppressed %v", status, products, got)
			}
		}
	}
	curl := openssl()
	curl.Package.PURL = "pkg:apk/wolfi/curl@8.0.0-r0"
	if sets := parsed(t, csaf1(`"fixed": ["web:curl:openssl"]`)); suppressed(sets, web(), curl) {
		t.Error("a package within a package suppresses the outer one")
	}
	s, _ := Find(parsed(t, csaf1(`"known_not_affected": ["web"]`)), web(), openssl())
	if (s != Statement{Document: "V-1", Author: "vendor", Status: NotAffected, Why: "component_not_present"}) {
		t.Errorf("%+v", s)
	}
}

// Where a document contradicts itself, or another of the same time does, nothing is
// suppressed; a later one counts, of whichever format.
func TestCSAFContradictions(t *testing.T) {
	both := csaf1(`"known_not_affected": ["web"], "known_affected": ["web:openssl"]`)
	if suppressed(parsed(t, both), web(), openssl()) {
		t.Error("affected and not: suppressed")
	}
	not := csaf1(`"known_not_affected": ["web"]`)
	later := open1("later", `{"vulnerability": {"name": "CVE-2026-1"}, "status": "affected", "action_statement": "update", "timestamp": "2026-01-01T00:00:01Z", "products": [{"@id": "cgr.dev/acme/web"}]}`)
	if suppressed(parsed(t, not, later), web(), openssl()) {
		t.Error("affected later: suppressed")
	}
	if !suppressed(parsed(t, strings.Replace(not, "2026-01-01T", "2026-01-02T", 1), later), web(), openssl()) {
		t.Error("affected earlier: not suppressed")
	}
}

func TestCSAFErrors(t *testing.T) {
	good := csaf1(`"known_not_affected": ["web"]`)
	cycle := strings.Replace(csaf1(`"known_not_affected": ["web:openssl"]`), `"product_reference": "openssl", "relates_to_product_reference": "web"`, `"product_reference": "web:openssl", "relates_to_product_reference": "web"`, 1)
	longer := strings.NewReplacer(`"product_reference": "openssl", "relates_to_product_reference": "web",`, `"product_reference": "db:openssl", "relates_to_product_reference": "web",`,
		`"product_reference": "openssl", "relates_to_product_reference": "db"`, `"product_reference": "openssl", "relates_to_product_reference": "web:openssl"`).Replace(csaf1(`"fixed": ["web:openssl"]`))
	deep := strings.Replace(good, `"branches": [{"category": "vendor"`, `"branches": [`+strings.Repeat(`{"branches": [`, 200)+strings.Repeat(`]}`, 200)+`, {"category": "vendor"`, 1)
	for name, c := range map[string]struct{ text, want string }{
		"of version 2.1":      {strings.Replace(good, `"2.0"`, `"2.1"`, 1), `document.csaf_version is "2.1", want 2.0`},
		"an advisory":         {strings.Replace(good, "csaf_vex", "csaf_security_advisory", 1), `document.category is "csaf_security_advisory", want csaf_vex`},
		"a draft":             {strings.Replace(good, `"final"`, `"draft"`, 1), `document.tracking.status is "draft"`},
		"no publisher":        {strings.Replace(good, `{"name": "vendor"}`, `{}`, 1), "publisher.name is missing"},
		"no date":             {strings.Replace(good, `, "current_release_date": "2026-01-01T00:00:00Z"`, "", 1), "current_release_date is missing"},
		"a part of itself":    {cycle, `"web:openssl" is a part of itself`},
		"a part of its part":  {longer, `is a part of itself`},
		"an unknown product":  {strings.Replace(good, `["web"]`, `["wb"]`, 1), `product_status.known_not_affected names product "wb"`},
		"a dangling relation": {strings.Replace(good, `"relates_to_product_reference": "db"`, `"relates_to_product_reference": "dx"`, 1), `relates to "dx"`},
		"one ID for two":      {strings.Replace(good, `"product_id": "db"`, `"product_id": "web"`, 1), `product "web" is there twice`},
		"no ID":               {strings.Replace(good, `"product_id": "db"`, `"product_id": ""`, 1), "has no product_id"},
		"no reason":           {strings.Replace(good, "component_not_present", "", 1), `product "web" is not affected, with neither a flag nor an impact`},
		"a status of its own": {csaf1(`"fine": ["web"]`), "product_status.fine is no status of CSAF"},
		"no vulnerability":    {strings.Replace(good, `"cve": "CVE-2026-1", `, "", 1), "cve and ids are missing"},
		"deep branches":       {deep, "branches lie more than 100 deep"},
		"a number for a tree": {`{"document": {}, "product_tree": 1}`, "not well formed"},
	} {
		if _, err := Parse("d.json", []byte(c.text)); err == nil || !strings.HasPrefix(err.Error(), "d.json: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// TestCSAFDoubling: relationships that double at each step end as soon as they can match
// nothing.
func TestCSAFDoubling(t *testing.T) {
	var b strings.Builder
	last := "web"
	for i := range 60 {
		id := fmt.Sprintf("p%d", i)
		fmt.Fprintf(&b, `{"product_reference": %q, "relates_to_product_reference": %q, "full_product_name": {"product_id": %q}},`, last, last, id)
		last = id
	}
	text := strings.Replace(csaf1(`"fixed": ["`+last+`"]`), `"relationships": [`, `"relationships": [`+b.String(), 1)
	if suppressed(parsed(t, text), web(), openssl()) {
		t.Error("suppressed")
	}
}
