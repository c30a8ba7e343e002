package vex

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/scan"
)

var (
	mine   = "sha256:" + strings.Repeat("a", 64)
	index  = "sha256:" + strings.Repeat("b", 64)
	others = "sha256:" + strings.Repeat("c", 64)
)

func web() *Image {
	return &Image{Registry: "cgr.dev", Repository: "acme/web", Digests: []string{mine, index}, Tags: []string{"1"}, Platform: "linux/amd64"}
}

func openssl() *scan.Finding {
	return &scan.Finding{ID: "GHSA-xxxx", Aliases: []string{"CVE-2026-1"}, Package: scan.Package{
		Name: "openssl", Version: "3.0.1", PURL: "pkg:apk/wolfi/openssl@3.0.1-r0?arch=x86_64&distro=wolfi"}}
}

// open1 is an OpenVEX document with statements.
func open1(id string, statements ...string) string {
	return fmt.Sprintf(`{"@context": "https://openvex.dev/ns/v0.2.0", "@id": %q, "author": "vendor", "timestamp": "2026-01-01T00:00:00Z", "version": 1, "statements": [%s]}`,
		id, strings.Join(statements, ","))
}

func notAffected(product string) string {
	return `{"vulnerability": {"name": "CVE-2026-1"}, "status": "not_affected", "justification": "component_not_present", "products": [` + product + `]}`
}

func parsed(t testing.TB, texts ...string) []*Set {
	t.Helper()
	var docs []*Document
	for i, text := range texts {
		d, err := Parse(fmt.Sprintf("doc%d.json", i), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, d)
	}
	return []*Set{NewSet(docs), nil}
}

func suppressed(sets []*Set, img *Image, f *scan.Finding) bool {
	s, ok := Find(sets, img, f)
	return ok && s.Status.Suppresses()
}

// TestProducts holds names of products against one image with one finding: what names
// another product suppresses nothing.
func TestProducts(t *testing.T) {
	hash := func(d string) string { return `"hashes": {"sha-256": "` + strings.TrimPrefix(d, "sha256:") + `"}` }
	id := func(s string) string { return `{"@id": "` + s + `"}` }
	sub := func(image, purl string) string {
		return `{"@id": "` + image + `", "subcomponents": [{"@id": "` + purl + `"}]}`
	}
	for product, want := range map[string]bool{
		// By digest, of the image or of an index that lists it.
		id(mine):                               true,
		id(index):                              true,
		id(others):                             false,
		"{" + hash(mine) + "}":                 true,
		"{" + hash(others) + "}":               false,
		`{"hashes": {"sha-256": "aaaa"}}`:      false,
		`{"hashes": {"md5": "aaaa"}}`:          false,
		id("cgr.dev/acme/web@" + mine):         true,
		id("cgr.dev/acme/web@" + others):       false,
		id("cgr.dev/other/web@" + mine):        false,
		id("pkg:oci/web@" + mine):              true,
		id("pkg:oci/web@sha256%3A" + mine[7:]): true,
		id("pkg:oci/web@" + index):             true,
		id("pkg:oci/web@" + others):            false,
		id("pkg:oci/db@" + mine):               false,

		// By repository and tag.
		id("cgr.dev/acme/web"):                                  true,
		id("cgr.dev/acme/web:1"):                                true,
		id("cgr.dev/acme/web:2"):                                false,
		id("cgr.dev/acme"):                                      false,
		id("acme/web"):                                          false,
		id("ghcr.io/acme/web:1"):                                false,
		id("https://cgr.dev/acme/web"):                          false,
		id("pkg:oci/web?repository_url=cgr.dev/acme/web"):       true,
		id("pkg:oci/web?repository_url=cgr.dev%2Facme%2Fweb"):   true,
		id("pkg:oci/web?repository_url=https://cgr.dev/acme/"):  true,
		id("pkg:oci/web?repository_url=cgr.dev/other/web"):      false,
		id("pkg:oci/web?repository_url=cgr.dev"):                false,
		id("pkg:oci/web?repository_url=ghcr.io/acme/web"):       false,
		id("pkg:oci/web?repository_url=cgr.dev/acme/web&tag=1"): true,
		id("pkg:oci/web?repository_url=cgr.dev/acme/web&tag=2"): false,
		id("pkg:docker/acme/web@1?repository_url=cgr.dev"):      true,
		id("pkg:docker/acme/web@2?repository_url=cgr.dev"):      false,
		id("pkg:docker/acme/web@1"):                             false, // of docker.io

		// An image that any registry may have.
		id("pkg:oci/web"):                      false,
		id("web"):                              false,
		id("pkg:oci/web?tag=1"):                false,
		id("pkg:oci/" + "web" + "?arch=amd64"): false,

		// What it is for.
		id("pkg:oci/web@" + mine + "?arch=amd64"):      true,
		id("pkg:oci/web@" + mine + "?arch=x86_64"):     true,
		id("pkg:oci/web@" + mine + "?arch=arm64"):      false,
		id("pkg:oci/web@" + mine + "?os=linux"):        true,
		id("pkg:oci/web@" + mine + "?os=windows"):      false,
		id("pkg:oci/web@" + mine + "?flavour=vanilla"): false,

		// A hash holds against a name.
		`{"@id": "cgr.dev/acme/web", ` + hash(others) + `}`:                                                  false,
		`{"@id": "cgr.dev/acme/web", ` + hash(mine) + `}`:                                                    true,
		`{"@id": "https://example.com/web", "identifiers": {"purl": "pkg:oci/web@` + mine + `"}}`:            true,
		`{"@id": "https://example.com/web", "identifiers": {"cpe23": "cpe:2.3:a:acme:web:1:*:*:*:*:*:*:*"}}`: false,

		// A package, wherever it is.
		id("pkg:apk/wolfi/openssl@3.0.1-r0"):                   true,
		id("pkg:apk/wolfi/openssl"):                            true,
		id("pkg:apk/wolfi/openssl?distro=wolfi"):               true,
		id("pkg:apk/wolfi/openssl?distro=alpine"):              false,
		id("pkg:apk/wolfi/openssl@3.0.2-r0"):                   false,
		id("pkg:apk/alpine/openssl"):                           false,
		id("pkg:apk/openssl"):                                  false,
		id("pkg:generic/openssl"):                              false,
		id("pkg:apk/wolfi/libcrypto3"):                         false,
		id("pkg:"):                                             false,
		`{"@id": "pkg:apk/wolfi/openssl", ` + hash(mine) + `}`: false,

		// A package within an image.
		sub("cgr.dev/acme/web", "pkg:apk/wolfi/openssl"):          true,
		sub("cgr.dev/acme/web", "pkg:apk/wolfi/openssl@3.0.1-r0"): true,
		sub("cgr.dev/acme/web", "pkg:apk/wolfi/openssl@3.0.2-r0"): false,
		sub("cgr.dev/acme/web", "pkg:apk/wolfi/curl"):             false,
		sub("cgr.dev/acme/web", "openssl"):                        false,
		sub("cgr.dev/acme/db", "pkg:apk/wolfi/openssl"):           false,
		sub("pkg:oci/web", "pkg:apk/wolfi/openssl"):               false,
		sub("pkg:apk/wolfi/nginx", "pkg:apk/wolfi/openssl"):       false, // within another package
		sub("pkg:apk/wolfi/openssl", "pkg:apk/wolfi/openssl"):     false,
	} {
		if got := suppressed(parsed(t, open1("d", notAffected(product))), web(), openssl()); got != want {
			t.Errorf("%s: suppressed %v", product, got)
		}
	}
}

func TestVulnerabilities(t *testing.T) {
	for vulnerability, want := range map[string]bool{
		`{"name": "CVE-2026-1"}`:                                                       true,
		`{"name": "cve-2026-1"}`:                                                       true,
		`{"name": "GHSA-xxxx"}`:                                                        true,
		`{"name": "CVE-2026-2"}`:                                                       false,
		`{"name": "CVE-2026-11"}`:                                                      false,
		`{"name": "RHSA-1", "aliases": ["CVE-2026-1"]}`:                                true,
		`{"name": "RHSA-1", "aliases": ["CVE-2026-3"]}`:                                false,
		`{"@id": "https://nvd.nist.gov/vuln/detail/CVE-2026-1"}`:                       true,
		`{"@id": "https://nvd.nist.gov/vuln/detail/CVE-2026-1", "name": "CVE-2026-2"}`: false,
	} {
		text := strings.Replace(notAffected(`{"@id": "cgr.dev/acme/web"}`), `{"name": "CVE-2026-1"}`, vulnerability, 1)
		if got := suppressed(parsed(t, open1("d", text)), web(), openssl()); got != want {
			t.Errorf("%s: suppressed %v", vulnerability, got)
		}
	}
}

// TestTheLatestStatementCounts has two statements about one finding, in both orders and in
// one document and two.
func TestTheLatestStatementCounts(t *testing.T) {
	at := func(status, more, when string) string {
		return `{"vulnerability": {"name": "CVE-2026-1"}, "status": "` + status + `", ` + more + `, "timestamp": "` + when + `", "products": [{"@id": "cgr.dev/acme/web"}]}`
	}
	not := func(when string) string { return at("not_affected", `"impact_statement": "no"`, when) }
	const action, none = `"action_statement": "update"`, `"status_notes": ""`
	for name, c := range map[string]struct {
		a, b string
		want bool
	}{
		"affected later":                  {not("2026-01-01T00:00:00Z"), at("affected", action, "2026-01-02T00:00:00Z"), false},
		"affected earlier":                {not("2026-01-02T00:00:00Z"), at("affected", action, "2026-01-01T00:00:00Z"), true},
		"affected at once":                {not("2026-01-01T00:00:00Z"), at("affected", action, "2026-01-01T00:00:00Z"), false},
		"investigated later":              {not("2026-01-01T00:00:00Z"), at("under_investigation", none, "2026-01-02T00:00:00Z"), false},
		"fixed later":                     {strings.Replace(at("fixed", none, "2026-01-02T00:00:00Z"), "acme/web", "acme/web:1", 1), at("affected", action, "2026-01-01T00:00:00Z"), true},
		"fixed later, in some version":    {at("fixed", none, "2026-01-02T00:00:00Z"), at("affected", action, "2026-01-01T00:00:00Z"), false},
		"not affected, and fixed later":   {not("2026-01-01T00:00:00Z"), at("fixed", none, "2026-01-02T00:00:00Z"), false},
		"not affected, and fixed at once": {not("2026-01-01T00:00:00Z"), at("fixed", none, "2026-01-01T00:00:00Z"), false},
		"affected later, in another zone": {not("2026-01-01T12:00:00+10:00"), at("affected", action, "2026-01-01T03:00:00Z"), false},
		"affected, updated later":         {not("2026-01-02T00:00:00Z"), strings.Replace(at("affected", action, "2026-01-01T00:00:00Z"), `"timestamp"`, `"last_updated": "2026-01-03T00:00:00Z", "timestamp"`, 1), false},
		"another product later":           {not("2026-01-01T00:00:00Z"), strings.Replace(at("affected", action, "2026-01-02T00:00:00Z"), "acme/web", "acme/db", 1), true},
	} {
		for _, sets := range [][]*Set{
			parsed(t, open1("d", c.a, c.b)), parsed(t, open1("d", c.b, c.a)),
			parsed(t, open1("d", c.a), open1("e", c.b)), parsed(t, open1("e", c.b), open1("d", c.a)),
			{parsed(t, open1("d", c.a))[0], parsed(t, open1("e", c.b))[0]},
		} {
			if got := suppressed(sets, web(), openssl()); got != c.want {
				t.Errorf("%s: suppressed %v", name, got)
			}
		}
	}
}

func TestErrorsOfOpenVEX(t *testing.T) {
	good := open1("d", notAffected(`{"@id": "cgr.dev/acme/web"}`))
	for name, c := range map[string]struct{ text, want string }{
		"no JSON":                    {"VEX", "d.json: line 1: not well formed"},
		"half a document":            {good[:len(good)-3], "d.json: line 1: not well formed"},
		"an empty file":              {"", "not well formed"},
		"two documents":              {good + good, "not well formed"},
		"a list":                     {"[]", "not well formed"},
		"something else":             {`{"bomFormat": "CycloneDX"}`, "neither OpenVEX (@context https://openvex.dev/ns/v0.2.0) nor CSAF"},
		"a context like it":          {strings.Replace(good, "ns/v0.2.0", "nsx", 1), "neither OpenVEX"},
		"an old form":                {strings.Replace(good, `{"name": "CVE-2026-1"}`, `"CVE-2026-1"`, 1), "OpenVEX 0.2.0 is read here"},
		"no author":                  {strings.Replace(good, `"vendor"`, `""`, 1), "@id or author is missing"},
		"no status":                  {strings.Replace(good, `"not_affected"`, `""`, 1), "statement 1: invalid status"},
		"a status of its own":        {strings.Replace(good, `"not_affected"`, `"fine"`, 1), `invalid status value "fine"`},
		"no justification":           {strings.Replace(good, `"justification": "component_not_present",`, "", 1), "either justification or impact statement"},
		"a justification of its own": {strings.Replace(good, "component_not_present", "trust_me", 1), "invalid justification"},
		"no vulnerability":           {strings.Replace(good, `"name": "CVE-2026-1"`, "", 1), "vulnerability.name is missing"},
		"no product":                 {strings.Replace(good, `{"@id": "cgr.dev/acme/web"}`, "", 1), "products is missing"},
		"no time":                    {strings.Replace(good, `"timestamp": "2026-01-01T00:00:00Z", `, "", 1), "timestamp is missing"},
		"a time that is none":        {strings.Replace(good, `2026-01-01T00:00:00Z`, "yesterday", 1), "not well formed"},
		"too large":                  {good + strings.Repeat(" ", maxDocument), "larger than 32 MiB"},
		"as deep as the sea":         {strings.Repeat(`{"document":`, 20000), "not well formed"},
		"too many products":          {open1("d", notAffected(strings.Repeat(`{"@id":"a/b"},`, maxProducts)+`{"@id":"a/b"}`)), "products"},
	} {
		if _, err := Parse("d.json", []byte(c.text)); err == nil || !strings.HasPrefix(err.Error(), "d.json: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

// TestFixedIsSaidOfAVersion: a product without one is fixed in some version, which may be
// another than the one at hand.
func TestFixedIsSaidOfAVersion(t *testing.T) {
	for product, want := range map[string]bool{
		`{"@id": "cgr.dev/acme/web"}`:                                                               false,
		`{"@id": "cgr.dev/acme/web:1"}`:                                                             true,
		`{"@id": "cgr.dev/acme/web:2"}`:                                                             false,
		`{"@id": "cgr.dev/acme/web@` + mine + `"}`:                                                  true,
		`{"@id": "` + mine + `"}`:                                                                   true,
		`{"@id": "pkg:oci/web?repository_url=cgr.dev/acme/web"}`:                                    false,
		`{"@id": "pkg:oci/web?repository_url=cgr.dev/acme/web&tag=1"}`:                              true,
		`{"@id": "pkg:oci/web@` + mine + `"}`:                                                       true,
		`{"@id": "pkg:apk/wolfi/openssl"}`:                                                          false,
		`{"@id": "pkg:apk/wolfi/openssl@3.0.1-r0"}`:                                                 true,
		`{"@id": "pkg:apk/wolfi/openssl@3.0.2-r0"}`:                                                 false,
		`{"@id": "x/y:1", "identifiers": {"purl": "pkg:apk/wolfi/openssl"}}`:                        false,
		`{"@id": "cgr.dev/acme/web", "subcomponents": [{"@id": "pkg:apk/wolfi/openssl"}]}`:          false,
		`{"@id": "cgr.dev/acme/web", "subcomponents": [{"@id": "pkg:apk/wolfi/openssl@3.0.1-r0"}]}`: true,
		`{"@id": "cgr.dev/acme/web:1", "subcomponents": [{"@id": "pkg:apk/wolfi/openssl"}]}`:        true,
		`{"@id": "localhost:5000/acme/web"}`:                                                        false,
	} {
		text := strings.Replace(notAffected(product), `"not_affected", "justification": "component_not_present"`, `"fixed"`, 1)
		if got := suppressed(parsed(t, open1("d", text)), web(), openssl()); got != want {
			t.Errorf("%s: suppressed %v", product, got)
		}
	}
}

// TestErrorsNameTheLine of the statement.
func TestErrorsNameTheLine(t *testing.T) {
	good := notAffected(`{"@id": "cgr.dev/acme/web"}`)
	text := open1("d", good+"\n", "\n"+strings.Replace(good, `"not_affected"`, `"fine"`, 1))
	if _, err := Parse("d.json", []byte(text)); err == nil || !strings.Contains(err.Error(), "d.json: line 3: statement 2: invalid status") {
		t.Errorf("%v\n%s", err, text)
	}
}

// An attestation is bound to its image, so that a name alone is enough there.
func TestPredicate(t *testing.T) {
	predicate := map[string]any{"@context": "https://openvex.dev/ns/v0.2.0", "@id": "d", "author": "v", "timestamp": "2026-01-01T00:00:00Z",
		"statements": []any{map[string]any{"vulnerability": map[string]any{"name": "CVE-2026-1"}, "status": "fixed", "products": []any{map[string]any{"@id": "pkg:oci/web"}}}}}
	d, err := FromPredicate(predicate)
	if err != nil {
		t.Fatal(err)
	}
	if !suppressed([]*Set{NewSet([]*Document{d})}, web(), openssl()) {
		t.Error("not suppressed")
	}
	img := web()
	img.Repository = "acme/db"
	if suppressed([]*Set{NewSet([]*Document{d})}, img, openssl()) {
		t.Error("suppressed for an image of another name")
	}
	if _, err := FromPredicate("VEX"); err == nil {
		t.Error("garbage was read")
	}
	for s, want := range map[string]bool{"https://openvex.dev/ns": true, "https://openvex.dev/ns/v0.2.0": true, "https://openvex.dev/nsx": false, "https://slsa.dev/provenance/v1": false} {
		if IsPredicate(s) != want {
			t.Errorf("%s: %v", s, !want)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := open1("d", notAffected(`{"@id": "cgr.dev/acme/web"}`))
	single := put("one/file.vex", good)
	put("many/a.json", good)
	put("many/below/b.JSON", good)
	put("many/README.md", "no document")
	put("many/.hidden/c.json", "{")
	put("many/..data.json", "{")
	// As Kubernetes mounts a ConfigMap.
	put("map/..2026/c.json", good)
	for link, to := range map[string]string{"map/..data": "..2026", "map/c.json": "..data/c.json", "linked": "many"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Files([]string{single, filepath.Join(dir, "linked"), filepath.Join(dir, "map")})
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	if docs, err := Load(files); err != nil || len(docs) != 4 {
		t.Fatalf("%v, %v", docs, err)
	}
	bad := put("many/bad.json", "{\n\n}}")
	files, err = Files([]string{filepath.Join(dir, "many")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(files); err == nil || !strings.Contains(err.Error(), bad+": line 3") {
		t.Errorf("error %v", err)
	}
	if _, err := Files([]string{filepath.Join(dir, "none")}); err == nil {
		t.Error("a folder that is not there holds nothing")
	}
}

// FuzzParse: what is read names documents, authors, vulnerabilities and reasons, and holding
// it against an image ends.
func FuzzParse(f *testing.F) {
	f.Add([]byte(open1("d", notAffected(`{"@id": "cgr.dev/acme/web", "subcomponents": [{"@id": "pkg:apk/wolfi/openssl"}]}`))))
	f.Add([]byte(csaf1(`"known_not_affected": ["web"]`)))
	f.Add([]byte(`{"document": {}, "product_tree": {"branches": [{"branches": []}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse("f", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f: ") {
				t.Fatalf("the error doesn't name the file: %v", err)
			}
			return
		}
		if d.ID == "" || d.Author == "" || d.Revision == "" {
			t.Fatalf("%+v", d)
		}
		for _, s := range d.statements {
			if len(s.vulnerabilities) == 0 || s.at.IsZero() || s.status == NotAffected && s.why == "" {
				t.Fatalf("%+v", s)
			}
		}
		Find([]*Set{NewSet([]*Document{d})}, web(), openssl())
	})
}

// TestHeadsNameTheLine of what is wrong with a document as a whole.
func TestHeadsNameTheLine(t *testing.T) {
	good := csaf1(`"known_not_affected": ["web"]`)
	for name, c := range map[string][2]string{
		"category":     {strings.Replace(good, "csaf_vex", "csaf_base", 1), "line 1: document.category"},
		"moved down":   {"{\n\n" + strings.Replace(good, "csaf_vex", "csaf_base", 1)[1:], "line 3: document.category"},
		"product tree": {strings.Replace(good, `"product_id": "curl"`, `"product_id": "openssl"`, 1), "line 3: product_tree"},
		"OpenVEX":      {strings.Replace(open1("d", notAffected(`{"@id": "cgr.dev/acme/web"}`)), `"vendor"`, `""`, 1), "line 1: @id or author"},
	} {
		if _, err := Parse("d.json", []byte(c[0])); err == nil || !strings.Contains(err.Error(), "d.json: "+c[1]) {
			t.Errorf("%s: %v, want %s", name, err, c[1])
		}
	}
}

// TestMisses: what is said of another image or package is found, with its place, and what
// counts is none.
func TestMisses(t *testing.T) {
	text := open1("d", "\n"+notAffected(`{"@id": "cgr.dev/acme/other"}`),
		"\n"+notAffected(`{"@id": "cgr.dev/acme/web", "subcomponents": [{"@id": "pkg:apk/wolfi/curl"}]}`),
		"\n"+notAffected(`{"@id": "acme"}`), "\n"+notAffected(`{"@id": "cgr.dev/acme/web"}`),
		"\n"+strings.Replace(notAffected(`{"@id": "cgr.dev/acme/third"}`), `"not_affected", "justification": "component_not_present"`, `"affected", "action_statement": "update"`, 1))
	got := fmt.Sprintf("%+v", Misses(append(parsed(t, text), nil), web(), openssl()))
	want := "[{Place:doc0.json:2 Document:d Status:not_affected Products:[cgr.dev/acme/other]} " +
		"{Place:doc0.json:3 Document:d Status:not_affected Products:[pkg:apk/wolfi/curl in cgr.dev/acme/web]} " +
		"{Place:doc0.json:4 Document:d Status:not_affected Products:[something without a package URL, an image reference or a digest]}]"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
