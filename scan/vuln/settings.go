package vuln

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/anchore/grype/grype/distro"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/matcher"
	"github.com/anchore/grype/grype/matcher/dpkg"
	"github.com/anchore/grype/grype/matcher/rpm"
	"github.com/anchore/grype/grype/matcher/stock"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/grype/grype/version"
	syftpkg "github.com/anchore/syft/syft/pkg"
)

// grypeVersion is the version of grype in go.mod; a test holds the two together.
const grypeVersion = "v0.121.2"

// shape changes whenever this package makes something else of the same matches. It
// is part of Settings.
const shape = "4"

// Version returns the version of grype that matches are made with.
func Version() string { return grypeVersion }

// Settings returns a short hash of everything in this package that a result depends
// on besides grype's version, the SBOM and the database.
func Settings() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%+v\n%+v\n", shape, matcherConfig(), kernelHeaders())
	for _, c := range distro.DefaultFixChannels() {
		fmt.Fprintf(h, "%s %v %s %v\n", c.Name, c.IDs, c.Apply, c.Versions)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// matcherConfig is what the grype command uses without a configuration file. CPEs are
// searched for packages of no known ecosystem only.
func matcherConfig() matcher.Config {
	return matcher.Config{
		Stock: stock.MatcherConfig{UseCPEs: true},
		Dpkg:  dpkg.MatcherConfig{MissingEpochStrategy: version.MissingEpochStrategyZero},
		Rpm:   rpm.MatcherConfig{MissingEpochStrategy: version.MissingEpochStrategyAuto},
	}
}

// provision is how the grype command reads an SBOM without a configuration file.
func provision() pkg.ProviderConfig {
	return pkg.ProviderConfig{SynthesisConfig: pkg.SynthesisConfig{
		Distro: pkg.DistroConfig{FixChannels: distro.DefaultFixChannels()},
	}}
}

// kernelHeaders are the ignore rules that the grype command always has: packages of
// kernel headers hold nothing that runs, and would carry all of the kernel's CVEs.
func kernelHeaders() []match.IgnoreRule {
	rule := func(name, upstream string, t syftpkg.Type) match.IgnoreRule {
		return match.IgnoreRule{
			Package:   match.IgnoreRulePackage{Name: name, UpstreamName: upstream, Type: string(t)},
			MatchType: match.ExactIndirectMatch,
		}
	}
	return []match.IgnoreRule{
		rule("kernel-headers", "kernel", syftpkg.RpmPkg),
		rule("linux(-.*)?-headers-.*", "linux.*", syftpkg.DebPkg),
		rule("linux-libc-dev", "linux", syftpkg.DebPkg),
		rule("linux-kbuild-.*", "linux.*", syftpkg.DebPkg),
	}
}
