package sampledb

import (
	"errors"
	"maps"
	"slices"

	v6 "github.com/anchore/grype/grype/db/v6"
)

// A filler writes a collection, in an order that is always the same.
type filler struct {
	w v6.ReadWriter
	c *collection
}

func (f filler) fill() error {
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(f.c.CVEs)) {
		errs = append(errs, f.cve(id, f.c.CVEs[id]))
	}
	for _, e := range f.c.Distributions {
		errs = append(errs, f.distribution(e))
	}
	for _, e := range f.c.Languages {
		errs = append(errs, f.language(e))
	}
	for _, s := range f.c.Systems {
		if s.EOL != nil {
			_, err := f.w.UpdateOperatingSystemEOL(v6.OSSpecifier{Name: s.Name, MajorVersion: s.Major}, s.EOL.time(), nil)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// cve writes what is known of a CVE by itself: its rating, as NVD's feed has it, and
// whether it is exploited.
func (f filler) cve(id string, c cve) error {
	errs := []error{f.w.AddVulnerabilities(f.vulnerability(id, "nvd", c))}
	if c.EPSS > 0 {
		errs = append(errs, f.w.AddEpss(&v6.EpssHandle{
			Cve: id, Epss: c.EPSS, Percentile: c.Percentile, Date: f.c.Captured.midnight,
		}))
	}
	if c.KEV != nil {
		ransomware := "Unknown"
		if c.Ransomware {
			ransomware = "Known"
		}
		errs = append(errs, f.w.AddKnownExploitedVulnerabilities(&v6.KnownExploitedVulnerabilityHandle{
			Cve: id,
			BlobValue: &v6.KnownExploitedVulnerabilityBlob{
				Cve: id, VendorProject: c.Vendor, Product: c.Product,
				DateAdded: c.KEV.time(), KnownRansomwareCampaignUse: ransomware,
			},
		}))
	}
	return errors.Join(errs...)
}

// distribution writes one fix of a distribution's feed, for each distribution.
func (f filler) distribution(e distributionEntry) error {
	var errs []error
	for _, name := range e.Systems {
		s, err := f.c.system(name)
		if err != nil {
			return err
		}
		ecosystem, format := "apk", "apk"
		if name == "debian" {
			ecosystem, format = "deb", "dpkg"
		}
		v := f.vulnerability(e.CVE, name, f.c.CVEs[e.CVE])
		errs = append(errs, f.affects(v, &v6.AffectedPackageHandle{
			OperatingSystem: &v6.OperatingSystem{
				Name: s.Name, ReleaseID: s.Name, LabelVersion: s.Label, MajorVersion: s.Major, Codename: s.Codename,
			},
			Package: &v6.Package{Ecosystem: ecosystem, Name: e.Package},
			BlobValue: &v6.PackageBlob{Ranges: []v6.Range{{
				Version: v6.Version{Type: format, Constraint: "< " + e.Fixed},
				Fix:     fix(e.Fixed, e.Available),
			}}},
		}))
	}
	return errors.Join(errs...)
}

// language writes an advisory for the packages of a language.
func (f filler) language(e languageEntry) error {
	c := cve{Severity: e.Severity, Published: e.Published}
	if e.CVE != "" {
		c = f.c.CVEs[e.CVE]
	}
	var cves []string
	if e.CVE != "" {
		cves = []string{e.CVE}
	}
	var errs []error
	for _, name := range e.Packages {
		blob := &v6.PackageBlob{CVEs: cves}
		for _, r := range e.Ranges {
			blob.Ranges = append(blob.Ranges, v6.Range{
				Version: v6.Version{Type: e.Ecosystem, Constraint: r.Affected},
				Fix:     fix(r.Fixed, e.Available),
			})
		}
		errs = append(errs, f.affects(f.vulnerability(e.ID, "github", c, cves...), &v6.AffectedPackageHandle{
			Package:   &v6.Package{Ecosystem: e.Ecosystem, Name: name},
			BlobValue: blob,
		}))
	}
	return errors.Join(errs...)
}

// affects writes a vulnerability and the package that it affects.
func (f filler) affects(v *v6.VulnerabilityHandle, p *v6.AffectedPackageHandle) error {
	if err := f.w.AddVulnerabilities(v); err != nil {
		return err
	}
	p.VulnerabilityID = v.ID
	return f.w.AddAffectedPackages(p)
}

func (f filler) vulnerability(id, provider string, c cve, aliases ...string) *v6.VulnerabilityHandle {
	blob := &v6.VulnerabilityBlob{ID: id, Aliases: aliases}
	if c.Severity != "" {
		blob.Severities = append(blob.Severities, v6.Severity{Scheme: v6.SeveritySchemeCHMLN, Value: c.Severity, Rank: 1})
	}
	if c.Vector != "" {
		blob.Severities = append(blob.Severities, v6.Severity{
			Scheme: v6.SeveritySchemeCVSS, Value: v6.CVSSSeverity{Vector: c.Vector, Version: "3.1"}, Rank: 2,
		})
	}
	return &v6.VulnerabilityHandle{
		Name: id, Status: v6.VulnerabilityActive, PublishedDate: c.Published.time(), BlobValue: blob,
		ProviderID: provider,
		Provider:   &v6.Provider{ID: provider, Version: "1", Processor: "sluice", DateCaptured: f.c.Captured.time()},
	}
}

func fix(version string, available *day) *v6.Fix {
	f := &v6.Fix{Version: version, State: v6.FixedStatus}
	if available != nil {
		f.Detail = &v6.FixDetail{Available: &v6.FixAvailability{Date: available.time(), Kind: "advisory"}}
	}
	return f
}
