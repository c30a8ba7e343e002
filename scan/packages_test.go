package scan

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// catalogued is an image whose SBOM holds these artifacts.
func (h *house) catalogued(t *testing.T, name, artifacts string) digest.Digest {
	t.Helper()
	d := digest.FromString(name)
	key := h.sbomKey([]digest.Digest{d}, imageConfigFile{})
	h.putSBOM(t.Context(), key, &SBOM{JSON: []byte(`{"artifacts":` + artifacts + `,"files":[],"schema":{}}`), Packages: 1})
	h.put(t.Context(), h.imageKey(d), imageRecord{SBOM: key.ID()}, contentTTL)
	return d
}

func TestPackages(t *testing.T) {
	h := newHouse(t)
	d := h.catalogued(t, "image", `[
		{"id":"1","name":"busybox","version":"1.37.0-r1","type":"apk","locations":[],"purl":"pkg:apk/wolfi/busybox@1.37.0-r1",
		 "licenses":[{"value":"GPL-2.0","spdxExpression":"GPL-2.0-only","type":"declared","urls":[]},{"value":"own  words\nof it","spdxExpression":""},{"value":"GPL-2.0","spdxExpression":"GPL-2.0-only"}]},
		{"id":"2","name":"odd","version":"","type":"npm","licenses":[{"value":"`+strings.Repeat("x", 5000)+`"},{"value":""}],"metadata":{"licenses":7}},
		{"id":"3","name":"none","version":"1","type":"deb","licenses":[]}]`)
	want := []Package{
		{Name: "busybox", Version: "1.37.0-r1", Type: "apk", PURL: "pkg:apk/wolfi/busybox@1.37.0-r1", Licenses: []string{"GPL-2.0-only", "own words of it"}},
		{Name: "odd", Type: "npm", Licenses: []string{strings.Repeat("x", maxLicense) + "…"}},
		{Name: "none", Version: "1", Type: "deb"},
	}
	other := h.another(t)
	for what, s := range map[string]*Scanner{"first": h.Scanner, "again": h.Scanner, "another gateway": other.Scanner} {
		if got, err := s.Packages(t.Context(), d); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%s: %v\n%s", what, err, cmp.Diff(want, got))
		}
	}
	// Once it was read out, the SBOM itself is needed no more.
	if err := h.store.Delete(t.Context(), h.sbomKey([]digest.Digest{d}, imageConfigFile{})); err != nil {
		t.Fatal(err)
	}
	if got, err := h.another(t).Packages(t.Context(), d); err != nil || len(got) != 3 {
		t.Errorf("from what was read out: %v, %v", got, err)
	}
}

// An image without packages has an empty list, one without an SBOM none.
func TestPackagesOfNothing(t *testing.T) {
	h := newHouse(t)
	if got, err := h.Packages(t.Context(), h.catalogued(t, "scratch", `[]`)); err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := h.Packages(t.Context(), digest.FromString("unknown")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown image: %v", err)
	}
	refused := digest.FromString("refused")
	h.put(t.Context(), h.imageKey(refused), imageRecord{Outcome: h.nothing(Unsupported, "a chart")}, contentTTL)
	if _, err := h.Packages(t.Context(), refused); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without an SBOM: %v", err)
	}
	lost := h.catalogued(t, "lost", `[]`)
	if err := h.store.Delete(t.Context(), h.sbomKey([]digest.Digest{lost}, imageConfigFile{})); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Packages(t.Context(), lost); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its SBOM is lost: %v", err)
	}
	if _, err := h.Packages(t.Context(), h.catalogued(t, "broken", `[{`)); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an SBOM that is no JSON: %v", err)
	}
}

func TestLicensed(t *testing.T) {
	a, b := Package{Name: "a", Version: "1"}, Package{Name: "b", Version: "1"}
	findings := []Finding{{ID: "1", Package: a}, {ID: "2", Package: b}, {ID: "3", Package: Package{Name: "c"}}}
	a.Licenses = []string{"MIT"}
	twice := a
	twice.Licenses = []string{"ISC"}
	got := Licensed(findings, []Package{a, b, twice})
	if !cmp.Equal(got[0].Package.Licenses, []string{"ISC", "MIT"}) || got[1].Package.Licenses != nil || got[2].Package.Licenses != nil {
		t.Errorf("%+v", got)
	}
	if findings[0].Package.Licenses != nil {
		t.Error("what was given was changed")
	}
}

func BenchmarkReadPackages(b *testing.B) {
	doc := []byte(`{"artifacts":[` + strings.Repeat(`{"id":"1","name":"n","version":"1","type":"deb","licenses":[{"value":"MIT","spdxExpression":"MIT"}],"metadata":{"files":[`+
		strings.TrimSuffix(strings.Repeat(`{"path":"/usr/share/doc/x","digest":{"algorithm":"md5","value":"d41d8cd98f00b204e9800998ecf8427e"},"isConfigFile":false},`, 150), ",")+`]}},`, 999) + `{"name":"last"}]}`)
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if p, err := readPackages(bytes.Clone(doc)); err != nil || len(p) != 1000 {
			b.Fatal(err)
		}
	}
}
