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
	kindReview    cache.Kind = "review"    // database → who re-evaluates by it, or that it is done
)

const (
	reviewEvery  = 5 * time.Second  // how soon a new database is noticed
	reviewLease  = time.Minute      // how long a replica that died keeps others from going on
	reviewRetry  = 30 * time.Second // after an error, and for a look at another replica
	reviewBehind = time.Second      // how long one image lets pulls under way go first
	pastKept     = 8                // databases whose verdicts are looked for
	reviewDone   = "done"
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
	done, failed := "", ""
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
		if err != nil || db.Checksum == done {
			continue // what is wrong with the database is said elsewhere
		}
		ended, err := g.reviewBy(ctx, db)
		switch {
		case ctx.Err() != nil:
		case err != nil && err.Error() != failed: // one line for each new trouble
			failed = err.Error()
			g.Log.Warn("images pulled lately are not all matched with the new vulnerability database yet; it goes on in a while", "error", err)
		case err == nil:
			failed = ""
		}
		if ended {
			done = db.Checksum
		}
	}
}

// reviewBy re-evaluates by db unless another replica does, and reports whether that is
// done.
func (g *Gateway) reviewBy(ctx context.Context, db scan.Database) (ended bool, err error) {
	key, me := cache.Name(kindReview, db.Checksum), []byte(rand.Text())
	holder, err := g.Store.PutNew(ctx, key, me, reviewLease)
	if err != nil || string(holder) != string(me) {
		return string(holder) == reviewDone, err
	}
	past, err := g.pastDatabases(ctx, db)
	if err == nil {
		err = g.reviewAll(ctx, db, past, func() error { return g.Store.Put(ctx, key, me, reviewLease) })
	}
	r := g.progress(func(r *Reevaluation) { r.Running, r.Ended = false, g.now() })
	if err != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return false, errors.Join(err, g.Store.Delete(release, key))
	}
	if r.Total > 0 {
		g.Log.Info("images pulled lately are matched with the new vulnerability database", "images", r.Total, "skipped", r.Skipped, "failed", r.Failed,
			"now_denied", r.Denied, "now_allowed", r.Allowed, "took", r.Ended.Sub(r.Started).Round(time.Millisecond))
	}
	return true, g.Store.Put(ctx, key, []byte(reviewDone), eventsFor)
}

// errOtherDatabase ends a re-evaluation by a database that is not active any more.
var errOtherDatabase = errors.New("another vulnerability database became active meanwhile")

// reviewAll matches all images that were pulled lately. renew keeps the lease.
func (g *Gateway) reviewAll(ctx context.Context, db scan.Database, past []scan.Database, renew func() error) error {
	all, err := g.pulledLately(ctx)
	if err != nil {
		return err
	}
	start := g.now()
	g.progress(func(r *Reevaluation) {
		*r = Reevaluation{Database: db, Running: true, Started: start, Total: len(all)}
	})
	renewed, said := start, 0
	for i, p := range all {
		if err := g.behindPulls(ctx); err != nil {
			return err
		}
		if now, err := g.Scanner.Database(ctx); err != nil {
			return err
		} else if now.Checksum != db.Checksum {
			return errOtherDatabase
		}
		if err := g.reviewOne(ctx, p, db, past); err != nil {
			return fmt.Errorf("image %s@%s: %w", p.repo, p.digest, err)
		}
		r := g.progress(func(r *Reevaluation) { r.Done++ })
		if tenth := (i + 1) * 10 / len(all); tenth > said && len(all) >= 100 {
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

// behindPulls waits while pulls run, but not for ever.
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
func (g *Gateway) reviewOne(ctx context.Context, p lastPull, db scan.Database, past []scan.Database) error {
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
	before, err := g.lastVerdict(ctx, p, past)
	if before == nil || err != nil || !differ(before, v) {
		return err
	}
	if err := g.configAtHand(ctx, m, v); isMiss(err) {
		skip()
		return nil
	} else if err != nil {
		return err
	}
	return g.compare(ctx, p, m, before, v)
}

// lastVerdict returns the verdict by the latest of the databases before that has one, nil
// where none has.
func (g *Gateway) lastVerdict(ctx context.Context, p lastPull, past []scan.Database) (*scan.Verdict, error) {
	for _, db := range past {
		v, err := g.Scanner.By(ctx, p.digest, db)
		if err == nil || !isMiss(err) {
			return v, err
		}
	}
	return nil, nil
}

// compare decides an image by both verdicts, as for who pulled it last, and raises an
// event where the decisions differ.
func (g *Gateway) compare(ctx context.Context, p lastPull, m *manifest, before, after *scan.Verdict) error {
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
		ID:   eventID(VerdictChanged, p.repo.String(), p.digest.String(), after.Scan.Database.Checksum, fmt.Sprint(now.Allow)),
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
	return fmt.Sprint(f.Severity, f.CVSS, f.EPSS, f.KEV, f.Published, f.Fix.State, f.Fix.Versions, f.Fix.Available, "\x00", suppressed)
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
	Seen  time.Time `json:"seen"` // when it became active here
}

// pastDatabases writes down that db is active and returns those before it, the latest
// first.
func (g *Gateway) pastDatabases(ctx context.Context, db scan.Database) ([]scan.Database, error) {
	key := cache.Name(kindDatabases)
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return nil, err
	}
	seen := map[string]pastDatabase{}
	var past []scan.Database
	for sum, b := range fields {
		var d pastDatabase
		if err := json.Unmarshal(b, &d); err != nil {
			g.damaged(key, err)
			continue
		}
		if sum != db.Checksum {
			seen[sum] = d
			past = append(past, scan.Database{Built: d.Built, Checksum: sum})
		}
	}
	slices.SortFunc(past, func(a, b scan.Database) int {
		return cmp.Or(seen[b.Checksum].Seen.Compare(seen[a.Checksum].Seen), cmp.Compare(a.Checksum, b.Checksum))
	})
	for _, old := range past[min(len(past), pastKept):] {
		if err := g.Store.DeleteField(ctx, key, old.Checksum); err != nil {
			return nil, err
		}
	}
	return past[:min(len(past), pastKept)], g.putJSON(ctx, key, db.Checksum, pastDatabase{db.Built, g.now().UTC()})
}
