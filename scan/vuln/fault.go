package vuln

import (
	"errors"
	"fmt"
	"sync"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/vulnerability"
	"github.com/anchore/syft/syft/cpe"
	"gorm.io/gorm"
)

// faults collects the errors that grype would log and forget in one match.
type faults struct {
	mu    sync.Mutex // guards all below
	first error
	count int
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.first == nil {
		f.first = err
	}
	f.count++
}

// err returns the first fault, nil when there was none.
func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count > 1 {
		return fmt.Errorf("%w (and %d more)", f.first, f.count-1)
	}
	return f.first
}

// note records err, unless it is one of those that only say "nothing there".
func note[T any](f *faults, what string, v T, err error, fine ...error) (T, error) {
	if err == nil {
		return v, nil
	}
	for _, e := range fine {
		if errors.Is(err, e) {
			return v, err
		}
	}
	f.add(fmt.Errorf("%s: %w", what, err))
	return v, err
}

// A store is grype's reader of a database. Parts of grype ask it for its connection by
// type assertion, so that the embedding must keep the method.
type store interface {
	v6.Reader
	GetDB() *gorm.DB
}

// A reader is grype's store for one match: each failed query is recorded, whatever
// grype makes of it. The provider above it swallows those for KEV, EPSS and CWE.
type reader struct {
	store
	*faults
	epss    bool              // the database has EPSS data
	aliases map[string]string // architecture aliases, read once for the database
	found   *int              // counts affected packages that were read
	memory  *memory           // what the database said before
}

var _ store = reader{}

func (r reader) GetAffectedPackages(p *v6.PackageSpecifier, o *v6.GetPackageOptions) ([]v6.AffectedPackageHandle, error) {
	out, err := r.memory.affected.get(packageKey(p, o), func() ([]v6.AffectedPackageHandle, error) {
		return r.store.GetAffectedPackages(p, o)
	})
	*r.found += len(out)
	return note(r.faults, "affected packages", out, err, v6.ErrOSNotPresent, v6.ErrLimitReached)
}

func (r reader) GetUnaffectedPackages(p *v6.PackageSpecifier, o *v6.GetPackageOptions) ([]v6.UnaffectedPackageHandle, error) {
	out, err := r.memory.unaffected.get(packageKey(p, o), func() ([]v6.UnaffectedPackageHandle, error) {
		return r.store.GetUnaffectedPackages(p, o)
	})
	return note(r.faults, "unaffected packages", out, err, v6.ErrOSNotPresent)
}

func (r reader) GetAffectedCPEs(a *cpe.Attributes, o *v6.GetCPEOptions) ([]v6.AffectedCPEHandle, error) {
	out, err := r.store.GetAffectedCPEs(a, o)
	*r.found += len(out)
	return note(r.faults, "affected CPEs", out, err)
}

func (r reader) GetUnaffectedCPEs(a *cpe.Attributes, o *v6.GetCPEOptions) ([]v6.UnaffectedCPEHandle, error) {
	out, err := r.store.GetUnaffectedCPEs(a, o)
	return note(r.faults, "unaffected CPEs", out, err)
}

func (r reader) GetVulnerabilities(s *v6.VulnerabilitySpecifier, o *v6.GetVulnerabilityOptions) ([]v6.VulnerabilityHandle, error) {
	out, err := r.store.GetVulnerabilities(s, o)
	return note(r.faults, "vulnerabilities", out, err)
}

func (r reader) GetOperatingSystems(s v6.OSSpecifier) ([]v6.OperatingSystem, error) {
	out, err := r.store.GetOperatingSystems(s)
	return note(r.faults, "operating systems", out, err, v6.ErrMissingOSIdentification)
}

func (r reader) GetKnownExploitedVulnerabilities(cve string) ([]v6.KnownExploitedVulnerabilityHandle, error) {
	out, err := r.memory.kev.get(cve, func() ([]v6.KnownExploitedVulnerabilityHandle, error) {
		return r.store.GetKnownExploitedVulnerabilities(cve)
	})
	return note(r.faults, "known exploited vulnerabilities", out, err)
}

func (r reader) GetEpss(cve string) ([]v6.EpssHandle, error) {
	if !r.epss {
		return nil, nil
	}
	out, err := r.memory.epss.get(cve, func() ([]v6.EpssHandle, error) { return r.store.GetEpss(cve) })
	return note(r.faults, "EPSS", out, err)
}

func (r reader) GetCWEs(cve string) ([]v6.CWEHandle, error) {
	out, err := r.memory.cwe.get(cve, func() ([]v6.CWEHandle, error) { return r.store.GetCWEs(cve) })
	return note(r.faults, "CWEs", out, err)
}

func (r reader) GetArchitectureAliases() (map[string]string, error) { return r.aliases, nil }

// Close does nothing: the store belongs to the shelf.
func (r reader) Close() error { return nil }

// fullProvider is all that grype's own provider can do; parts of grype ask for the
// optional interfaces by type assertion.
type fullProvider interface {
	vulnerability.Provider
	vulnerability.StoreMetadataProvider
	vulnerability.EOLChecker
}

// A provider records the errors of queries that fail above the store.
type provider struct {
	fullProvider
	*faults
	reader reader
}

var _ fullProvider = provider{}

func newProvider(r reader) (provider, error) {
	full, ok := v6.NewVulnerabilityProvider(r).(fullProvider)
	if !ok {
		return provider{}, errors.New("grype's provider lacks an interface that it had")
	}
	return provider{full, r.faults, r}, nil
}

func (p provider) FindVulnerabilities(c ...vulnerability.Criteria) ([]vulnerability.Vulnerability, error) {
	nothing, err := p.reader.hopeless(c)
	if nothing || err != nil {
		return note[[]vulnerability.Vulnerability](p.faults, "look for a CPE", nil, err)
	}
	out, err := p.fullProvider.FindVulnerabilities(c...)
	return note(p.faults, "find vulnerabilities", out, err)
}

func (p provider) VulnerabilityMetadata(ref vulnerability.Reference) (*vulnerability.Metadata, error) {
	//lint:ignore SA1019 there is no other way to the metadata of a related CVE
	out, err := p.fullProvider.VulnerabilityMetadata(ref) //nolint:staticcheck // as above
	return note(p.faults, "vulnerability metadata", out, err)
}

// A watched matcher tells of each package that it was given and of its error, which
// grype would log and forget.
type watched struct {
	match.Matcher
	seen func(p pkg.Package, err error)
}

func (w watched) Match(vp vulnerability.Provider, p pkg.Package) ([]match.Match, []match.IgnoreFilter, error) {
	matches, ignores, err := w.Matcher.Match(vp, p)
	w.seen(p, err)
	return matches, ignores, err
}
