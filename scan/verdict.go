package scan

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicegate/sluice/cache"
)

// nothing returns the verdict on an image in which there is nothing to find: in state,
// and why.
func (s *Scanner) nothing(state State, detail string) *Verdict {
	return &Verdict{
		Scan: Summary{State: state, Detail: detail, ScannedAt: s.now().UTC(),
			Coverage: Coverage{DistroKnown: true, Problems: []Problem{}}},
		Findings: []Finding{},
	}
}

// refused returns the verdict that p, which no SBOM or database could change, keeps an
// image from being scanned.
func (s *Scanner) refused(p Problem) *Verdict {
	p.Detail = oneLine(p.Detail)
	v := Unscanned(CauseScanFailed, p.Detail)
	if p.Kind == KindLayerLimit || p.Kind == KindImageLimit {
		v.Scan.State, v.Scan.Cause = Limit, CauseScanLimit
	}
	v.Scan.ScannedAt, v.Scan.Coverage.Problems = s.now().UTC(), []Problem{p}
	return v
}

// failed returns the verdict that something went wrong which is not the image's doing:
// of a kind, or of its cause where there is no more to say.
func (s *Scanner) failed(cause Cause, kind string, err error) *Verdict {
	v := Unscanned(cause, oneLine(err.Error()))
	v.Scan.ScannedAt, v.Scan.Coverage.Problems[0].Kind = s.now().UTC(), kind
	return v
}

// inTime returns kind, or late where err says that the work took too long.
func inTime(err error, kind, late string) string {
	if errors.Is(err, errTimeout) {
		return late
	}
	return kind
}

// noDatabase returns the verdict that there is nothing to match with.
func (s *Scanner) noDatabase(err error) *Verdict {
	if errors.Is(err, ErrDatabaseStale) {
		return s.failed(CauseDBStale, string(CauseDBStale), err)
	}
	return s.failed(CauseDBMissing, string(CauseDBMissing), err)
}

// stored returns the verdict by db that is stored, nil where there is none, and its key.
func (s *Scanner) stored(ctx context.Context, rec *imageRecord, db Database) (*Verdict, cache.Key, error) {
	key, err := s.verdictKey(rec, db)
	if err != nil {
		return nil, key, err
	}
	v := new(Verdict)
	if err := s.get(ctx, key, v); err == nil {
		v.Sum = SumOf(v.Findings)
		return v, key, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		s.log().Warn("a verdict can't be read, the image is matched again", "key", key, "error", err)
	}
	return nil, key, nil
}

// match returns the verdict on an image whose SBOM is at hand: the one that is stored
// for today's database, or a new one, which it stores. It returns an error only when
// ctx ends, or ErrDatabaseElsewhere; a verdict that there is none is not stored.
func (s *Scanner) match(ctx context.Context, rec *imageRecord, sbom *SBOM) (*Verdict, error) {
	db, err := s.Database(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return s.noDatabase(err), nil
	}
	v, key, err := s.stored(ctx, rec, db)
	if v != nil || err != nil {
		return v, err
	}
	if db.Elsewhere {
		return nil, elsewhere(db)
	}

	limited, cancel := context.WithTimeoutCause(ctx, s.timeout(), errTimeout)
	defer cancel()
	began := time.Now()
	m, err := s.Engine.Match(limited, sbom.JSON, db)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err == nil {
		err = context.Cause(limited)
	}
	if err != nil {
		return s.failed(CauseScanFailed, inTime(err, KindMatchFailed, KindMatchTimeout), fmt.Errorf("match with the vulnerability database: %w", err)), nil
	}
	defer func() { consume(ctx, StepMatch, began, m.Steps) }()
	v = s.compose(rec, sbom, m, db)
	if err := s.firstSeen(ctx, v.Findings); err != nil {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		return s.failed(CauseStoreDown, string(CauseStoreDown), fmt.Errorf("look up when findings were first seen: %w", err)), nil
	}
	v.Sum = SumOf(v.Findings)
	end := Timed(ctx, StepKeep)
	s.put(ctx, key, v, verdictTTL)
	end()
	return v, nil
}

// compose puts a verdict together out of what guard, catalogue and match found.
func (s *Scanner) compose(rec *imageRecord, sbom *SBOM, m *Matches, db Database) *Verdict {
	problems := append([]Problem{}, slices.Concat(rec.Guard, sbom.Problems, m.Problems)...)
	if !m.DistroKnown && len(m.Problems) == 0 {
		problems = append(problems, Problem{Kind: KindDistroUnknown, Detail: fmt.Sprintf("the database has no data for the distribution %q", sbom.Distro)})
	}
	v := &Verdict{
		Scan: Summary{
			State: Complete, ScannedAt: s.now().UTC(), Packages: sbom.Packages, Database: &db,
			Coverage: Coverage{Distro: sbom.Distro, DistroVer: sbom.DistroVer, DistroKnown: m.DistroKnown, DistroEOL: m.DistroEOL, Problems: problems},
		},
		Findings: append([]Finding{}, m.Findings...),
	}
	if n := len(problems); n > 0 {
		v.Scan.State, v.Scan.Cause = Partial, CauseScanFailed
		p := problems[0]
		v.Scan.Detail = strings.TrimSpace(p.Kind+" "+p.Path) + ": " + p.Detail
		if n > 1 {
			v.Scan.Detail = fmt.Sprintf("%d problems, the first: %s", n, v.Scan.Detail)
		}
		v.Scan.Detail = oneLine(v.Scan.Detail)
	}
	for i := range v.Findings {
		f := &v.Findings[i]
		f.Aliases = append([]string{}, f.Aliases...)
		f.Fix.Versions = append([]string{}, f.Fix.Versions...)
	}
	slices.SortFunc(v.Findings, worse)
	v.Scan.Counts = count(v.Findings)
	return v
}

// severities in order, worst first.
var severities = []string{"critical", "high", "medium", "low", "negligible", "unknown"}

// worse orders findings: known exploited ones first, then by severity, then by how
// likely they are exploited, by score, and by name so that the order is always one.
func worse(a, b Finding) int {
	rank := func(f Finding) int {
		if i := slices.Index(severities, f.Severity); i >= 0 {
			return i
		}
		return len(severities)
	}
	exploited := func(f Finding) int {
		if f.KEV != "" {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(exploited(a), exploited(b)), cmp.Compare(rank(a), rank(b)), cmp.Compare(b.EPSS, a.EPSS), cmp.Compare(b.CVSS, a.CVSS),
		cmp.Compare(a.ID, b.ID), cmp.Compare(a.Package.Name, b.Package.Name), cmp.Compare(a.Package.Version, b.Package.Version),
		cmp.Compare(a.Package.Type, b.Package.Type), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Layer, b.Layer),
	)
}

// count counts findings that nobody has suppressed.
func count(findings []Finding) Counts {
	var c Counts
	for _, f := range findings {
		if f.SuppressedBy != nil {
			continue
		}
		switch f.Severity {
		case "critical":
			c.Critical++
		case "high":
			c.High++
		case "medium":
			c.Medium++
		case "low":
			c.Low++
		case "negligible":
			c.Negligible++
		default:
			c.Unknown++
		}
	}
	return c
}

// firstSeenAtOnce bounds the questions to the Store that one verdict asks at a time.
const firstSeenAtOnce = 16

// firstSeen sets on each finding when its advisory was first seen on its package name
// by any user of the Store, which is today where it was not.
func (s *Scanner) firstSeen(ctx context.Context, findings []Finding) error {
	defer Timed(ctx, StepFirstSeen)()
	type pair struct{ advisory, name string }
	dates := map[pair]*string{}
	today := []byte(s.now().UTC().Format(time.DateOnly))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(firstSeenAtOnce)
	for _, f := range findings {
		p := pair{f.ID, f.Package.Name}
		if dates[p] != nil {
			continue
		}
		date := new(string)
		dates[p] = date
		g.Go(func() error {
			k := cache.Name(kindFirstSeen, p.advisory, p.name)
			b, err := s.Store.Get(gctx, k) // reads are cheap and nearly always enough
			if errors.Is(err, fs.ErrNotExist) {
				b, err = s.Store.PutNew(gctx, k, today, 0)
			}
			if _, bad := time.Parse(time.DateOnly, string(b)); err == nil && bad != nil {
				s.log().Warn("when a finding was first seen can't be read; it counts from today", "key", k, "error", bad)
				b, err = today, s.Store.Put(gctx, k, today, 0)
			}
			*date = string(b)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range findings {
		findings[i].FirstSeen = *dates[pair{findings[i].ID, findings[i].Package.Name}]
	}
	return nil
}

// oneLine returns s without line breaks and other control characters, at most 300
// bytes: parts of it may come from an image.
func oneLine(s string) string {
	out := make([]rune, 0, min(len(s), 300))
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		if len(string(out)) >= 297 {
			return string(out) + "..."
		}
		out = append(out, r)
	}
	return string(out)
}
