package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// A standing is where an image stands for a caller: decided, or pending on a pull.
type standing struct {
	pull     *pull // set while there is no decision
	ahead    *pull // set where the image passes ahead of its decision, in a mode that doesn't hold
	decision policy.Decision
	input    policy.Input // what the decision was made from
	runnable bool         // false where the verdict is that nothing would run
}

func (s standing) pending() bool { return s.pull != nil }

// awaited returns the pull whose end would bring a decision, nil where there is one.
func (s standing) awaited() *pull {
	if s.pull != nil {
		return s.pull
	}
	return s.ahead
}

func (s standing) blocked() bool { return s.pull == nil && s.decision.Blocks() }

// denial is the answer to a caller for whom the image is blocked.
func (s standing) denial() *Error {
	return &Error{Status: 403, Code: codeDenied,
		Message: policy.Message(s.decision, s.input.Image, s.input.Findings),
		Detail:  policy.Detail(s.decision, s.input.Image, s.input.Findings), denied: &s}
}

// How hard to try for a verdict that is missing.
type urgency int

const (
	look urgency = iota // only look whether there is one, or a pull under way
	low                 // begin a pull that comes last
	high                // begin a pull, somebody waits
)

// stand returns where m stands for a caller. The order matters: the kill list holds
// in every mode and needs nothing else; then the mode; then what is remembered.
func (g *Gateway) stand(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, u urgency) (standing, error) {
	parents, err := g.parents(ctx, repo, m.Digest)
	if err != nil {
		return standing{}, storeDown(err)
	}
	decide := func(v *scan.Verdict) (standing, error) { return g.decideAmong(ctx, caller, repo, m, parents, v) }
	_, killed := g.policy(repo).Killed(slices.Concat(parents, m.names)...)
	if killed || g.policy(repo).Mode(repo.Upstream, repo.Name) == policy.Off {
		s, err := decide(unsupported())
		s.runnable = m.kind == kindImage
		return s, err
	}
	if m.foreign != "" {
		return decide(failedVerdict(scan.CauseScanFailed, m.foreign+" is fetched from a foreign address, past the gateway"))
	}
	if m.kind == kindArtifact {
		return decide(unsupported())
	}
	v, err := g.cached(ctx, m.Digest)
	if err == nil {
		// A verdict may come from elsewhere, and outlive the config: policies need both.
		if err = g.configAtHand(ctx, m, v); err == nil {
			return decide(v)
		}
	}
	if !errors.Is(err, cache.ErrNotExist) {
		return decide(causeVerdict(err))
	}
	return g.standPending(ctx, caller, repo, m, u)
}

// standPending is stand for an image without a verdict.
func (g *Gateway) standPending(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, u urgency) (standing, error) {
	p := g.pullOf(repo, m.Digest)
	if p != nil && p.lackedDatabase() && g.Scanner.Catalogued(ctx, m.Digest) {
		g.drop(p) // there is one by now, or this would not be pending
		p = nil
	}
	mode := g.policy(repo).Mode(repo.Upstream, repo.Name)
	if p == nil && u != look {
		var err error
		if p, err = g.begin(ctx, caller, repo, m, u == low); err != nil && mode == policy.Enforce {
			return standing{}, err // what blocks nothing needs no place in the queue
		}
	}
	if p == nil {
		p = notBegun
	}
	if v := p.finished(); v != nil {
		return g.decide(ctx, caller, repo, m, v)
	}
	if mode != policy.Enforce {
		s := standing{decision: policy.Decision{Allow: true, Mode: mode}, runnable: true}
		if mode == policy.Warn && p != notBegun {
			s.ahead = p
		}
		return s, nil
	}
	return g.standRematch(ctx, caller, repo, m, p)
}

// notBegun stands for the pull of an image that nobody has begun.
var notBegun = &pull{over: context.Background()}

// rematchGrace is how long an image that was last allowed stays allowed while it is
// matched against a new database: long enough for a fleet to be matched again, short
// enough that a new advisory acts within the hour.
const rematchGrace = 15 * time.Minute

// standRematch is where an image stands whose verdict is missing: one that was last
// denied stays denied; one that was last allowed, and misses it only because the
// database is new, stays allowed for a while; and the rest waits.
func (g *Gateway) standRematch(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, p *pull) (standing, error) {
	last, ok, err := g.lastDecision(ctx, caller, repo, m.Digest)
	if err != nil {
		return standing{}, storeDown(err)
	}
	switch {
	case ok && !last.Allow && !(last.Warned && last.stands(g.policy(repo).Revision(), g.now())):
		return g.stillDenied(ctx, caller, repo, m)
	case !ok || g.now().Sub(last.At) >= g.Gate.StaleTags || !g.Scanner.Catalogued(ctx, m.Digest):
		return standing{pull: p}, nil
	case !last.stands(g.policy(repo).Revision(), g.now()): // a waiver may be over, or a policy new
		return standing{pull: p}, nil
	}
	since, err := g.missedSince(ctx, m)
	if err != nil {
		return standing{}, storeDown(err)
	}
	if g.now().Sub(since) < rematchGrace {
		return standing{decision: policy.Decision{Allow: true, Mode: policy.Enforce}, runnable: true}, nil
	}
	return standing{pull: p}, nil
}

// missedSince returns when an image's verdict by today's database was first missed, by
// any replica: matches that fail and are begun again must not begin that time again.
func (g *Gateway) missedSince(ctx context.Context, m *manifest) (since time.Time, err error) {
	db, err := g.Scanner.Database(ctx)
	if err != nil {
		return since, err
	}
	now, err := g.now().MarshalText()
	if err != nil {
		return since, err
	}
	key := cache.Name(kindMissed, m.Digest.String(), db.Checksum)
	b, err := g.Store.PutNew(ctx, key, now, 2*g.Gate.StaleTags)
	if err != nil {
		return since, err
	}
	if err := since.UnmarshalText(b); err != nil {
		g.damaged(key, err) // and the time that it leaves is over
	}
	return since, nil
}

// stillDenied is where an image stands that was last denied and is being matched
// again. No policy is asked: a node that holds the image needs but one HEAD that goes
// well to start it.
func (g *Gateway) stillDenied(ctx context.Context, caller auth.Caller, repo Repo, m *manifest) (standing, error) {
	parents, err := g.parents(ctx, repo, m.Digest)
	if err != nil {
		return standing{}, storeDown(err)
	}
	in, err := g.input(ctx, caller, repo, m, parents, pendingVerdict(""))
	if err != nil {
		return standing{}, storeDown(err)
	}
	d := policy.Decision{Mode: policy.Enforce, Cause: scan.CauseScanTimeout, Violations: []policy.Violation{{
		Policy:      string(scan.CauseScanTimeout),
		Message:     "the image was denied before, and is being looked at again, as after a new vulnerability database",
		Findings:    []string{},
		Remediation: "Try again in a minute.",
	}}}
	return standing{decision: d, input: in, runnable: true}, nil
}

// decide forms the opinion about a caller and an image from its verdict, and writes
// down how it went.
func (g *Gateway) decide(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, v *scan.Verdict) (standing, error) {
	parents, err := g.parents(ctx, repo, m.Digest)
	if err != nil {
		return standing{}, storeDown(err)
	}
	return g.decideAmong(ctx, caller, repo, m, parents, v)
}

// decideAmong is decide for who has the indexes at hand that list the image.
func (g *Gateway) decideAmong(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, parents []string, v *scan.Verdict) (standing, error) {
	in, err := g.input(ctx, caller, repo, m, parents, v)
	if err != nil {
		return standing{}, storeDown(err)
	}
	s := standing{input: in, runnable: v.Scan.State != scan.Unsupported}
	s.decision = g.opinion(ctx, repo, in)
	if v.Scan.Cause == scan.CauseNone && s.decision.Cause == scan.CauseNone && s.decision.Mode != policy.Off {
		if err := g.noteDecision(ctx, caller, repo, m.Digest, s.decision); err != nil {
			return standing{}, storeDown(err)
		}
	}
	accountOf(ctx).decided(s)
	return s, nil
}

// opinion asks the policies about an input and writes down what they say.
func (g *Gateway) opinion(ctx context.Context, repo Repo, in policy.Input) policy.Decision {
	engine, start := g.policy(repo), time.Now()
	d := engine.Decide(ctx, in)
	g.Decisions.Note(engine, &in, &d, time.Since(start))
	return d
}

// timedOut decides for a caller who has waited for p as long as anyone should. The
// scan goes on, so that the next try is quick.
func (g *Gateway) timedOut(ctx context.Context, caller auth.Caller, repo Repo, m *manifest) (standing, error) {
	return g.decide(ctx, caller, repo, m, pendingVerdict(g.delay(repo, m)))
}

// delay says what the pull of m waits for, empty where it doesn't wait.
func (g *Gateway) delay(repo Repo, m *manifest) string {
	g.mu.Lock()
	p := g.pulls[pullKey{repo, m.Digest}]
	g.mu.Unlock()
	if p == nil {
		return ""
	}
	if before, waits := g.queue.before(p.ticket); waits {
		return fmt.Sprintf("it waits for its turn behind %d others", before)
	}
	if sc := p.scan.Load(); sc != nil && sc.Waiting() {
		return "it waits for a free scanner"
	}
	return ""
}

func pendingVerdict(delay string) *scan.Verdict {
	v := failedVerdict(scan.CauseScanTimeout, cmp.Or(delay, "it is still being scanned")+"; try again in a minute")
	v.Scan.State = scan.Pending
	return v
}

// cached returns the verdict that stands for today's database.
func (g *Gateway) cached(ctx context.Context, d digest.Digest) (*scan.Verdict, error) {
	v, err := g.Scanner.Cached(ctx, d)
	if err == nil || errors.Is(err, cache.ErrNotExist) {
		return v, err
	}
	if errors.Is(err, scan.ErrDatabaseMissing) || errors.Is(err, scan.ErrDatabaseStale) {
		return nil, err
	}
	return nil, storeDown(err)
}

// await waits until p has its verdict, at most until deadline, and returns where its
// image stands then. Past the deadline it is still pending.
func (g *Gateway) await(ctx context.Context, caller auth.Caller, p *pull, deadline time.Time) (standing, error) {
	t := time.NewTimer(deadline.Sub(g.now()))
	defer t.Stop()
	defer accountOf(ctx).waited(time.Now())
	select {
	case <-p.over.Done():
		return g.decide(ctx, caller, p.repo, p.m, p.verdict)
	case <-t.C:
	case <-ctx.Done():
		return standing{}, ctx.Err()
	}
	if v := p.finished(); v != nil { // both at once
		return g.decide(ctx, caller, p.repo, p.m, v)
	}
	s := standing{pull: p}
	accountOf(ctx).decided(s)
	return s, nil
}

// configAtHand returns nil if what v says can be decided with the facts of the image's
// config, and an error that wraps cache.ErrNotExist where that has to be fetched.
func (g *Gateway) configAtHand(ctx context.Context, m *manifest, v *scan.Verdict) error {
	if v.Scan.State != scan.Complete && v.Scan.State != scan.Partial {
		return nil
	}
	if _, ok := g.claimed.Get(m.Digest); ok {
		return nil
	}
	_, err := g.Store.Get(ctx, cache.Name(kindConfig, m.config.Digest.String()))
	if err != nil && !errors.Is(err, cache.ErrNotExist) {
		return storeDown(err)
	}
	return err
}

func (g *Gateway) pullOf(repo Repo, d digest.Digest) *pull {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pulls[pullKey{repo, d}]
}
