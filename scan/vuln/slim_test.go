package vuln

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/anchore/grype/grype/pkg"
	"github.com/google/go-cmp/cmp"
)

// heard is all that a match reads of an SBOM, as text: the packages in their order, and
// those that they are related with. Their licences are for those who show them.
func heard(t *testing.T, doc []byte) string {
	t.Helper()
	packages, about, _, err := pkg.ProvideFromReader(bytes.NewReader(doc), provision())
	check(t, err)
	type related map[string][]string
	type row struct {
		Package pkg.Package
		Distro  string
		Related related
	}
	var rows []row
	for _, p := range packages {
		r := row{Package: p, Related: related{}}
		if p.Distro != nil {
			r.Distro = p.Distro.String()
		}
		for kind, others := range p.RelatedPackages {
			for _, o := range others {
				r.Related[string(kind)] = append(r.Related[string(kind)], string(o.ID))
			}
		}
		r.Package.RelatedPackages, r.Package.Distro, r.Package.Licenses = nil, nil, nil
		rows = append(rows, r)
	}
	b, err := json.MarshalIndent(rows, "", " ")
	check(t, err)
	if about.Distro != nil {
		b = append(b, about.Distro.String()...)
	}
	return string(b)
}

// TestSlim: what is decoded of a slim SBOM is what is decoded of all of it, also where
// grype has to find out which package owns which.
func TestSlim(t *testing.T) {
	images := map[string]string{"owned by a distribution's package": catalogue(t, image(t, suppressedImage().layer(t)))}
	for _, g := range goldens {
		images[g.golden] = catalogue(t, realImage(t, g.image))
	}
	for name, file := range images {
		t.Run(name, func(t *testing.T) {
			doc, err := os.ReadFile(file)
			check(t, err)
			for _, doc := range [][]byte{doc, bytes.ReplaceAll(doc, []byte(`"type":"ownership-by-file-overlap"`), []byte(`"type":"dependency-of"`))} {
				thinned := slim(doc)
				if diff := cmp.Diff(heard(t, doc), heard(t, thinned)); diff != "" {
					t.Errorf("-whole +slim:\n%s", diff)
				}
				if !json.Valid(thinned) || len(thinned) >= len(doc) {
					t.Errorf("%d bytes of %d, valid: %t", len(thinned), len(doc), json.Valid(thinned))
				}
				t.Logf("%d bytes of %d", len(thinned), len(doc))
			}
		})
	}
}

func TestSlimKeeps(t *testing.T) {
	const (
		packages = `"artifacts":[{"id":"a","name":"x\",\"files\":[{\"","metadata":{"files":[1,"]}"],"artifactRelationships":[]}},{"id":"b"}]`
		between  = `{"parent":"a","child":"b","type":"ownership-by-file-overlap","metadata":{"files":["/x"]}}`
		toFile   = `{"parent":"a","child":"f","type":"contains"}`
		rest     = `"source":{"id":"s","n":-1.5e3},"schema":{"version":"1"}`
	)
	object := func(parts ...string) string { return "{" + strings.Join(parts, ",") + "}" }
	relationships := func(rs ...string) string { return `"artifactRelationships":[` + strings.Join(rs, ",") + `]` }
	files := `"files":[{"id":"f","location":{"path":"/x\\"}}]`
	want := object(packages, relationships(between), `"files":[]`, rest)
	tests := []struct{ name, doc, want string }{
		{"between packages", object(packages, relationships(toFile, between, toFile), files, rest), want},
		{"files first", object(files, packages, relationships(between, toFile), rest), object(`"files":[]`, packages, relationships(between), rest)},
		{"nothing related", object(packages, relationships(), files, rest), object(packages, relationships(), `"files":[]`, rest)},
		{"only files", object(packages, relationships(toFile), files, rest), object(packages, relationships(), `"files":[]`, rest)},
		{"no packages", object(`"artifacts":[]`, relationships(toFile), files), object(`"artifacts":[]`, relationships(), `"files":[]`)},
	}
	for _, doc := range []string{"", "{", "{}", "[]", "null", `{"a"`, `{"a":`, `{"a":1`, `{"a":"`, `{"a":"\`, `{"artifacts":[}`,
		object(packages, relationships(toFile), rest), // no files
		object(packages, files, rest),                 // no relationships
		object(packages, relationships(toFile), files, packages),
		object(packages, relationships(toFile), files, `"file\u0073":[]`),
		object(strings.Replace(packages, `{"id":"b"}`, `{"name":"b","id":"b"}`, 1), relationships(between), files),
		object(packages, relationships(between+" ", between), files),
		object(packages, relationships(between, " "+between)+" ", files),
		object(packages, `"artifactRelationships":[`+between+","+between, files),
		"{ " + packages + "," + relationships(toFile) + "," + files + "}",
	} {
		tests = append(tests, struct{ name, doc, want string }{"as it is: " + doc, doc, doc})
	}
	for _, tt := range tests {
		if got := string(slim([]byte(tt.doc))); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

// TestThin: a package keeps the files that a package may lie at, and all of them where
// that can't be told.
func TestThin(t *testing.T) {
	const (
		lies  = `{"id":"p","locations":[{"path":"/usr/bin/p","layerID":"l"}],"licenses":[]}`
		owned = `{"path":"/usr/bin/p","digest":{"value":"["}},{"path":"/a\u0026b"}`
		other = `{"path":"/usr/bin/q","isConfigFile":false},`
	)
	deb := func(files, kind string) string {
		return `{"id":"d","locations":[],"licenses":[],"metadataType":"` + kind + `","metadata":{"package":"d","files":[` + files + `]}}`
	}
	for _, tt := range []struct{ name, lies, of, want string }{
		{"dpkg", lies, deb(other+owned, "dpkg-db-entry"), deb(owned, "dpkg-db-entry")},
		{"rpm", lies, deb(other+owned, "rpm-db-entry"), deb(owned, "rpm-db-entry")},
		{"apk", lies, deb(other+owned, "apk-db-entry"), deb(other+owned, "apk-db-entry")},
		{"licences", lies, `{"id":"d","locations":[],"licenses":[{"value":"]"}]}`, `{"id":"d","locations":[],"licenses":[]}`},
		{"nothing lies there", `{"locations":[]}`, deb(`{"path":"/usr/bin/p"}`, "dpkg-db-entry"), deb("", "dpkg-db-entry")},
		{"escaped place", `{"locations":[{"path":"/a\u0026b"}]}`, deb(other+owned, "dpkg-db-entry"), deb(other+owned, "dpkg-db-entry")},
		{"unknown place", `{"locations":[{"layerID":"l","path":"/usr/bin/p"}]}`, deb(other+owned, "dpkg-db-entry"), deb(other+owned, "dpkg-db-entry")},
		{"file otherwise written", lies, deb(`{"size":1,"path":"/x"}`, "dpkg-db-entry"), deb(`{"size":1,"path":"/x"}`, "dpkg-db-entry")},
		{"no list", lies, `{"id":"d","locations":[],"metadataType":"dpkg-db-entry","metadata":{"files":null}}`, `{"id":"d","locations":[],"metadataType":"dpkg-db-entry","metadata":{"files":null}}`},
		{"no metadata", lies, `{"id":"d","locations":[],"metadataType":"dpkg-db-entry"}`, `{"id":"d","locations":[],"metadataType":"dpkg-db-entry"}`},
	} {
		got := thin([][]byte{[]byte(tt.lies), []byte(tt.of)})
		if string(got[1]) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got[1], tt.want)
		}
	}
}

// FuzzSlim: whatever the bytes are, what is left of a document is one, and nothing of its
// packages is lost but licences and files.
func FuzzSlim(f *testing.F) {
	f.Add([]byte(`{"artifacts":[{"id":"a"}],"artifactRelationships":[{"parent":"a","child":"f"}],"files":[{"id":"f"}],"schema":{}}`))
	f.Add([]byte(`{"artifacts":[{"id":"a","locations":[{"path":"/a"}],"licenses":[1],"metadataType":"dpkg-db-entry","metadata":{"files":[{"path":"/a"},{"path":"/b"}]}}],` +
		`"artifactRelationships":[],"files":[]}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		thinned := slim(doc)
		if !json.Valid(doc) {
			return
		}
		type document struct {
			Artifacts      []map[string]any
			Source, Schema json.RawMessage
		}
		var want, got document
		if json.Unmarshal(doc, &want) != nil {
			return
		}
		if err := json.Unmarshal(thinned, &got); err != nil {
			t.Fatalf("%q became %q: %v", doc, thinned, err)
		}
		for _, p := range append(want.Artifacts, got.Artifacts...) {
			delete(p, "licenses")
			if m, ok := p["metadata"].(map[string]any); ok {
				delete(m, "files")
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q became %q:\n%s", doc, thinned, diff)
		}
	})
}
