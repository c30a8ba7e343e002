package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/scan"
)

// kindDatabases is what the Store has of re-evaluations.
const kindDatabases cache.Kind = "databases" // → checksum → pastDatabase

const (
	reviewWork   = "re-evaluation " // and a checksum: what one replica does at a time
	reviewEvery  = 5 * time.Second  // how soon a new database is noticed
	reviewLease  = time.Minute      // for how long a replica that died keeps others from going on
	reviewRetry  = 30 * time.Second // after an error, and for a look at another replica
	reviewBehind = time.Second      // how long one image lets pulls under way go first
	pastKept     = 8                // databases whose verdicts are looked for
	maxTroubled  = 3                // images in a row that can't be looked at before it ends, to be tried again later
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
		if err != nil || db.Elsewhere {
			continue // what is wrong with the database is said elsewhere; who has it matches
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
func (g *Gateway) reviewBy(ctx context.Context, db scan.Database) error {
	now, _, err := g.databases(ctx, db)
	if err != nil {
		return err
	}
	if now.Done {
		g.follows = db.Checksum
		return nil
	}
	lease, err := cache.Acquire(ctx, g.Store, reviewWork+db.Checksum, cmp.Or(g.Replica, "this gateway"), reviewLease)
	if errors.Is(err, cache.ErrHeld) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lease.Release()
	err = g.walkBy(lease.Context(), db)
	if lost := context.Cause(lease.Context()); errors.Is(lost, cache.ErrLost) {
		return lost
	}
	return err
}

// walkBy re-evaluates by db, unless that is done. The lease is held.
func (g *Gateway) walkBy(ctx context.Context, db scan.Database) error {
	now, past, err := g.databases(ctx, db)
	if err != nil || now.Done { // by the last one who held the lease
		return err
	}
	w := &walk{g: g, db: db, now: now, past: past}
	if err := w.keep(ctx); err != nil {
		return err
	}
	g.follows = db.Checksum
	err = w.all(ctx)
	r := g.progress(func(r *Reevaluation) { r.Running, r.Ended = false, g.now() })
	if err != nil {
		return err
	}
	if r.Total > 0 {
		g.Log.Info("images pulled lately are matched with the new vulnerability database", "images", r.Total, "skipped", r.Skipped, "failed", r.Failed,
			"now_denied", r.Denied, "now_allowed", r.Allowed, "took", r.Ended.Sub(r.Started).Round(time.Millisecond))
	}
	w.now.Done = true
	return w.keep(ctx)
}

// errOtherDatabase ends a re-evaluation by a database that is not active any more.
var errOtherDatabase = errors.New("another vulnerability database became active meanwhile")

// A pastDatabase is one that images were matched with.
type pastDatabase struct {
	Built time.Time `json:"built"`
	Seen  time.Time `json:"seen"` // when it last became active
	Done  bool      `json:"done"` // the images pulled lately were all matched with it since

	// Images that turned since, also where another replica, or this one before a restart,
	// found them; one at which that died may be missing.
	Denied  int `json:"denied,omitempty"`
	Allowed int `json:"allowed,omitempty"`

	checksum string
}

// databases returns db as one that is active, and those that were so before, the latest
// first.
func (g *Gateway) databases(ctx context.Context, db scan.Database) (now pastDatabase, past []pastDatabase, err error) {
	all, err := g.knownDatabases(ctx)
	if err != nil {
		return now, nil, err
	}
	for _, d := range all {
		if d.checksum == db.Checksum {
			now = d
			continue
		}
		past = append(past, d)
	}
	back := g.follows != db.Checksum && len(past) > 0 && past[0].Seen.After(now.Seen) // here: another replica may have another one
	if now.checksum == "" || back {
		now = pastDatabase{Built: db.Built, Seen: g.now().UTC(), checksum: db.Checksum}
	}
	for _, old := range past[min(len(past), pastKept):] {
		if err := g.Store.DeleteField(ctx, cache.Name(kindDatabases), old.checksum); err != nil {
			return now, nil, err
		}
	}
	return now, past[:min(len(past), pastKept)], nil
}

// knownDatabases returns those that images were matched with, the latest first.
func (g *Gateway) knownDatabases(ctx context.Context) (all []pastDatabase, err error) {
	key := cache.Name(kindDatabases)
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return nil, err
	}
	for sum, b := range fields {
		d := pastDatabase{checksum: sum}
		if err := json.Unmarshal(b, &d); err != nil {
			g.damaged(key, err)
			continue
		}
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b pastDatabase) int {
		return cmp.Or(b.Seen.Compare(a.Seen), cmp.Compare(a.checksum, b.checksum))
	})
	return all, nil
}
