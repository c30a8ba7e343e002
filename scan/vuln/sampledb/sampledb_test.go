package sampledb

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"
	"github.com/spf13/afero"

	"github.com/sluicegate/sluice/scan"
)

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	built := time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC)
	db, err := Build(filepath.Join(dir, "db"), built)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(db.Checksum, "xxh64:") {
		t.Errorf("checksum %q", db.Checksum)
	}
	about, err := v6.ReadDescription(filepath.Join(db.Dir, v6.VulnerabilityDBFileName))
	if err != nil {
		t.Fatal(err)
	}
	if want := built.Truncate(time.Second); !about.Built.Equal(want) || !db.Built.Equal(want) {
		t.Errorf("built %s in the file and %s in the answer, want %s", about.Built, db.Built, want)
	}
}

// A copy is a build of its own, and what it is of stays as it was.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	built := time.Date(2026, 11, 22, 12, 0, 0, 5, time.UTC)
	first, err := Build(filepath.Join(dir, "first"), built)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Copy(first, filepath.Join(dir, "second"), built.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if second.Checksum == first.Checksum || !second.Built.Equal(first.Built.Add(-time.Hour)) {
		t.Errorf("%+v of %+v", second, first)
	}
	for _, db := range []scan.Database{first, second} {
		about, err := v6.ReadDescription(filepath.Join(db.Dir, v6.VulnerabilityDBFileName))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := v6.ReadImportMetadata(afero.NewOsFs(), db.Dir)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := v6.CalculateDBDigest(afero.NewOsFs(), filepath.Join(db.Dir, v6.VulnerabilityDBFileName))
		if err != nil || sum != db.Checksum || meta.Digest != sum || !about.Built.Equal(db.Built) {
			t.Errorf("%+v: built %s, checksum %s, %s, %v", db, about.Built, sum, meta.Digest, err)
		}
	}
}

func TestArchive(t *testing.T) {
	db, err := Build(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	mirror := t.TempDir()
	for range 2 {
		if err := Archive(mirror, db); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewServer(Handler(mirror))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL + "/v6/latest.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	latest, err := distribution.NewLatestFromReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if latest.Status != distribution.StatusActive || !latest.Built.Equal(db.Built) {
		t.Errorf("listing %+v of a database built %s", latest, db.Built)
	}
	if _, err := os.Stat(filepath.Join(mirror, "v6", latest.Path)); err != nil {
		t.Error(err)
	}
}

func TestParseRejects(t *testing.T) {
	for name, doc := range map[string]string{
		"unknown CVE":    `{"cves":{},"distributions":[{"systems":[],"package":"p","cve":"CVE-1","fixed":"1"}]}`,
		"unknown system": `{"cves":{"CVE-1":{}},"distributions":[{"systems":["x"],"package":"p","cve":"CVE-1","fixed":"1"}]}`,
		"bad day":        `{"captured":"yesterday"}`,
		"advisory's CVE": `{"cves":{},"languages":[{"id":"GHSA-1","cve":"CVE-2"}]}`,
	} {
		if _, err := parse([]byte(doc)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
