package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// A WhatIf asks what would become of the images that were pulled lately if other policies
// decided about them.
type WhatIf struct {
	Engine   *policy.Engine // with the candidates; waivers, kill list and modes are to be the gateway's
	Upstream string         // only its images; "": those that the gateway's own policies decide about
	Since    time.Time      // only images and callers since then, at most 30 days ago; zero: all
}

// What becomes of an image.
const (
	NewlyBlocked = "blocked" // it is served, and would be refused
	NewlyAllowed = "allowed" // it is refused, and would be served
	NewlyWarned  = "warned"  // it is served, and would be with a violation that blocks nothing
	NoMoreWarned = "cleared" // it is served with a violation, and would be without
)

// A Change is an image that would be decided otherwise, and who would notice.
type Change struct {
	Change  string   `json:"change"` // blocked, allowed, warned or cleared
	Image   Subject  `json:"image"`
	Before  Opinion  `json:"before"`
	After   Opinion  `json:"after"`
	Callers []Puller `json:"callers"` // that pulled it lately, the latest first, at most 100
}

// A WhatIfSummary is the result of a WhatIf.
type WhatIfSummary struct {
	Before   string `json:"before"`   // revision of what decides now
	After    string `json:"after"`    // and of the candidates
	Images   int    `json:"images"`   // that were looked at
	Requests int    `json:"requests"` // callers and images: each caller's last pull of an image
	Blocked  int    `json:"blocked"`  // images, as are the next three; one may count for some of its callers only
	Allowed  int    `json:"allowed"`
	Warned   int    `json:"warned"`
	Cleared  int    `json:"cleared"`
	Skipped  int    `json:"skipped"` // of Images: their manifest, config or verdict is not kept any more
	Failed   int    `json:"failed"`  // of Images: one of both sets could not decide
	Note     string `json:"note,omitempty"`
}

// WhatIf decides about the images that were pulled lately by what decides now and by q, for
// each caller that pulled them, from stored verdicts. Changes are told as they are found,
// with how many images are done of all. It works in one goroutine, behind pulls, and
// changes nothing. Only one runs at a time: for another the error is a 429. An error of
// tell ends it.
func (g *Gateway) WhatIf(ctx context.Context, q WhatIf, tell func(c *Change, done, all int) error) (sum WhatIfSummary, err error) {
	if !g.trying.TryLock() {
		return sum, &Error{Status: http.StatusTooManyRequests, Code: codeTooMany, RetryAfter: 10 * time.Second, Message: "another what-if is running; try again when it has ended"}
	}
	defer g.trying.Unlock()
	t := &trial{g: g, WhatIf: q, walk: walk{g: g, began: g.now()}, sum: WhatIfSummary{After: q.Engine.Revision()}}
	if t.images, err = g.pulledLately(ctx); err != nil {
		return sum, storeDown(err)
	}
	t.images = slices.DeleteFunc(t.images, func(p lastPull) bool { return !t.concerns(p) })
	if t.past, err = g.knownDatabases(ctx); err != nil {
		return sum, storeDown(err)
	}
	t.sum.Before = g.Policy.Revision()
	if u := g.upstream(q.Upstream); u != nil && u.Policy != nil {
		t.sum.Before = u.Policy.Revision()
	}
	for i, p := range t.images {
		if err := t.walk.behindPulls(ctx); err != nil {
			return t.sum, err
		}
		changes, err := t.one(ctx, p)
		if err != nil {
			return t.sum, fmt.Errorf("what-if: image %s: %w", p, err)
		}
		if len(changes) == 0 {
			changes = []*Change{nil}
		}
		for _, c := range changes {
			if err := tell(c, i+1, len(t.images)); err != nil {
				return t.sum, err
			}
		}
	}
	t.sum.Note = t.note()
	return t.sum, nil
}

// A trial is a WhatIf under way.
type trial struct {
	WhatIf
	g      *Gateway
	walk   walk // whose turn behind pulls it takes
	images []lastPull
	past   []pastDatabase
	sum    WhatIfSummary
}

// concerns reports whether the candidates would decide about an image.
func (t *trial) concerns(p lastPull) bool {
	if t.g.upstream(p.repo.Upstream) == nil || p.At.Before(t.Since) {
		return false
	}
	if t.Upstream != "" {
		return p.repo.Upstream == t.Upstream
	}
	return t.g.policy(p.repo) == t.g.Policy
}

// one decides about an image for all its callers. An error is the Store's, or the end of
// ctx.
func (t *trial) one(ctx context.Context, p lastPull) ([]*Change, error) {
	g := t.g
	t.sum.Images++
	callers, err := g.callers(ctx, p.repo, p.digest)
	if err != nil {
		return nil, err
	}
	callers = slices.DeleteFunc(callers, func(c lastPull) bool { return c.At.Before(t.Since) || g.now().Sub(c.At) >= pulledFor })
	if len(callers) == 0 { // of an older gateway, which did not write them down
		callers = []lastPull{p}
	}
	t.sum.Requests += len(callers)
	m, err := g.knownManifest(ctx, p.repo, p.digest)
	if err != nil {
		return nil, err
	}
	var v *scan.Verdict
	if m != nil {
		if v, err = t.verdict(ctx, m); err != nil {
			return nil, err
		}
	}
	if v == nil {
		t.sum.Skipped++
		return nil, nil
	}
	parents, err := g.parents(ctx, p.repo, m.Digest)
	if err != nil {
		return nil, err
	}
	now, each := g.now().UTC(), t.asksWho(g.policy(p.repo))
	var changes []*Change
	for i, c := range callers {
		if i > 0 && !each {
			for _, change := range changes {
				change.Callers = append(change.Callers, Puller{c.Caller, c.At})
			}
			continue
		}
		change, err := t.compare(ctx, c, m, parents, v, now)
		if errors.Is(err, errUndecided) {
			t.sum.Failed++
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		changes = merged(changes, change)
	}
	for _, c := range changes {
		t.count(c)
	}
	return changes, nil
}

// verdict returns the latest one that is stored, nil where there is none with the facts
// that policies need.
func (t *trial) verdict(ctx context.Context, m *manifest) (*scan.Verdict, error) {
	g := t.g
	if m.foreign != "" {
		return failedVerdict(scan.CauseScanFailed, m.foreign+" is fetched from a foreign address, past the gateway"), nil
	}
	v, err := g.Scanner.Cached(ctx, m.Digest)
	for i := 0; err != nil && i < len(t.past) && !isStoreError(err); i++ {
		v, err = g.Scanner.By(ctx, m.Digest, scan.Database{Built: t.past[i].Built, Checksum: t.past[i].checksum})
	}
	switch {
	case err != nil && isStoreError(err):
		return nil, err
	case err != nil:
		return nil, nil //nolint:nilerr // there is none
	}
	if err := g.configAtHand(ctx, m, v); isMiss(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return v, nil
}

// isStoreError reports whether an error is more than that a verdict is not there.
func isStoreError(err error) bool {
	return !isMiss(err) && !errors.Is(err, scan.ErrDatabaseMissing) && !errors.Is(err, scan.ErrDatabaseStale)
}

// asksWho reports whether a decision can hang on who asks, so that each caller's is made.
func (t *trial) asksWho(now *policy.Engine) bool {
	for _, e := range []*policy.Engine{now, t.Engine} {
		if e.Needs("request.caller") || e.Needs("request.groups") {
			return true
		}
	}
	return false
}

// errUndecided is that policies could not decide.
var errUndecided = errors.New("policy could not decide")

// compare decides about an image for one caller by both sets, and returns nil where they
// agree.
func (t *trial) compare(ctx context.Context, p lastPull, m *manifest, parents []string, v *scan.Verdict, now time.Time) (*Change, error) {
	g := t.g
	caller := auth.Caller{Name: p.Caller, Groups: p.Groups}
	decide := func(e *policy.Engine) (in policy.Input, d policy.Decision, err error) {
		if in, err = g.inputFor(ctx, e, caller, p.repo, m, parents, v); err != nil {
			return in, d, err
		}
		in.Now = now
		d = e.Decide(ctx, in)
		if d.Cause == scan.CausePolicyError {
			err = errUndecided
		}
		return in, d, errors.Join(err, ctx.Err())
	}
	in, before, err := decide(g.policy(p.repo))
	if err != nil {
		return nil, err
	}
	_, after, err := decide(t.Engine)
	if err != nil {
		return nil, err
	}
	change := changed(before, after)
	if change == "" {
		return nil, nil
	}
	return &Change{
		Change:  change,
		Image:   Subject{Reference: in.Image.Reference, Repository: in.Image.Repository, Digest: in.Image.Digest, Platform: in.Image.Platform, Tags: in.Image.Tags},
		Before:  Opinion{before.Allow, before.Mode, v.Scan.Cause, v.Scan.Database, before.Violations},
		After:   Opinion{after.Allow, after.Mode, v.Scan.Cause, v.Scan.Database, after.Violations},
		Callers: []Puller{{p.Caller, p.At}},
	}, nil
}

func changed(before, after policy.Decision) string {
	switch {
	case !before.Blocks() && after.Blocks():
		return NewlyBlocked
	case before.Blocks() && !after.Blocks():
		return NewlyAllowed
	case before.Allow && !after.Allow:
		return NewlyWarned
	case !before.Allow && after.Allow:
		return NoMoreWarned
	}
	return ""
}

// merged adds a change to those of the same image: callers for whom the same becomes of it
// stand in one.
func merged(changes []*Change, c *Change) []*Change {
	if c == nil {
		return changes
	}
	same := func(a, b []policy.Violation) bool {
		return slices.EqualFunc(a, b, func(x, y policy.Violation) bool { return x.Policy == y.Policy && x.Message == y.Message })
	}
	for _, other := range changes {
		if other.Change == c.Change && same(other.Before.Violations, c.Before.Violations) && same(other.After.Violations, c.After.Violations) {
			other.Callers = append(other.Callers, c.Callers...)
			return changes
		}
	}
	return append(changes, c)
}

func (t *trial) count(c *Change) {
	switch c.Change {
	case NewlyBlocked:
		t.sum.Blocked++
	case NewlyAllowed:
		t.sum.Allowed++
	case NewlyWarned:
		t.sum.Warned++
	case NoMoreWarned:
		t.sum.Cleared++
	}
}

// note says what the reader should know of how the result came about.
func (t *trial) note() string {
	for _, need := range []string{policy.NeedBaseLatest, policy.NeedBaseOutdated, policy.NeedBaseVerified} {
		if t.Engine.Needs(need) && !t.g.Policy.Needs(need) {
			return "base images are asked for only now, since these policies refer to them: run it once more in a minute"
		}
	}
	return ""
}
