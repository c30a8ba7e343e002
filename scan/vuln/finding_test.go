package vuln

import (
	"bytes"
	"database/sql"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/anchore/grype/grype/vulnerability"
	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan"
)

func TestIdentity(t *testing.T) {
	for name, c := range map[string]struct {
		own, id string
		related []string
		aliases []string
	}{
		"a CVE":               {"CVE-2024-1", "CVE-2024-1", nil, []string{}},
		"a CVE, with itself":  {"CVE-2024-1", "CVE-2024-1", []string{"CVE-2024-1", "cve-2024-1"}, []string{}},
		"a CVE, with another": {"CVE-2024-1", "CVE-2024-1", []string{"CVE-2024-2"}, []string{"CVE-2024-2"}},
		"one CVE":             {"GHSA-a", "CVE-2024-1", []string{"CVE-2024-1", "GHSA-a"}, []string{"GHSA-a"}},
		"one CVE, other IDs":  {"GO-2024-1", "CVE-2024-1", []string{"GHSA-a", "CVE-2024-1"}, []string{"GHSA-a", "GO-2024-1"}},
		"two CVEs":            {"DSA-1", "DSA-1", []string{"CVE-2024-2", "CVE-2024-1"}, []string{"CVE-2024-1", "CVE-2024-2"}},
		"none":                {"GHSA-a", "GHSA-a", nil, []string{}},
	} {
		v := vulnerability.Vulnerability{Reference: vulnerability.Reference{ID: c.own}}
		for _, r := range c.related {
			v.RelatedVulnerabilities = append(v.RelatedVulnerabilities, vulnerability.Reference{ID: r})
		}
		id, aliases := identity(v)
		if d := cmp.Diff(c.aliases, aliases); id != c.id || d != "" {
			t.Errorf("%s: %s, want %s; %s", name, id, c.id, d)
		}
	}
}

func TestMerge(t *testing.T) {
	by := "scanner"
	a := scan.Finding{
		ID: "CVE-1", Aliases: []string{"GO-1"}, Severity: "unknown", EPSS: 0.1, Percentile: 0.9, Published: "2024-02-01", SuppressedBy: &by,
		Fix: scan.Fix{State: "not-fixed", Versions: []string{}},
	}
	b := scan.Finding{
		ID: "CVE-1", Aliases: []string{"GHSA-1"}, Severity: "high", CVSS: 7.5, KEV: "2024-03-01", Published: "2024-01-01",
		Fix: scan.Fix{State: "fixed", Versions: []string{"2"}, Available: "2024-01-02"},
	}
	want := scan.Finding{
		ID: "CVE-1", Aliases: []string{"GHSA-1", "GO-1"}, Severity: "high", CVSS: 7.5, EPSS: 0.1, Percentile: 0.9, KEV: "2024-03-01", Published: "2024-01-01",
		Fix: scan.Fix{State: "fixed", Versions: []string{"2"}, Available: "2024-01-02"},
	}
	merge(&a, b)
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
	c := want
	c.Severity, c.SuppressedBy = "low", &by
	merge(&a, c) // nothing gets better
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
}

func TestFix(t *testing.T) {
	at := func(s string) time.Time { d, _ := time.Parse(time.DateOnly, s); return d }
	got := fix(vulnerability.Fix{State: "fixed", Versions: []string{"2", "1", "2", ""}, Available: []vulnerability.FixAvailable{
		{Version: "2", Date: at("2024-05-01")}, {Version: "1", Date: at("2024-04-01")}, {Version: "0"},
	}})
	if d := cmp.Diff(scan.Fix{State: "fixed", Versions: []string{"2", "1"}, Available: "2024-04-01"}, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(scan.Fix{State: "unknown", Versions: []string{}}, fix(vulnerability.Fix{})); d != "" {
		t.Error(d)
	}
}

// A known exploited vulnerability stays one when its date is not known.
func TestKEVWithoutDate(t *testing.T) {
	s := &session{volume: &volume{}}
	if got := s.kevDay(nil, nil); got == "" {
		t.Error("no day at all")
	}
	s.volume.built = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	if got := s.kevDay(nil, nil); got != "2026-01-02" {
		t.Errorf("%s, want the day that the database was built", got)
	}
}

// A database without EPSS data is a database, and no error at every query.
func TestNoEPSS(t *testing.T) {
	from := sample(t)
	name := filepath.Join(from.Dir, "vulnerability.db")
	db, err := sql.Open("sqlite", name)
	check(t, err)
	_, err = db.Exec("DELETE FROM epss_metadata; DELETE FROM epss_handles")
	check(t, err)
	check(t, db.Close())
	d := &Databases{Root: t.TempDir()}
	_, err = d.Import(t.Context(), name)
	check(t, err)
	usable(t, d, from)
}

func FuzzDatabase(f *testing.F) {
	f.Add([]byte("SQLite format 3\x00 and so on"))
	f.Add(bytes.Repeat([]byte{0}, 1024))
	f.Add(files{"vulnerability.db": "x"}.layer(f))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0})
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		begun := time.Now()
		if r, closer, err := database(bytes.NewReader(b)); err == nil {
			io.CopyN(io.Discard, r, 1<<20)
			closer()
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("%d bytes took %s", len(b), took)
		}
	})
}

func FuzzCurrent(f *testing.F) {
	f.Add([]byte(`{"dir":"xxh64-0","checksum":"xxh64:0"}`))
	f.Add([]byte(`{"dir":"..","checksum":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &Databases{Root: t.TempDir()}
		check(t, os.WriteFile(filepath.Join(d.Root, currentFile), b, 0o600))
		r, err := d.active()
		if err == nil && filepath.Dir(filepath.Join(d.Root, r.Dir)) != filepath.Clean(d.Root) {
			t.Errorf("%q leads out of the directory", b)
		}
		if db, err := d.Current(t.Context()); err == nil {
			t.Errorf("%q is a database: %+v", b, db)
		}
	})
}
