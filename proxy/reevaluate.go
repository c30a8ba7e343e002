package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// What the Store has of re-evaluations.
const (
	kindDatabases cache.Kind = "databases" // → checksum → pastDatabase
	kindReview    cache.Kind = "review"    // database → who re-evaluates by it
)

const (
	reviewEvery  = 5 * time.Second  // how soon a new database is noticed
	reviewLease  = time.Minute      // how long a replica that died keeps others from going on
	reviewRetry  = 30 * time.Second // after an error, and for a look at another replica
	reviewBehind = time.Second      // how long one image lets pulls under way go first
	pastKept     = 8                // databases whose verdicts are looked for
	maxTroubled  = 3                // images in a row that can't be looked at, before it is tried again
)

// Reevaluation tells how far the images that were pulled lately are matched by a database.
type Reevaluation struct {
	Database scan.Database `json:"database"`
	Running  bool          `json:"running"` // here; another replica may be at it
	Started  time.Time     `json:"started,omitzero"`
	Ended    time.Time     `json:"ended,omitzero"`
	Total    int           `json:"total"`   // images
	Done     int           `json:"done"`    // of them
	Skipped  int           `json:"skipped"` // of Done: their SBOM, manifest or config is not kept any more
	Failed   int           `json:"failed"`  // of Done: they could not be matched; the next pull tries again
	Denied   int           `json:"denied"`  // turned from allowed to denied
	Allowed  int           `json:"allowed"` // turned from denied to allowed
}

// Left returns how long it will still take at the rate so far, 0 where that isn't known.
func (r Reevaluation) Left(now time.Time) time.Duration {
	if !r.Running || r.Done == 0 {
		return 0
	}
	return time.Duration(float64(now.Sub(r.Started)) / float64(r.Done) * float64(r.Total-r.Done))
}

// Reevaluation returns the state of the latest one that this gateway has a part in.
func (g *Gateway) Reevaluation() Reevaluation {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.review
}

func (g *Gateway) progress(change func(*Reevaluation)) Reevaluation {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.review)
	return g.review
}

// Reevaluate follows the vulnerability database until ctx ends: whenever another one is
// active, the images that were pulled lately are matched with it from their stored SBOMs,
// the ones pulled last first, one at a time, and behind pulls. Nothing is fetched. An
// image that turns from allowed to denied, or back, for who pulled it last raises an
// Event. What a restart interrupts goes on after it.
func (g *Gateway) Reevaluate(ctx context.Context) error {
	failed := ""
	for wait := time.Duration(0); ; wait = reviewEvery {
		if failed != "" {
			wait = reviewRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		db, err := g.Scanner.Database(ctx)
		if err != nil {
			continue // what is wrong with the database is said elsewhere
		}
		err = g.reviewBy(ctx, db)
		switch {
		case ctx.Err() != nil:
		case err != nil && err.Error() != failed: // one line for each new trouble
			failed = err.Error()
			g.Log.Warn("images pulled lately are not all matched with the new vulnerability database yet; it goes on in a while", "error", err)
		case err == nil:
			failed = ""
		}
	}
}

// reviewBy re-evaluates by db, unless that is done or another replica is at it.
func (g *Gateway) reviewBy(ctx context.Context, db scan.Database) (err error) {
	now, _, err := g.databases(ctx, db)
	if err != nil {
		return err
	}
	if now.Done {
		g.follows = db.Checksum
		return nil
	}
	key, me := cache.Name(kindReview, db.Checksum), []byte(rand.Text())
	holder, err := g.Store.PutNew(ctx, key, me, reviewLease)
	if err != nil || string(holder) != string(me) {
		return err
	}
	defer func() {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, g.Store.Delete(release, key))
	}()
	now, past, err := g.databases(ctx, db)
	if err != nil || now.Done { // by the last one who held the lease
		return err
	}
	if err := g.putJSON(ctx, cache.Name(kindDatabases), db.Checksum, now); err != nil {
		return err
	}
	g.follows = db.Checksum
	err = g.reviewAll(ctx, db, past, func() error { return g.Store.Put(ctx, key, me, reviewLease) })
	r := g.progress(func(r *Reevaluation) { r.Running, r.Ended = false, g.now() })
	if err != nil {
		return err
	}
	if r.Total > 0 {
		g.Log.Info("images pulled lately are matched with the new vulnerability database", "images", r.Total, "skipped", r.Skipped, "failed", r.Failed,
			"now_denied", r.Denied, "now_allowed", r.Allowed, "took", r.Ended.Sub(r.Started).Round(time.Millisecond))
	}
	now.Done = true
	return g.putJSON(ctx, cache.Name(kindDatabases), db.Checksum, now)
}

// errOtherDatabase ends a re-evaluation by a database that is not active any more.
var errOtherDatabase = errors.New("another vulnerability database became active meanwhile")

// reviewAll matches all images that were pulled lately. renew keeps the lease.
func (g *Gateway) reviewAll(ctx context.Context, db scan.Database, past []pastDatabase, renew func() error) error {
	all, err := g.pulledLately(ctx)
	if err != nil {
		return err
	}
	start := g.now()
	g.progress(func(r *Reevaluation) {
		*r = Reevaluation{Database: db, Running: true, Started: start, Total: len(all)}
	})
	renewed, said, troubled, total := start, 0, 0, len(all)
	var waited time.Duration
	for i := 0; i < len(all); i++ {
		p := all[i]
		if _, err := g.Scanner.Cached(ctx, p.digest); err != nil && waited < 3*(g.now().Sub(start)-waited)+reviewBehind {
			before := g.now()
			if err := g.behindPulls(ctx); err != nil {
				return err
			}
			waited += g.now().Sub(before)
		}
		if now, err := g.Scanner.Database(ctx); err != nil {
			return err
		} else if now.Checksum != db.Checksum {
			return errOtherDatabase
		}
		if err := g.reviewOne(ctx, p, past); err != nil {
			if troubled++; troubled == maxTroubled || ctx.Err() != nil {
				return fmt.Errorf("image %s@%s: %w", p.repo, p.digest, err)
			}
			if i < total {
				all = append(all, p) // once more in the end
				continue
			}
			g.Log.Warn("an image pulled lately can't be matched with the new vulnerability database; its next pull tries again", "image", p.repo.String()+"@"+p.digest.String(), "error", err)
			g.progress(func(r *Reevaluation) { r.Failed++ })
		} else {
			troubled = 0
		}
		r := g.progress(func(r *Reevaluation) { r.Done++ })
		if tenth := r.Done * 10 / total; tenth > said && total >= 100 {
			said = tenth
			g.Log.Info("matching images pulled lately with the new vulnerability database", "done", r.Done, "of", r.Total, "left", r.Left(g.now()).Round(time.Second))
		}
		if g.now().Sub(renewed) > reviewLease/3 {
			renewed = g.now()
			if err := renew(); err != nil {
				return err
			}
		}
	}
	return nil
}

// behindPulls waits while pulls run, but not for ever. All images together wait for three
// quarters of the time at most, so that a gateway that is never idle gets there too.
func (g *Gateway) behindPulls(ctx context.Context) error {
	for until := time.Now().Add(reviewBehind); time.Now().Before(until); {
		if running, _ := g.queue.length(); running == 0 {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// reviewOne matches one image and raises an event where it turns. An error is the
// Store's, the database's, or the end of ctx.
func (g *Gateway) reviewOne(ctx context.Context, p lastPull, past []pastDatabase) error {
	skip := func() { g.progress(func(r *Reevaluation) { r.Skipped++ }) }
	m, err := g.knownManifest(ctx, p.repo, p.digest)
	if err != nil {
		return err
	}
	if m == nil || g.upstream(p.repo.Upstream) == nil {
		skip()
		return nil
	}
	v, err := g.Scanner.Known(ctx, p.digest)
	if isMiss(err) {
		skip()
		return nil
	}
	if err != nil {
		return err
	}
	switch v.Scan.Cause {
	case scan.CauseDBMissing, scan.CauseDBStale, scan.CauseStoreDown:
		return fmt.Errorf("%s: %s", v.Scan.Cause, v.Scan.Detail)
	}
	if v.Scan.Database == nil { // no database has a say in it, or it could not be matched
		if v.Scan.State == scan.Failed {
			g.progress(func(r *Reevaluation) { r.Failed++ })
		}
		return nil
	}
	before, base, err := g.lastVerdict(ctx, p, past)
	if before == nil || err != nil || !differ(before, v) {
		return err
	}
	if err := g.configAtHand(ctx, m, v); isMiss(err) {
		skip()
		return nil
	} else if err != nil {
		return err
	}
	return g.compare(ctx, p, m, before, v, base)
}

// lastVerdict returns the verdict that an image was last compared by, and the database that
// it is of; nil where there is none. By a database of which the re-evaluation did not end a
// pull may have matched the image, and nobody told of its turn: its verdicts count only for
// images that have none of before.
func (g *Gateway) lastVerdict(ctx context.Context, p lastPull, past []pastDatabase) (last *scan.Verdict, base pastDatabase, err error) {
	for _, db := range past {
		v, err := g.Scanner.By(ctx, p.digest, scan.Database{Built: db.Built, Checksum: db.checksum})
		if isMiss(err) {
			continue
		}
		if err != nil {
			return nil, base, err
		}
		last, base = v, db
		if db.Done {
			break
		}
	}
	return last, base, nil
}

// compare decides an image by both verdicts, as for who pulled it last, and raises an
// event where the decisions differ.
func (g *Gateway) compare(ctx context.Context, p lastPull, m *manifest, before, after *scan.Verdict, base pastDatabase) error {
	parents, err := g.parents(ctx, p.repo, m.Digest)
	if err != nil {
		return err
	}
	caller := auth.Caller{Name: p.Caller, Groups: p.Groups}
	in, err := g.input(ctx, caller, p.repo, m, parents, after)
	if err != nil {
		return err
	}
	engine := g.policy(p.repo)
	now := engine.Decide(ctx, in)
	old := in
	old.Scan, old.Findings = before.Scan, before.Findings
	then := engine.Decide(ctx, old)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if now.Allow == then.Allow || now.Cause == scan.CausePolicyError || then.Cause == scan.CausePolicyError {
		return nil
	}
	e := &Event{
		ID:   eventID(VerdictChanged, p.repo.String(), p.digest.String(), base.checksum, base.Seen.Format(time.RFC3339Nano), fmt.Sprint(now.Allow)),
		Time: g.now().UTC(), Type: VerdictChanged,
		Image:    Subject{Reference: in.Image.Reference, Repository: in.Image.Repository, Digest: in.Image.Digest, Platform: in.Image.Platform, Tags: in.Image.Tags},
		Before:   Opinion{then.Allow, then.Mode, before.Scan.Cause, before.Scan.Database, then.Violations},
		After:    Opinion{now.Allow, now.Mode, after.Scan.Cause, after.Scan.Database, now.Violations},
		LastPull: Puller{p.Caller, p.At},
	}
	if now.Allow {
		e.Advisories = culprits(then.Violations, before.Findings, after.Findings, "gone")
	} else {
		e.Advisories = culprits(now.Violations, after.Findings, before.Findings, "new")
	}
	return g.tell(ctx, e)
}

// tell keeps, counts and logs an event, once.
func (g *Gateway) tell(ctx context.Context, e *Event) error {
	if told, err := g.raised(ctx, e.ID); told || err != nil {
		return err
	}
	news, err := g.raise(ctx, e)
	if err != nil || !news {
		return err
	}
	ids := []string{}
	for _, a := range e.Advisories[:min(len(e.Advisories), 5)] {
		ids = append(ids, a.ID+" in "+a.Package+" "+a.Version)
	}
	attrs := []any{"image", e.Image.Reference, "tags", e.Image.Tags, "advisories", ids, "last_caller", e.LastPull.Caller, "last_pull", e.LastPull.Time, "mode", e.After.Mode, "event", e.ID}
	if e.After.Allow {
		g.progress(func(r *Reevaluation) { r.Allowed++ })
		g.Metrics.turned.WithLabelValues("allowed").Inc()
		g.Log.Info("an image that was denied is allowed by the new vulnerability database", attrs...)
		return nil
	}
	g.progress(func(r *Reevaluation) { r.Denied++ })
	g.Metrics.turned.WithLabelValues("denied").Inc()
	g.Log.Warn("an image that was allowed is denied by the new vulnerability database", attrs...)
	return nil
}

// maxAdvisories bounds those of one event.
const maxAdvisories = 100

// culprits returns what violations name and the other verdict doesn't have, or has
// otherwise. change says what it is where the other doesn't have it.
func culprits(violations []policy.Violation, here, there []scan.Finding, change string) []Advisory {
	named := map[string]bool{}
	for _, v := range violations {
		for _, id := range v.Findings {
			named[id] = true
		}
	}
	others := map[[3]string]scan.Finding{}
	for _, f := range there {
		others[findingKey(f)] = f
	}
	out := []Advisory{}
	for _, f := range here {
		other, known := others[findingKey(f)]
		if !named[f.ID] || known && weight(f) == weight(other) || len(out) == maxAdvisories {
			continue
		}
		a := Advisory{f.ID, f.Package.Name, f.Package.Version, f.Severity, append([]string{}, f.Fix.Versions...), change}
		if known {
			a.Change = "changed"
		}
		if !slices.ContainsFunc(out, func(b Advisory) bool {
			return a.ID == b.ID && a.Package == b.Package && a.Version == b.Version
		}) { // one package may be there in several places
			out = append(out, a)
		}
	}
	return out
}

func findingKey(f scan.Finding) [3]string {
	return [3]string{f.ID, f.Package.PURL + f.Package.Name, f.Package.Version}
}

// weight is what of a finding a policy may look at and a database may change.
func weight(f scan.Finding) string {
	suppressed := ""
	if f.SuppressedBy != nil {
		suppressed = *f.SuppressedBy
	}
	return fmt.Sprint(f.Aliases, f.Severity, f.CVSS, f.EPSS, f.KEV, f.Published, f.Fix.State, f.Fix.Versions, f.Fix.Available, "\x00", suppressed)
}

// differ reports whether two verdicts on an image could be decided otherwise.
func differ(a, b *scan.Verdict) bool {
	if a.Scan.State != b.Scan.State || a.Scan.Cause != b.Scan.Cause || a.Scan.Coverage.DistroEOL != b.Scan.Coverage.DistroEOL || len(a.Findings) != len(b.Findings) {
		return true
	}
	weights := map[string]int{}
	for _, f := range a.Findings {
		weights[fmt.Sprint(findingKey(f), weight(f))]++
	}
	for _, f := range b.Findings {
		k := fmt.Sprint(findingKey(f), weight(f))
		if weights[k]--; weights[k] < 0 {
			return true
		}
	}
	return false
}

// A pastDatabase is one that images were matched with.
type pastDatabase struct {
	Built time.Time `json:"built"`
	Seen  time.Time `json:"seen"` // when it last became active
	Done  bool      `json:"done"` // the images pulled lately were all matched with it since

	checksum string
}

// databases returns db as one that is active, and those that were so before, the latest
// first.
func (g *Gateway) databases(ctx context.Context, db scan.Database) (now pastDatabase, past []pastDatabase, err error) {
	key := cache.Name(kindDatabases)
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return now, nil, err
	}
	for sum, b := range fields {
		d := pastDatabase{checksum: sum}
		if err := json.Unmarshal(b, &d); err != nil {
			g.damaged(key, err)
			continue
		}
		if sum == db.Checksum {
			now = d
			continue
		}
		past = append(past, d)
	}
	slices.SortFunc(past, func(a, b pastDatabase) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.checksum, b.checksum))
	})
	back := g.follows != db.Checksum && len(past) > 0 && past[0].Seen.After(now.Seen) // here: another replica may have another one
	if now.checksum == "" || back {
		now = pastDatabase{Built: db.Built, Seen: g.now().UTC(), checksum: db.Checksum}
	}
	for _, old := range past[min(len(past), pastKept):] {
		if err := g.Store.DeleteField(ctx, key, old.checksum); err != nil {
			return now, nil, err
		}
	}
	return now, past[:min(len(past), pastKept)], nil
}
