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
// those that they are related with.
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
		r.Package.RelatedPackages, r.Package.Distro = nil, nil
		rows = append(rows, r)
	}
	b, err := json.MarshalIndent(rows, "", " ")
	check(t, err)
	if about.Distro != nil {
		b = append(b, about.Distro.String()...)
	}
	return string(b)
}

// TestWithoutFiles: what is decoded of an SBOM without its files is what is decoded of
// all of it.
func TestWithoutFiles(t *testing.T) {
	images := map[string]string{"owned by a distribution's package": catalogue(t, image(t, suppressedImage().layer(t)))}
	for _, g := range goldens {
		images[g.golden] = catalogue(t, realImage(t, g.image))
	}
	for name, file := range images {
		t.Run(name, func(t *testing.T) {
			doc, err := os.ReadFile(file)
			check(t, err)
			slim := withoutFiles(doc)
			if diff := cmp.Diff(heard(t, doc), heard(t, slim)); diff != "" {
				t.Errorf("-whole +slim:\n%s", diff)
			}
			if !json.Valid(slim) || len(slim) >= len(doc) {
				t.Errorf("%d bytes of %d, valid: %t", len(slim), len(doc), json.Valid(slim))
			}
			t.Logf("%d bytes of %d", len(slim), len(doc))
		})
	}
}

func TestWithoutFilesKeeps(t *testing.T) {
	const (
		packages = `"artifacts":[{"id":"a","name":"x\",\"files\":[{\"","metadata":{"files":[1,"]}"],"artifactRelationships":[]}},{"id":"b"}]`
		between  = `{"parent":"a","child":"b","type":"ownership-by-file-overlap","metadata":{"files":["/x"]}}`
		toFile   = `{"parent":"a","child":"f","type":"contains"}`
		rest     = `"source":{"id":"s","n":-1.5e3},"schema":{"version":"1"}`
	)
	object := func(parts ...string) string { return "{" + strings.Join(parts, ",") + "}" }
	relationships := func(rs ...string) string { return `"artifactRelationships":[` + strings.Join(rs, ",") + `]` }
	files := `"files":[{"id":"f","location":{"path":"/x\\"}}]`
	slim := object(packages, relationships(between), `"files":[]`, rest)
	tests := []struct{ name, doc, want string }{
		{"between packages", object(packages, relationships(toFile, between, toFile), files, rest), slim},
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
		if got := string(withoutFiles([]byte(tt.doc))); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

// FuzzWithoutFiles: whatever the bytes are, what is left of a document is one, and
// nothing of its packages is lost.
func FuzzWithoutFiles(f *testing.F) {
	f.Add([]byte(`{"artifacts":[{"id":"a"}],"artifactRelationships":[{"parent":"a","child":"f"}],"files":[{"id":"f"}],"schema":{}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		slim := withoutFiles(doc)
		if !json.Valid(doc) {
			return
		}
		var want, got struct{ Artifacts, Source, Schema json.RawMessage }
		if json.Unmarshal(doc, &want) != nil {
			return
		}
		if err := json.Unmarshal(slim, &got); err != nil {
			t.Fatalf("%q became %q: %v", doc, slim, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q became %q:\n%s", doc, slim, diff)
		}
	})
}
