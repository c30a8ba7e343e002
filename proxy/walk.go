package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// A walk is one re-evaluation by one database on its way through the images.
type walk struct {
	g      *Gateway
	db     scan.Database
	now    pastDatabase   // db, and what has come of it
	past   []pastDatabase // those before it, the latest first
	began  time.Time
	waited time.Duration // for pulls, of the time since
	tenths int           // of the images that the log has told of
}

// keep writes down what has come of the walk.
func (w *walk) keep(ctx context.Context) error {
	return w.g.putJSON(ctx, cache.Name(kindDatabases), w.db.Checksum, w.now)
}

// all looks at the images that were pulled lately. One that can't be looked at is tried
// once more in the end; several in a row end the walk with an error.
func (w *walk) all(ctx context.Context) error {
	images, err := w.g.pulledLately(ctx)
	if err != nil {
		return err
	}
	w.began = w.g.now()
	w.g.progress(func(r *Reevaluation) {
		*r = Reevaluation{Database: w.db, Running: true, Started: w.began, Total: len(images), Denied: w.now.Denied, Allowed: w.now.Allowed}
	})
	var again []lastPull
	troubled := 0
	for _, p := range images {
		err := w.one(ctx, p)
		if err == nil {
			troubled = 0
			w.done()
			continue
		}
		if troubled++; troubled == maxTroubled || ctx.Err() != nil || errors.Is(err, errOtherDatabase) {
			return fmt.Errorf("image %s: %w", p, err)
		}
		again = append(again, p)
	}
	for _, p := range again {
		err := w.one(ctx, p)
		switch {
		case ctx.Err() != nil || errors.Is(err, errOtherDatabase):
			return err
		case err != nil:
			w.g.Log.Warn("an image pulled lately can't be matched with the new vulnerability database; its next pull tries again", "image", p, "error", err)
			w.g.progress(func(r *Reevaluation) { r.Failed++ })
		}
		w.done()
	}
	return nil
}

// one looks at one image, behind pulls.
func (w *walk) one(ctx context.Context, p lastPull) error {
	if _, err := w.g.Scanner.Cached(ctx, p.digest); err != nil {
		if err := w.behindPulls(ctx); err != nil {
			return err
		}
	}
	now, err := w.g.Scanner.Database(ctx)
	if err != nil {
		return err
	}
	if now.Checksum != w.db.Checksum {
		return errOtherDatabase
	}
	return w.review(ctx, p)
}

// done counts an image that was looked at.
func (w *walk) done() {
	r := w.g.progress(func(r *Reevaluation) { r.Done++ })
	if tenths := r.Done * 10 / r.Total; tenths > w.tenths && r.Total >= 100 {
		w.tenths = tenths
		w.g.Log.Info("matching images pulled lately with the new vulnerability database", "done", r.Done, "of", r.Total, "left", r.Left(w.g.now()).Round(time.Second))
	}
}

// behindPulls waits while pulls run, but not for ever. All images together wait for three
// quarters of the time at most, so that a gateway that is never idle gets there too.
func (w *walk) behindPulls(ctx context.Context) error {
	begin := w.g.now()
	if worked := begin.Sub(w.began) - w.waited; w.waited > 3*worked+reviewBehind {
		return nil
	}
	defer func() { w.waited += w.g.now().Sub(begin) }()
	for until := time.Now().Add(reviewBehind); time.Now().Before(until); {
		if running, _ := w.g.queue.length(); running == 0 {
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

// review matches one image and raises an event where it turns. An error is the Store's,
// the database's, or the end of ctx.
func (w *walk) review(ctx context.Context, p lastPull) error {
	g := w.g
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
	before, err := w.before(ctx, p)
	if before == nil || err != nil || !differ(before, v) {
		return err
	}
	if err := g.configAtHand(ctx, m, v); isMiss(err) {
		skip()
		return nil
	} else if err != nil {
		return err
	}
	turned := w.now.Denied + w.now.Allowed
	if compared, err := w.compare(ctx, p, m, before, v); !compared || err != nil {
		return err
	}
	err = g.putJSON(ctx, cache.Name(kindHistory, p.repo.String(), p.digest.String()), fieldCompared, v.Scan.Database)
	if err != nil || w.now.Denied+w.now.Allowed == turned {
		return err
	}
	return w.keep(ctx) // last: a count may be lost, and not that the image was told of
}

// before returns the verdict that an image was last compared by, nil where there is none.
// Verdicts that don't differ are not compared, nor is one that nobody had time for: so an
// image that never was is compared by the earliest of the verdicts that are kept.
func (w *walk) before(ctx context.Context, p lastPull) (*scan.Verdict, error) {
	key := cache.Name(kindHistory, p.repo.String(), p.digest.String())
	fields, err := w.g.Store.Fields(ctx, key)
	if err != nil {
		return nil, err
	}
	earliest := make([]scan.Database, 0, len(w.past)+1)
	if b, ok := fields[fieldCompared]; ok {
		var db scan.Database
		if err := json.Unmarshal(b, &db); err != nil {
			w.g.damaged(key, err)
		} else {
			earliest = append(earliest, db)
		}
	}
	for _, db := range slices.Backward(w.past) {
		earliest = append(earliest, scan.Database{Built: db.Built, Checksum: db.checksum})
	}
	for _, db := range earliest {
		if v, err := w.g.Scanner.By(ctx, p.digest, db); !isMiss(err) {
			return v, err
		}
	}
	return nil, nil
}

// compare decides an image by both verdicts, as for who pulled it last, and raises an
// event where the decisions differ. It is false where policy can't tell.
func (w *walk) compare(ctx context.Context, p lastPull, m *manifest, before, after *scan.Verdict) (compared bool, err error) {
	g := w.g
	parents, err := g.parents(ctx, p.repo, m.Digest)
	if err != nil {
		return false, err
	}
	caller := auth.Caller{Name: p.Caller, Groups: p.Groups}
	in, err := g.input(ctx, caller, p.repo, m, parents, after)
	if err != nil {
		return false, err
	}
	engine := g.policy(p.repo)
	now := engine.Decide(ctx, in)
	old := in
	old.Scan, old.Findings = before.Scan, before.Findings
	if err := old.AddPackages(ctx, engine, g.Scanner); err != nil {
		return false, err
	}
	then := engine.Decide(ctx, old)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case now.Cause == scan.CausePolicyError || then.Cause == scan.CausePolicyError:
		return false, nil
	case now.Allow == then.Allow && now.Blocks() == then.Blocks():
		return true, nil
	}
	e := &Event{
		ID:   eventID(VerdictChanged, p.String(), before.Scan.Database.Checksum, after.Scan.Database.Checksum, w.now.Seen.Format(time.RFC3339Nano)),
		Time: g.now().UTC(), Type: VerdictChanged,
		Image:    Subject{Reference: in.Image.Reference, Repository: in.Image.Repository, Digest: in.Image.Digest, Platform: in.Image.Platform, Tags: in.Image.Tags},
		Before:   Opinion{then.Allow, then.Mode, before.Scan.Cause, before.Scan.Database, then.Violations},
		After:    Opinion{now.Allow, now.Mode, after.Scan.Cause, after.Scan.Database, now.Violations},
		LastPull: Puller{p.Caller, p.At},
	}
	if e.allowed() {
		e.Advisories = culprits(then.Violations, before.Findings, after.Findings, "gone")
	} else {
		e.Advisories = culprits(now.Violations, after.Findings, before.Findings, "new")
	}
	return true, w.tell(ctx, e)
}

// tell raises, counts and logs an event, once.
func (w *walk) tell(ctx context.Context, e *Event) error {
	g := w.g
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
	if e.allowed() {
		w.now.Allowed++
		g.Metrics.turned.WithLabelValues("allowed").Inc()
		g.Log.Info("an image that was denied is allowed by the new vulnerability database", attrs...)
	} else {
		w.now.Denied++
		g.Metrics.turned.WithLabelValues("denied").Inc()
		g.Log.Warn("an image that was allowed is denied by the new vulnerability database", attrs...)
	}
	g.progress(func(r *Reevaluation) { r.Denied, r.Allowed = w.now.Denied, w.now.Allowed })
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
	return fmt.Sprint(f.Aliases, f.Severity, f.CVSS, f.EPSS, f.Percentile, f.KEV, f.Published, f.Fix.State, f.Fix.Versions, f.Fix.Available, "\x00", suppressed)
}

// differ reports whether two verdicts on an image could be decided otherwise.
func differ(a, b *scan.Verdict) bool {
	if a.Scan.State != b.Scan.State || a.Scan.Cause != b.Scan.Cause || !reflect.DeepEqual(a.Scan.Coverage, b.Scan.Coverage) || len(a.Findings) != len(b.Findings) {
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
