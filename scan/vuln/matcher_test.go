package vuln

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/syft/syft/cpe"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/modfile"

	"github.com/sluicegate/sluice/scan"
)

const debianStatus = `Package: libssl3
Status: install ok installed
Source: openssl
Version: 3.0.9-1
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Description: tls

Package: linux-libc-dev
Status: install ok installed
Source: linux
Version: 6.1.27-1
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Description: headers

Package: zlib1g
Status: install ok installed
Source: zlib
Version: 1:1.2.13.dfsg-1
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Description: zlib

`

func wolfi(packages ...string) files {
	return files{"usr/lib/apk/db/installed": strings.Join(packages, ""), "etc/os-release": osRelease("wolfi", "20230201")}
}

var oldGlibc = wolfi(apk("ld-linux", "2.38-r4", "glibc"), apk("glibc", "2.38-r4", "glibc"), apk("zlib", "1.3-r0", "zlib"))

func TestFindings(t *testing.T) {
	db := sample(t)
	var m Matcher
	defer m.Close()
	match := func(t *testing.T, f files) *scan.Matches {
		out, err := m.Match(t.Context(), catalogue(t, image(t, f.layer(t))), db)
		check(t, err)
		return out
	}

	t.Run("every field", func(t *testing.T) {
		img := image(t, oldGlibc.layer(t))
		layers, err := img.Layers()
		check(t, err)
		id, err := layers[0].DiffID()
		check(t, err)
		out, err := m.Match(t.Context(), catalogue(t, img), db)
		check(t, err)
		i := slices.IndexFunc(out.Findings, func(f scan.Finding) bool { return f.ID == "CVE-2023-4911" && f.Package.Name == "glibc" })
		if i < 0 {
			t.Fatalf("not found among %+v", out.Findings)
		}
		want := scan.Finding{
			ID: "CVE-2023-4911", Aliases: []string{}, Severity: "high", CVSS: 7.8, EPSS: 0.81422, Percentile: 0.99606, KEV: "2023-11-21", Published: "2023-10-03",
			Package: scan.Package{Name: "glibc", Version: "2.38-r4", Type: "apk", PURL: "pkg:apk/wolfi/glibc@2.38-r4?arch=x86_64&distro=wolfi-20230201"},
			Fix:     scan.Fix{State: "fixed", Versions: []string{"2.38-r5"}, Available: "2023-10-03"},
			Path:    "/usr/lib/apk/db/installed",
		}
		want.Layer = out.Findings[i].Layer
		if want.Layer.String() != id.String() {
			t.Errorf("layer %s, want %s", want.Layer, id)
		}
		if d := cmp.Diff(want, out.Findings[i]); d != "" {
			t.Error(d)
		}
		if !out.DistroKnown || len(out.Problems) > 0 {
			t.Errorf("coverage %+v", out)
		}
	})

	t.Run("names of rows", func(t *testing.T) {
		for name, c := range map[string]struct {
			files files
			want  []string
		}{
			"nothing": {files{"etc/passwd": "root"}, nil},
			"wolfi, also by origin": {oldGlibc, []string{
				"CVE-2023-4911 glibc", "CVE-2023-4911 ld-linux", "CVE-2024-2961 glibc", "CVE-2024-2961 ld-linux",
			}},
			"wolfi, fixed":   {wolfi(apk("glibc", "2.40-r1", "glibc"), apk("openssl", "3.3.2-r0", "openssl")), nil},
			"wolfi, no xz":   {wolfi(apk("xz", "5.6.1-r0", "xz")), nil},
			"npm":            {files{"app/node_modules/minimist/package.json": `{"name":"minimist","version":"1.2.5"}`}, []string{"CVE-2021-44906 minimist"}},
			"npm, exploited": {files{"app/node_modules/mongo-express/package.json": `{"name":"mongo-express","version":"0.53.0"}`}, []string{"CVE-2019-10758 mongo-express"}},
			"npm, no CVE":    {files{"app/node_modules/ua-parser-js/package.json": `{"name":"ua-parser-js","version":"0.7.29"}`}, []string{"GHSA-pjwm-rvh2-c87w ua-parser-js"}},
			"python": {files{"usr/lib/python3.11/site-packages/requests-2.30.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: requests\nVersion: 2.30.0\n"},
				[]string{"CVE-2023-32681 requests"}},
		} {
			out := match(t, c.files)
			var got []string
			for _, f := range out.Findings {
				if f.SuppressedBy == nil {
					got = append(got, f.ID+" "+f.Package.Name)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" || len(out.Problems) > 0 {
				t.Errorf("%s: %s%+v", name, d, out.Problems)
			}
		}
	})

	t.Run("exploited without a distribution", func(t *testing.T) {
		out := match(t, files{"app/node_modules/mongo-express/package.json": `{"name":"mongo-express","version":"0.53.0"}`})
		if len(out.Findings) != 1 || out.Findings[0].KEV != "2021-12-10" || !out.DistroKnown || out.DistroEOL != "" {
			t.Errorf("%+v", out)
		}
	})

	t.Run("Debian", func(t *testing.T) {
		out := match(t, files{"var/lib/dpkg/status": debianStatus, "etc/os-release": "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n", "etc/debian_version": "12.9\n"})
		if out.DistroEOL != "2026-07-11" || !out.DistroKnown || len(out.Problems) > 0 {
			t.Errorf("coverage: EOL %q, known %v, %+v", out.DistroEOL, out.DistroKnown, out.Problems)
		}
		var got []string
		for _, f := range out.Findings {
			got = append(got, f.ID+" "+f.Package.Name+" "+f.Fix.Versions[0])
		}
		want := []string{
			"CVE-2023-5363 libssl3 3.0.11-1~deb12u2", "CVE-2024-0727 libssl3 3.0.13-1~deb12u1", "CVE-2024-5535 libssl3 3.0.15-1~deb12u1",
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
	})
}

// suppressedImage holds a Python package that a distribution's package owns.
func suppressedImage() files {
	const dir = "usr/lib/python3.11/site-packages/urllib3-2.0.5.dist-info"
	img := wolfi(strings.TrimSpace(apk("py3-urllib3", "2.0.6-r0", "py3-urllib3")) + "\nF:" + dir + "\nR:METADATA\n\n")
	img[dir+"/METADATA"] = "Metadata-Version: 2.1\nName: urllib3\nVersion: 2.0.5\n"
	return img
}

// A Python package that a distribution's package owns, and has patched under an old
// version, is found and set aside. The reader is told so, and by whom.
func TestSuppressed(t *testing.T) {
	db := sample(t)
	var m Matcher
	defer m.Close()
	out, err := m.Match(t.Context(), catalogue(t, image(t, suppressedImage().layer(t))), db)
	check(t, err)
	if len(out.Findings) != 1 {
		t.Fatalf("%d findings: %+v", len(out.Findings), out.Findings)
	}
	f := out.Findings[0]
	if f.ID != "CVE-2023-43804" || f.SuppressedBy == nil || *f.SuppressedBy != "distribution: fixed in the installed version" {
		t.Errorf("%+v, suppressed by %v", f, f.SuppressedBy)
	}

	for _, c := range []struct{ reason, want string }{
		{"distro-fixed", "distribution: fixed in the installed version"},
		{"distro-nak", "distribution: not affected"},
		{"", "scanner: known to be a false match"},
		{"something\nnew", "scanner: something new"},
	} {
		got := suppressor([]match.IgnoreRule{{Reason: c.reason}})
		if got == nil || *got != c.want {
			t.Errorf("%q: %v, want %s", c.reason, got, c.want)
		}
	}
	for _, r := range kernelHeaders() {
		if got := suppressor([]match.IgnoreRule{r}); got != nil {
			t.Errorf("kernel headers are told of: %s", *got)
		}
	}
	if got := suppressor(nil); got != nil {
		t.Errorf("suppressed by nobody: %s", *got)
	}
}

func TestCoverage(t *testing.T) {
	db := sample(t)
	var m Matcher
	defer m.Close()
	installed := apk("glibc", "2.38-r4", "glibc")
	for name, c := range map[string]struct {
		files files
		known bool
		kinds []string
		says  string
	}{
		"known":                         {wolfi(installed), true, nil, ""},
		"unknown to the database":       {files{"lib/apk/db/installed": installed, "etc/os-release": osRelease("alpine", "3.19.1")}, false, []string{ProblemDistroUnknown}, "no data for alpine 3.19.1, so 1 apk packages"},
		"unknown to the matcher":        {files{"lib/apk/db/installed": installed, "etc/os-release": osRelease("plan9", "4")}, false, []string{ProblemDistroUnknown}, `the distribution "plan9"`},
		"another version":               {files{"var/lib/dpkg/status": debianStatus, "etc/os-release": "ID=debian\nVERSION_ID=\"11\"\nVERSION_CODENAME=bullseye\n"}, false, []string{ProblemDistroUnknown}, "3 deb packages"},
		"no os-release":                 {files{"var/lib/dpkg/status": debianStatus}, false, []string{ProblemDistroMissing}, "keep /etc/os-release"},
		"unknown, without its packages": {files{"etc/os-release": osRelease("plan9", "4")}, true, nil, ""},
		"nothing":                       {files{"hello": "world"}, true, nil, ""},
		"version that can't be compared": {files{"usr/lib/python3/site-packages/requests-x.dist-info/METADATA": "Metadata-Version: 2.1\nName: requests\nVersion: not!a!version\n"},
			true, []string{ProblemVersionUnreadable}, "requests"},
		"such a version, no advisories": {files{"usr/lib/python3/site-packages/other-x.dist-info/METADATA": "Metadata-Version: 2.1\nName: other\nVersion: not!a!version\n"},
			true, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := m.Match(t.Context(), catalogue(t, image(t, c.files.layer(t))), db)
			check(t, err)
			var kinds, details []string
			for _, p := range out.Problems {
				kinds, details = append(kinds, p.Kind), append(details, p.Detail)
			}
			if d := cmp.Diff(c.kinds, kinds); d != "" || out.DistroKnown != c.known {
				t.Errorf("known %v, want %v; %s%s", out.DistroKnown, c.known, d, details)
			}
			if !strings.Contains(strings.Join(details, "\n"), c.says) {
				t.Errorf("%q says nothing of %q", details, c.says)
			}
		})
	}
}

var errDisk = errors.New("disk I/O error")

// failing breaks one method of the store.
type failing struct {
	store
	method string
}

func (f failing) fails(method string) error {
	if f.method == method {
		return errDisk
	}
	return nil
}

func (f failing) GetAffectedPackages(p *v6.PackageSpecifier, o *v6.GetPackageOptions) ([]v6.AffectedPackageHandle, error) {
	out, err := f.store.GetAffectedPackages(p, o)
	return out, errors.Join(err, f.fails("GetAffectedPackages"))
}

func (f failing) GetUnaffectedPackages(p *v6.PackageSpecifier, o *v6.GetPackageOptions) ([]v6.UnaffectedPackageHandle, error) {
	out, err := f.store.GetUnaffectedPackages(p, o)
	return out, errors.Join(err, f.fails("GetUnaffectedPackages"))
}

func (f failing) GetAffectedCPEs(a *cpe.Attributes, o *v6.GetCPEOptions) ([]v6.AffectedCPEHandle, error) {
	out, err := f.store.GetAffectedCPEs(a, o)
	return out, errors.Join(err, f.fails("GetAffectedCPEs"))
}

func (f failing) GetOperatingSystems(s v6.OSSpecifier) ([]v6.OperatingSystem, error) {
	out, err := f.store.GetOperatingSystems(s)
	return out, errors.Join(err, f.fails("GetOperatingSystems"))
}

func (f failing) GetKnownExploitedVulnerabilities(cve string) ([]v6.KnownExploitedVulnerabilityHandle, error) {
	out, err := f.store.GetKnownExploitedVulnerabilities(cve)
	return out, errors.Join(err, f.fails("GetKnownExploitedVulnerabilities"))
}

func (f failing) GetEpss(cve string) ([]v6.EpssHandle, error) {
	out, err := f.store.GetEpss(cve)
	return out, errors.Join(err, f.fails("GetEpss"))
}

func (f failing) GetCWEs(cve string) ([]v6.CWEHandle, error) {
	out, err := f.store.GetCWEs(cve)
	return out, errors.Join(err, f.fails("GetCWEs"))
}

// A query that fails must fail the match, whatever grype makes of it.
func TestQueryFails(t *testing.T) {
	db := withCPE(t, sample(t))
	widget := catalogue(t, image(t, wolfi(apk("widget", "1.0-r0", "widget")).layer(t)))
	glibc := catalogue(t, image(t, oldGlibc.layer(t)))
	python := catalogue(t, image(t, files{"usr/lib/python3/site-packages/requests-2.30.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: requests\nVersion: 2.30.0\n"}.layer(t)))
	for method, name := range map[string]string{
		"GetAffectedPackages": glibc, "GetAffectedCPEs": widget, "GetOperatingSystems": glibc,
		"GetKnownExploitedVulnerabilities": glibc, "GetEpss": glibc, "GetCWEs": glibc,
		"GetUnaffectedPackages": python, // of these, only some languages and rpm distributions ask
	} {
		t.Run(method, func(t *testing.T) {
			var asked atomic.Bool
			m := Matcher{broken: func(s store) store { asked.Store(true); return failing{s, method} }}
			defer m.Close()
			out, err := m.Match(t.Context(), name, db)
			if !asked.Load() {
				t.Fatal("nothing was broken")
			}
			if !errors.Is(err, errDisk) || out != nil {
				t.Errorf("%+v, %v; want no matches and %v", out, err, errDisk)
			}
		})
	}
}

func TestMatchErrors(t *testing.T) {
	db := sample(t)
	name := catalogue(t, image(t, oldGlibc.layer(t)))
	half := filepath.Join(t.TempDir(), "half.json")
	b, err := os.ReadFile(name)
	check(t, err)
	check(t, os.WriteFile(half, b[:len(b)/2], 0o600))
	empty := filepath.Join(t.TempDir(), "empty.json")
	check(t, os.WriteFile(empty, []byte("{}"), 0o600))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	stranger := db
	stranger.Checksum = "xxh64:0000000000000000"
	older := db
	older.Built = db.Built.Add(-24 * time.Hour)
	for what, c := range map[string]struct {
		ctx  context.Context
		file string
		db   scan.Database
	}{
		"cancelled":             {cancelled, name, db},
		"half an SBOM":          {t.Context(), half, db},
		"no SBOM":               {t.Context(), empty, db},
		"no file":               {t.Context(), half + "x", db},
		"no database":           {t.Context(), name, scan.Database{Dir: t.TempDir(), Checksum: db.Checksum}},
		"another checksum":      {t.Context(), name, stranger},
		"another time of build": {t.Context(), name, older},
	} {
		t.Run(what, func(t *testing.T) {
			var m Matcher
			defer m.Close()
			if out, err := m.Match(c.ctx, c.file, c.db); err == nil {
				t.Errorf("no error, but %+v", out)
			}
		})
	}

	t.Run("cancelled on the way", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		m := Matcher{broken: func(s store) store { return cancelling{s, cancel} }}
		defer m.Close()
		if out, err := m.Match(ctx, name, db); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v, %v", out, err)
		}
	})
	t.Run("closed matcher", func(t *testing.T) {
		var m Matcher
		check(t, m.Close())
		if out, err := m.Match(t.Context(), name, db); err == nil {
			t.Errorf("no error, but %+v", out)
		}
	})
	t.Run("closed store", func(t *testing.T) {
		m := Matcher{broken: func(s store) store { check(t, s.Close()); return s }}
		defer m.Close()
		if out, err := m.Match(t.Context(), name, db); err == nil {
			t.Errorf("no error, but %+v", out)
		}
	})
	t.Run("table gone", func(t *testing.T) {
		m := Matcher{broken: func(s store) store { return tableless{s} }}
		defer m.Close()
		if out, err := m.Match(t.Context(), name, db); err == nil {
			t.Errorf("no error, but %+v", out)
		}
	})
}

// cancelling ends the context in the middle of a match.
type cancelling struct {
	store
	cancel context.CancelFunc
}

func (c cancelling) GetAffectedPackages(p *v6.PackageSpecifier, o *v6.GetPackageOptions) ([]v6.AffectedPackageHandle, error) {
	c.cancel()
	return c.store.GetAffectedPackages(p, o)
}

// tableless has lost what a handle's blob refers to, as a damaged file would.
type tableless struct{ store }

func (t tableless) GetAffectedPackages(p *v6.PackageSpecifier, o *v6.GetPackageOptions) ([]v6.AffectedPackageHandle, error) {
	out, err := t.store.GetAffectedPackages(p, o)
	for i := range out {
		out[i].VulnerabilityID = 1e9
		out[i].Vulnerability = nil
	}
	return out, err
}

// Matches with two builds at once: each gets its own, and the old store is closed
// when its last match has ended.
func TestSwap(t *testing.T) {
	name := catalogue(t, image(t, oldGlibc.layer(t)))
	var dbs []scan.Database
	for i := range 3 {
		dbs = append(dbs, sampleOf(t, time.Duration(9-i)*time.Hour))
	}
	var m Matcher
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			out, err := m.Match(t.Context(), name, dbs[i/4])
			if err != nil || len(out.Findings) != 4 {
				t.Errorf("match %d: %v, %+v", i, err, out)
			}
		})
	}
	wg.Wait()
	m.shelf.mu.Lock()
	for dir, v := range m.shelf.open {
		if dir != dbs[2].Dir || v.users != 0 {
			t.Errorf("%s is still open, with %d users", dir, v.users)
		}
	}
	m.shelf.mu.Unlock()
	check(t, m.Close())
	if len(m.shelf.open) != 0 {
		t.Errorf("%d stores are open after Close", len(m.shelf.open))
	}
}

func TestVersion(t *testing.T) {
	b, err := os.ReadFile("../../go.mod")
	check(t, err)
	mod, err := modfile.Parse("go.mod", b, nil)
	check(t, err)
	for _, r := range mod.Require {
		if r.Mod.Path == "github.com/anchore/grype" && r.Mod.Version != Version() {
			t.Errorf("Version is %s, and go.mod requires %s", Version(), r.Mod.Version)
		}
	}
	if s := Settings(); len(s) != 16 || s != Settings() {
		t.Errorf("settings %q", s)
	}
}
