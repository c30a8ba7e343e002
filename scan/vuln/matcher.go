package vuln

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/anchore/grype/grype"
	"github.com/anchore/grype/grype/match"
	"github.com/anchore/grype/grype/matcher"
	"github.com/anchore/grype/grype/pkg"
	"github.com/anchore/syft/syft/sbom"

	"github.com/sluicegate/sluice/scan"
)

// maxSBOM bounds the SBOM that is decoded, in bytes. Decoding takes about eight times
// as much memory; the largest that was seen, of an image with 1,100 packages, has 22 MB.
const maxSBOM = 512 << 20

// A Matcher finds the known vulnerabilities of SBOMs. The zero value is ready. Its
// methods may be called concurrently, also with different databases: each stays open
// until a newer one is used and the last match with it has ended.
type Matcher struct {
	shelf shelf

	// broken stands between grype and the store in tests.
	broken func(store) store
}

// Match returns what db knows of the syft JSON in sbomFile: all of it, or an error,
// or all of it but what the Problems name. It checks that db.Dir holds the build that
// db names. When ctx ends, it returns an error, though perhaps only after the package
// at hand.
func (m *Matcher) Match(ctx context.Context, sbomFile string, db scan.Database) (*scan.Matches, error) {
	end := scan.Timed(ctx, scan.StepOpen)
	v, err := m.shelf.borrow(db)
	end()
	if err != nil {
		return nil, err
	}
	defer m.shelf.release(v)

	s, err := m.session(v)
	if err != nil {
		return nil, err
	}
	out, err := s.match(ctx, sbomFile)
	// Whatever came out is worth nothing when the context ended or a query failed on
	// the way: grype goes on with what it has.
	if ctxErr := ctx.Err(); ctxErr != nil {
		return nil, fmt.Errorf("match: %w", ctxErr)
	}
	if fault := s.err(); fault != nil {
		return nil, fmt.Errorf("query the vulnerability database in %s: %w", db.Dir, fault)
	}
	if err != nil {
		return nil, errors.New("match: " + oneLine(err.Error())) // grype puts whole stacks into errors
	}
	return out, nil
}

// Close closes the databases; one that a match uses is closed when the match ends.
// A Match after Close is an error.
func (m *Matcher) Close() error {
	m.shelf.close()
	return nil
}

// A session is one match: it has its own reader, provider and matchers over the
// shared store, so that an error belongs to the match that it happened in.
type session struct {
	*faults
	volume   *volume
	reader   reader
	provider provider
	problems []scan.Problem
	found    int // affected packages that were read so far
	before   int // found when the package at hand began
}

func (m *Matcher) session(v *volume) (*session, error) {
	s := &session{faults: new(faults), volume: v}
	from := v.store
	if m.broken != nil {
		from = m.broken(from)
	}
	s.reader = reader{store: from, faults: s.faults, epss: v.epss, aliases: v.aliases, found: &s.found, memory: &v.memory}
	var err error
	s.provider, err = newProvider(s.reader)
	return s, err
}

func (s *session) match(ctx context.Context, sbomFile string) (*scan.Matches, error) {
	end := scan.Timed(ctx, scan.StepDecode)
	packages, about, doc, err := read(sbomFile)
	end()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	finder := grype.VulnerabilityMatcher{
		VulnerabilityProvider:      s.provider,
		Matchers:                   s.matchers(),
		IgnoreRules:                kernelHeaders(),
		IncludeMatcherSuppressions: true,
	}
	end = scan.Timed(ctx, scan.StepSearch)
	matches, ignored, err := finder.FindMatchesContext(ctx, packages, about)
	end()
	if err != nil {
		return nil, err
	}
	if err := s.err(); err != nil {
		return nil, err
	}
	defer scan.Timed(ctx, scan.StepFindings)()
	findings, err := s.findings(matches.Sorted(), ignored)
	if err != nil {
		return nil, err
	}
	out := &scan.Matches{Findings: findings}
	if err := s.cover(out, packages, about, doc); err != nil {
		return nil, err
	}
	return out, nil
}

// matchers are grype's, watched.
func (s *session) matchers() []match.Matcher {
	out := matcher.NewDefaultMatchers(matcherConfig())
	for i, m := range out {
		out[i] = watched{m, s.seen}
	}
	return out
}

// read decodes an SBOM as the grype command does, with packages removed that a
// distribution's package owns and whose feed is comprehensive.
func read(name string) ([]pkg.Package, pkg.Context, *sbom.SBOM, error) {
	if info, err := os.Stat(name); err != nil {
		return nil, pkg.Context{}, nil, err
	} else if info.Size() > maxSBOM {
		return nil, pkg.Context{}, nil, fmt.Errorf("the SBOM has %d bytes; at most %d are read", info.Size(), maxSBOM)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, pkg.Context{}, nil, err
	}
	packages, about, doc, err := pkg.ProvideFromReader(bytes.NewReader(slim(b)), provision())
	if err != nil {
		return nil, pkg.Context{}, nil, fmt.Errorf("read SBOM: %w", err)
	}
	return packages, about, doc, nil
}

// problem adds a Problem, once.
func (s *session) problem(p scan.Problem) {
	if !slices.Contains(s.problems, p) {
		s.problems = append(s.problems, p)
	}
}
