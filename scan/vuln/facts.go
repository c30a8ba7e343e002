package vuln

import (
	"cmp"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/vulnerability"

	"github.com/sluicegate/sluice/scan"
)

// relate adds what an advisory of another source says: it may know the CVE, and by it
// what is exploited, where the distribution's own has nothing but the other's name.
func (s *session) relate(f *scan.Finding, r vulnerability.Reference) error {
	facts, err := s.remembered(r.Namespace+" "+r.ID, func() (facts cveFacts, err error) {
		meta, err := s.provider.VulnerabilityMetadata(r)
		if err != nil || meta == nil {
			return facts, err
		}
		facts.severity, facts.cvss = meta.Severity, meta.Cvss
		for _, k := range meta.KnownExploited {
			facts.kev = earlier(facts.kev, s.kevDay(k.DateAdded, k.DueDate))
		}
		for _, e := range meta.EPSS {
			facts.epss, facts.percentile = max(facts.epss, e.EPSS), max(facts.percentile, e.Percentile)
		}
		return facts, nil
	})
	if err != nil {
		return err
	}
	if f.Severity == severities[0] {
		rate(f, facts.severity, facts.cvss)
	}
	f.KEV = earlier(f.KEV, facts.kev)
	f.EPSS, f.Percentile = max(f.EPSS, facts.epss), max(f.Percentile, facts.percentile)
	return nil
}

// enrich adds what the database knows of a CVE by itself: a rating and a date where
// the advisory has none, and KEV and EPSS when exploitation says that nobody looked.
func (s *session) enrich(f *scan.Finding, cve string, exploitation bool) error {
	unrated, undated := f.Severity == severities[0], f.Published == ""
	if !unrated && !undated && !exploitation {
		return nil
	}
	facts, err := s.cve(cve)
	if err != nil {
		return err
	}
	if unrated {
		rate(f, facts.severity, facts.cvss)
	}
	if undated {
		f.Published = facts.published
	}
	if exploitation {
		f.KEV = earlier(f.KEV, facts.kev)
		f.EPSS, f.Percentile = max(f.EPSS, facts.epss), max(f.Percentile, facts.percentile)
	}
	return nil
}

// cveFacts is what the database knows of a CVE, whatever advisory relates to it, or what
// another advisory says.
type cveFacts struct {
	severity  string
	cvss      []vulnerability.Cvss
	published string
	kev       string
	epss      float64

	percentile float64 // of epss
}

// cve looks a CVE up.
func (s *session) cve(id string) (cveFacts, error) {
	return s.remembered(id, func() (facts cveFacts, err error) {
		ref := vulnerability.Reference{ID: id, Namespace: "nvd:cpe"}
		handles, err := s.reader.GetVulnerabilities(&v6.VulnerabilitySpecifier{Name: id, Providers: []string{"nvd"}}, &v6.GetVulnerabilityOptions{Preload: true})
		if err != nil {
			return facts, err
		}
		if len(handles) > 0 {
			facts.published = day(handles[0].PublishedDate)
			ref.Internal = &handles[0]
			meta, err := s.provider.VulnerabilityMetadata(ref)
			if err != nil {
				return facts, err
			}
			facts.severity, facts.cvss = meta.Severity, meta.Cvss
		}
		return facts, s.exploitation(id, &facts)
	})
}

// exploitation adds what is known of a CVE's exploitation.
func (s *session) exploitation(cve string, facts *cveFacts) error {
	kevs, err := s.reader.GetKnownExploitedVulnerabilities(cve)
	if err != nil {
		return err
	}
	for _, e := range kevs {
		if e.BlobValue == nil {
			e.BlobValue = &v6.KnownExploitedVulnerabilityBlob{}
		}
		facts.kev = earlier(facts.kev, s.kevDay(e.BlobValue.DateAdded, e.BlobValue.DueDate))
	}
	scores, err := s.reader.GetEpss(cve)
	if err != nil {
		return err
	}
	for _, e := range scores {
		facts.epss, facts.percentile = max(facts.epss, e.Epss), max(facts.percentile, e.Percentile)
	}
	return nil
}

// remembered returns what was asked once for each database. There are as many names as
// the database has.
func (s *session) remembered(name string, ask func() (cveFacts, error)) (cveFacts, error) {
	k := &s.volume.known
	k.mu.Lock()
	facts, ok := k.cves[name]
	k.mu.Unlock()
	if ok {
		return facts, nil
	}
	facts, err := ask()
	if err != nil {
		return facts, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cves == nil {
		k.cves = make(map[string]cveFacts)
	}
	k.cves[name] = facts
	return facts, nil
}

// kevDay is never empty: a vulnerability that is known to be exploited must not lose
// that for want of a date.
func (s *session) kevDay(added, due *time.Time) string {
	return cmp.Or(day(added), day(due), day(&s.volume.built), "1970-01-01")
}
