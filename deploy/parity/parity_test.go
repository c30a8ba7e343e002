package main

import (
	"archive/tar"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

// A small SBOM with something of all that is compared.
const sbomJSON = `{"artifacts":[
 {"id":"1","name":"zlib","version":"1.3","type":"apk","locations":[{"path":"/lib/apk/db/installed","layerID":"sha256:a"}],"licenses":[{"value":"Zlib"}]},
 {"id":"2","name":"x/text","version":"v0.3.7","type":"go-module","metadata":{"h1Digest":"h1:x"}},
 {"id":"3","name":"noted","version":"1","type":"binary","metadataType":"elf-binary-package-note-json-payload"}],
 "artifactRelationships":[{"parent":"1","child":"2","type":"ownership-by-file-overlap","metadata":{"files":["/bin/x"]}},{"parent":"s","child":"2","type":"contains"}],
 "files":[{"id":"f","location":{"path":"/x"},"unknowns":["not read"]}],
 "source":{"id":"s","name":"who asked","type":"image","metadata":{"userInput":"oci-dir","imageSize":1,"layers":[{"digest":"sha256:a"}]}},
 "distro":{"id":"wolfi"}}`

func parse(t *testing.T, replace ...string) *document {
	t.Helper()
	text := strings.NewReplacer(replace...).Replace(sbomJSON)
	if len(replace) > 0 && text == sbomJSON {
		t.Fatalf("%q is not there", replace)
	}
	d, err := readDocument([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Each thing that an SBOM can say otherwise is told; who asked for it is not.
func TestDifferences(t *testing.T) {
	for name, c := range map[string]struct {
		replace []string
		want    string
	}{
		"nothing":              {nil, ""},
		"who asked":            {[]string{`"oci-dir"`, `"registry"`, `"who asked"`, `"somebody"`}, ""},
		"an ID":                {[]string{`"id":"1"`, `"id":"9"`}, "only syft has: apk zlib"},
		"a version":            {[]string{`"1.3"`, `"1.4"`}, `version is "1.4", syft says "1.3"`},
		"a licence":            {[]string{`"Zlib"`, `"MIT"`}, "licenses is"},
		"a location's layer":   {[]string{`"layerID":"sha256:a"`, `"layerID":"sha256:b"`}, "locations is"},
		"a field that is gone": {[]string{`,"metadataType":"elf-binary-package-note-json-payload"`, ""}, "metadataType is null"},
		"a package twice":      {[]string{`"artifacts":[`, `"artifacts":[{"id":"1","name":"zlib"},`}, "syft doesn't have"},
		"a relation's end":     {[]string{`"parent":"1"`, `"parent":"3"`}, "relationship only syft has"},
		"a relation's words":   {[]string{`"/bin/x"`, `"/bin/y"`}, "relationship only syft has"},
		"a relation's kind":    {[]string{`"contains"`, `"dependency-of"`}, "relationship syft doesn't have"},
		"a relation twice":     {[]string{`{"parent":"s"`, `{"parent":"s","child":"2","type":"contains"},{"parent":"s"`}, "relationship syft doesn't have"},
		"an unread file":       {[]string{`"not read"`, `"read"`}, "unknowns is"},
		"the distribution":     {[]string{`"wolfi"`, `"chainguard"`}, "distro: id"},
		"the source":           {[]string{`"imageSize":1`, `"imageSize":2`}, "source: metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(differences(parse(t), parse(t, c.replace...)), "\n")
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want something with %q", got, c.want)
			}
		})
	}
}

// Under its defaults syft says more; what our settings leave out is counted, and
// everything else is a difference.
func TestDefaults(t *testing.T) {
	symbols := []string{`"id":"2"`, `"id":"22"`, `"child":"2"`, `"child":"22"`, `{"h1Digest":"h1:x"}`, `{"h1Digest":"h1:x","symbols":{"a":["F"]}}`}
	more := []string{
		`"artifacts":[`, `"artifacts":[{"id":"u","name":"main","version":"UNKNOWN","type":"go-module"},`,
		`"artifactRelationships":[`, `"artifactRelationships":[{"parent":"s","child":"u","type":"contains"},{"parent":"1","child":"3","type":"dependency-of"},`,
	}
	out, left := defaults(parse(t, more...), parse(t, symbols...))
	if len(out) > 0 {
		t.Error(out)
	}
	if d := cmp.Diff(remainder{symbols: 1, noVersion: 1, relations: map[string]int{"contains": 1, "dependency-of": 1}}, left, cmp.AllowUnexported(remainder{})); d != "" {
		t.Error(d)
	}
	for name, c := range map[string][]string{
		"another package is missing": {`{"id":"1","name":"zlib"`, `{"id":"8","name":"other"`},
		"a module has another hash":  {`"h1:x"`, `"h1:y"`},
		"a relation is missing":      {`,{"parent":"s","child":"2","type":"contains"}`, ""},
		"a dependency is missing":    {`{"parent":"s","child":"2","type":"contains"}`, `{"parent":"s","child":"2","type":"dependency-of"}`},
	} {
		if out, _ := defaults(parse(t), parse(t, c...)); len(out) == 0 {
			t.Errorf("%s: nothing differs", name)
		}
	}
}

const grypeJSON = `{"matches":[
 {"vulnerability":{"id":"GHSA-a","namespace":"github:language:go","severity":"Unknown","fix":{"versions":["2","1.5"],"state":"fixed","available":[{"date":"2024-02-01"},{"date":"2024-01-01"}]}},
  "relatedVulnerabilities":[{"id":"CVE-2024-1","namespace":"nvd:cpe","severity":"High","cvss":[{"metrics":{"baseScore":7.5}}],"epss":[{"epss":0.5}],"knownExploited":[{"dateAdded":"2024-03-01"}]}],
  "artifact":{"name":"x","version":"1","type":"go-module","purl":"pkg:golang/x@1","locations":[{"path":"/other","layerID":"sha256:b"},{"path":"/x","layerID":"sha256:a","annotations":{"evidence":"primary"}}]}},
 {"vulnerability":{"id":"CVE-2024-1","namespace":"nvd:cpe","severity":"Low","fix":{"versions":["3"],"state":"not-fixed"}},"relatedVulnerabilities":[],
  "artifact":{"name":"x","version":"1","type":"go-module","purl":"pkg:golang/x@1","locations":[{"path":"/x","layerID":"sha256:a"}]}}],
 "ignoredMatches":[
 {"vulnerability":{"id":"CVE-2024-2","severity":"Low","fix":{"state":""}},"artifact":{"name":"y","version":"1","type":"python"},"appliedIgnoreRules":[{"reason":"distro-fixed"}]},
 {"vulnerability":{"id":"CVE-2024-3","severity":"Low"},"artifact":{"name":"linux-libc-dev","version":"6","type":"deb"},"appliedIgnoreRules":[{"match-type":"exact-indirect-match","package":{"upstream-name":"linux"}}]}]}`

func rowsOf(t *testing.T) *said {
	t.Helper()
	s := new(said)
	if err := json.Unmarshal([]byte(grypeJSON), s); err != nil {
		t.Fatal(err)
	}
	return s
}

// Rows become findings by the rules that expected names.
func TestExpected(t *testing.T) {
	by := "distribution: fixed in the installed version"
	want := []scan.Finding{
		{ID: "CVE-2024-1", Aliases: []string{"GHSA-a"}, Severity: "high", CVSS: 7.5, EPSS: 0.5, KEV: "2024-03-01",
			Package: scan.Package{Name: "x", Version: "1", Type: "go-module", PURL: "pkg:golang/x@1"},
			Fix:     scan.Fix{State: "fixed", Versions: []string{"1.5", "2", "3"}, Available: "2024-01-01"}, Layer: "sha256:a", Path: "/x"},
		{ID: "CVE-2024-2", Severity: "low", Package: scan.Package{Name: "y", Version: "1", Type: "python"},
			Fix: scan.Fix{State: "unknown"}, SuppressedBy: &by},
	}
	got := expected(rowsOf(t))
	if out := diffFindings(got, want); len(out) > 0 {
		t.Fatal(out)
	}
	for name, change := range map[string]func([]scan.Finding) []scan.Finding{
		"one is missing":      func(f []scan.Finding) []scan.Finding { return f[1:] },
		"one is invented":     func(f []scan.Finding) []scan.Finding { return append(f, scan.Finding{ID: "CVE-2024-9"}) },
		"one stands twice":    func(f []scan.Finding) []scan.Finding { return append(f, f[0]) },
		"not suppressed":      func(f []scan.Finding) []scan.Finding { f[1].SuppressedBy = nil; return f },
		"suppressed":          func(f []scan.Finding) []scan.Finding { f[0].SuppressedBy = &by; return f },
		"another fix":         func(f []scan.Finding) []scan.Finding { f[0].Fix.Versions = []string{"2"}; return f },
		"another fix state":   func(f []scan.Finding) []scan.Finding { f[0].Fix.State = "not-fixed"; return f },
		"an alias is missing": func(f []scan.Finding) []scan.Finding { f[0].Aliases = nil; return f },
		"another place":       func(f []scan.Finding) []scan.Finding { f[0].Path = "/y"; return f },
		"another layer":       func(f []scan.Finding) []scan.Finding { f[0].Layer = "sha256:b"; return f },
		"another severity":    func(f []scan.Finding) []scan.Finding { f[0].Severity = "low"; return f },
		"not exploited":       func(f []scan.Finding) []scan.Finding { f[0].KEV = ""; return f },
	} {
		if out := diffFindings(got, change(slices.Clone(want))); len(out) == 0 {
			t.Errorf("%s: nothing differs", name)
		}
	}
}

func TestGolden(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list.json")
	list := func(text string) *golden {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := readGolden(file)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	rows := rowsOf(t).Matches
	if out := list(`{"matches":1,"rows":[{"id":"GHSA-a","package":"x","version":"1"}]}`).differences("grype", "", ofRows(rows[:1])); len(out) > 0 {
		t.Error(out)
	}
	if out := list(`{"matches":1,"rows":[{"id":"GHSA-b","package":"x","version":"1"}]}`).differences("grype", "", ofRows(rows[:1])); len(out) != 2 {
		t.Errorf("%q, want one that is missing and one too many", out)
	}
	if out := list(`{"matches":0,"rows":[]}`).differences("grype", "deb", ofRows(rows)); len(out) > 0 {
		t.Errorf("%q of a type that the list doesn't cover", out)
	}
	if err := os.WriteFile(file, []byte(`{"matches":2,"rows":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readGolden(file); err == nil {
		t.Error("a list that has lost its rows is read")
	}
}

// A layer made of two root file systems holds what changed, and whiteouts.
func TestDifferenceOfArchives(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, entries ...entry) string {
		t.Helper()
		file := filepath.Join(dir, name)
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w := tar.NewWriter(f)
		if err := of(entries...)(w); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return file
	}
	before := write("before", entry{name: "./a/"}, entry{name: "./a/gone"}, entry{name: "./dir/"}, entry{name: "./dir/inside"}, entry{name: "./same", content: "1"}, entry{name: "./changed", content: "1"})
	after := write("after", entry{name: "./a/"}, entry{name: "./same", content: "1"}, entry{name: "./changed", content: "2"}, entry{name: "./new", hard: "./same"})
	l, err := newLayout(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	made, err := l.layer(plain, difference(before, after))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = walk(filepath.Join(l.dir, "blobs", "sha256", made.Digest.Encoded()), func(h *tar.Header, _ io.Reader) error {
		got = append(got, h.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"a/.wh.gone", ".wh.dir", "changed", "new"}, got); d != "" {
		t.Error(d)
	}
}

// Every subject is told apart, and every kind of image that must be there is.
func TestCorpus(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range corpus() {
		if seen[s.name] || s.about == "" || s.make == nil {
			t.Errorf("%+v", s)
		}
		seen[s.name] = true
	}
	for _, name := range []string{"no-layers", "empty-layer", "scratch-sluice", "debian-stages", "debian-moved", "apko", "npm-a", "apk-through-link", "rust-auditable"} {
		if !seen[name] {
			t.Errorf("no image %s", name)
		}
	}
}
