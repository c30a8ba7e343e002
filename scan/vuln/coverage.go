package vuln

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/pkg"
	syftpkg "github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/sbom"

	"github.com/sluicegate/sluice/scan"
)

// Kinds of Problem that a match can have.
const (
	ProblemDistroMissing     = scan.KindDistroMissing
	ProblemDistroUnknown     = scan.KindDistroUnknown
	ProblemForeignPackages   = scan.KindForeignPackages
	ProblemPackageUnmatched  = scan.KindPackageUnmatched
	ProblemVersionUnreadable = scan.KindVersionUnreadable
)

// distroTypes are the package types that are matched with the data of their
// distribution, and with nothing when that is not known.
var distroTypes = []syftpkg.Type{syftpkg.ApkPkg, syftpkg.DebPkg, syftpkg.RpmPkg, syftpkg.AlpmPkg, syftpkg.PortagePkg}

// packaging is which of these types the packages of a distribution have. What is of
// another type, in an image that says it is this distribution, is matched with data that
// know nothing of it. Distributions that are not listed are believed.
var packaging = map[distro.Type]syftpkg.Type{
	distro.Alpine: syftpkg.ApkPkg, distro.Wolfi: syftpkg.ApkPkg, distro.Chainguard: syftpkg.ApkPkg, distro.MinimOS: syftpkg.ApkPkg, distro.PostmarketOS: syftpkg.ApkPkg, distro.SecureOS: syftpkg.ApkPkg,
	distro.Debian: syftpkg.DebPkg, distro.Ubuntu: syftpkg.DebPkg, distro.Raspbian: syftpkg.DebPkg, distro.Echo: syftpkg.DebPkg,
	distro.RedHat: syftpkg.RpmPkg, distro.CentOS: syftpkg.RpmPkg, distro.Fedora: syftpkg.RpmPkg, distro.AmazonLinux: syftpkg.RpmPkg,
	distro.OracleLinux: syftpkg.RpmPkg, distro.OpenSuseLeap: syftpkg.RpmPkg, distro.SLES: syftpkg.RpmPkg, distro.Photon: syftpkg.RpmPkg,
	distro.Mariner: syftpkg.RpmPkg, distro.Azure: syftpkg.RpmPkg, distro.RockyLinux: syftpkg.RpmPkg, distro.AlmaLinux: syftpkg.RpmPkg, distro.Scientific: syftpkg.RpmPkg, distro.Hummingbird: syftpkg.RpmPkg,
	distro.ArchLinux: syftpkg.AlpmPkg, distro.Gentoo: syftpkg.PortagePkg,
}

// knowledge is what was learned of a database once and can't change.
type knowledge struct {
	mu      sync.Mutex // guards all below
	distros map[string]bool
	cves    map[string]cveFacts // by CVE, or by namespace and ID of another advisory
}

// cover says how much "nothing found" is worth.
func (s *session) cover(out *scan.Matches, packages []pkg.Package, about pkg.Context, doc *sbom.SBOM) error {
	out.DistroKnown = true
	for _, g := range groups(packages) {
		known, err := s.knows(g.distro)
		if err != nil {
			return err
		}
		switch {
		case !known:
			out.DistroKnown = false
			s.problem(g.problem(doc))
		case g.foreign():
			s.problem(scan.Problem{Kind: ProblemForeignPackages, Detail: fmt.Sprintf(
				"%s has no %s packages, yet the image holds %d of them, which matched nothing; remove them or their database, or correct /etc/os-release",
				strings.TrimSpace(g.distro.String()), g.kind, g.count)})
		}
	}
	if about.Distro != nil {
		date, err := s.eol(about.Distro)
		if err != nil {
			return err
		}
		out.DistroEOL = day(date)
	}
	out.Problems = s.problems
	return nil
}

// A group is packages of one type and one distribution.
type group struct {
	kind   syftpkg.Type
	distro *distro.Distro // nil where it is not known
	count  int
}

// groups counts the packages that need a distribution.
func groups(packages []pkg.Package) []*group {
	var out []*group
	for _, p := range packages {
		if !slices.Contains(distroTypes, p.Type) {
			continue
		}
		i := slices.IndexFunc(out, func(g *group) bool { return g.kind == p.Type && same(g.distro, p.Distro) })
		if i < 0 {
			i = len(out)
			out = append(out, &group{kind: p.Type, distro: p.Distro})
		}
		out[i].count++
	}
	return out
}

func same(a, b *distro.Distro) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Type == b.Type && a.Version == b.Version && a.Codename == b.Codename && slices.Equal(a.Channels, b.Channels)
}

// foreign reports whether the packages can't be their distribution's own.
func (g *group) foreign() bool {
	kind, ok := packaging[g.distro.Type]
	return ok && kind != g.kind
}

func (g *group) problem(doc *sbom.SBOM) scan.Problem {
	switch release := doc.Artifacts.LinuxDistribution; {
	case g.distro != nil:
		return scan.Problem{Kind: ProblemDistroUnknown, Detail: fmt.Sprintf(
			"the vulnerability database has no data for %s, so %d %s packages matched nothing; update the database, or use a distribution that it has",
			strings.TrimSpace(g.distro.String()), g.count, g.kind)}
	case release != nil && release.ID != "":
		return scan.Problem{Kind: ProblemDistroUnknown, Detail: fmt.Sprintf(
			"the distribution %q is not one that can be matched, so %d %s packages matched nothing; use a distribution that the vulnerability database has",
			release.ID, g.count, g.kind)}
	default:
		return scan.Problem{Kind: ProblemDistroMissing, Detail: fmt.Sprintf(
			"no os-release says which distribution %d %s packages belong to, so they matched nothing; keep /etc/os-release in the image",
			g.count, g.kind)}
	}
}

// knows reports whether the database has an advisory for any package of d. It asks
// as a match does, aliases and rolling releases included.
func (s *session) knows(d *distro.Distro) (bool, error) {
	if d == nil {
		return false, nil
	}
	key := fmt.Sprintf("%q", []string{d.Name(), d.Version, d.Codename}) // each a stranger's word: no two may have one key
	k := &s.volume.known
	k.mu.Lock()
	known, ok := k.distros[key]
	k.mu.Unlock()
	if ok {
		return known, nil
	}
	rows, err := s.reader.GetAffectedPackages(nil, &v6.GetPackageOptions{Limit: 1, OSs: v6.OSSpecifiers{{
		Name:             d.Name(),
		MajorVersion:     d.MajorVersion(),
		MinorVersion:     d.MinorVersion(),
		RemainingVersion: d.RemainingVersion(),
		LabelVersion:     d.LabelVersion(),
	}}})
	switch {
	case err == nil:
		known = len(rows) > 0
	case errors.Is(err, v6.ErrLimitReached): // how grype says that there is one, at least
		known = true
	case !errors.Is(err, v6.ErrOSNotPresent):
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.distros == nil || len(k.distros) > 1000 { // os-release is a stranger's word: bounded
		k.distros = make(map[string]bool)
	}
	k.distros[key] = known
	return known, nil
}

// eol returns the day after which d gets no more fixes: as the database has it, else
// as the image says itself, else nil. grype finds no date for Debian 12.9, which the
// database knows as 12; it is asked again without the point release, and finds
// distributions that are known by their major version alone.
func (s *session) eol(d *distro.Distro) (*time.Time, error) {
	end, _, err := s.provider.GetOperatingSystemEOL(d)
	if err != nil {
		return nil, err
	}
	if end == nil && d.MinorVersion() != "" {
		if end, _, err = s.provider.GetOperatingSystemEOL(distro.New(d.Type, d.MajorVersion(), d.Codename)); err != nil {
			return nil, err
		}
	}
	if end == nil {
		end = d.SupportEnd
	}
	return end, nil
}

// seen is told of each package after a matcher had it.
func (s *session) seen(p pkg.Package, err error) {
	advisories := s.found - s.before
	s.before = s.found
	if err != nil {
		s.problem(scan.Problem{Kind: ProblemPackageUnmatched, Path: pathOf(p), Detail: fmt.Sprintf(
			"%s %s (%s) could not be matched: %s", p.Name, p.Version, p.Type, oneLine(err.Error()))})
		return
	}
	if advisories > 0 && !readable(p) {
		s.problem(scan.Problem{Kind: ProblemVersionUnreadable, Path: pathOf(p), Detail: fmt.Sprintf(
			"version %q of %s (%s) can't be compared with its %d advisories", p.Version, p.Name, p.Type, advisories)})
	}
}
