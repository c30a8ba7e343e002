package scan

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// kindActive is the build of the vulnerability database that gateways decide by.
const kindActive cache.Kind = "active"

const (
	// activeTTL is how long a build counts that no gateway has any more: as long as there can
	// be verdicts by it, since by an older one what it denies would be allowed.
	activeTTL   = 30 * 24 * time.Hour
	activeEvery = time.Minute // is it renewed by those that have it
	// absentFor is how long a record has to be gone from the Store to be gone: where Redis was
	// flushed, or has lost it, those that have the build write it again in less.
	absentFor = time.Minute
)

// A Fleet has gateways that share a Store decide by one build of the vulnerability
// database, the newest that one of them has: by two they would allow and deny an image in
// turns. Its fields are set before the first call.
type Fleet struct {
	Store cache.Store
	Own   func(context.Context) (Database, error) // the build that this gateway has, as Scanner.Database
	Fresh func(built time.Time) error             // wraps ErrDatabaseStale for one that is too old

	// Behind is called, often and concurrently, while others decide by a newer build than
	// this gateway has: it is to be fetched.
	Behind func()
	Log    *slog.Logger

	mu      sync.Mutex // guards what follows
	renewed time.Time
	behind  string    // checksum of the build that this gateway lacks, "" for none
	last    Database  // what was read last of the build to decide by
	absent  time.Time // since when the Store has none; zero while it has one, or can't be read
}

// An activeRecord is what is stored under kindActive.
type activeRecord struct {
	Database
	Renewed time.Time `json:"renewed"`
}

// Database returns the build to decide by. Where this gateway lacks it, it is Elsewhere:
// verdicts that others have made by it count, and none can be made here. Where the Store,
// or what it has, can't be read, what was read last counts, and for a minute where the Store
// has none any more.
func (f *Fleet) Database(ctx context.Context) (Database, error) {
	own, ownErr := f.Own(ctx)
	key := cache.Name(kindActive, "database")
	raw, err := f.Store.Get(ctx, key)
	var active activeRecord
	damaged := errors.Is(err, cache.ErrDamaged) || err == nil && json.Unmarshal(raw, &active) != nil
	unread := damaged || err != nil && !errors.Is(err, fs.ErrNotExist)
	active.Database = f.remember(active.Database, err, unread)
	if ownErr == nil && !newer(active.Database, own) {
		f.tell(own, "")
		if damaged || !unread {
			f.announce(cache.Direct(ctx), key, raw, damaged, own, active.Database)
		}
		return own, nil
	}
	if active.Checksum == "" || active.Checksum == own.Checksum { // which is stale here, by this gateway's limit
		return own, ownErr
	}
	f.tell(active.Database, active.Checksum)
	f.Behind()
	if err := f.Fresh(active.Built); err != nil {
		return Database{}, fmt.Errorf("of the build that gateways which share the store decide by: %w", err)
	}
	active.Elsewhere = true
	return active.Database, nil
}

// remember keeps db, which was read with that error, as what was read last, and returns what
// counts: db, or what was read before where db could not be, or is not there lately.
func (f *Fleet) remember(db Database, err error, unread bool) Database {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	switch {
	case unread:
	case err == nil:
		f.last, f.absent = db, time.Time{}
	case f.absent.IsZero():
		f.absent = now
	case now.Sub(f.absent) >= absentFor:
		f.last = db
	}
	return f.last
}

// Lacks returns the build that others decide by and this gateway lacks, as of the last
// call of Database; "" for none.
func (f *Fleet) Lacks() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.behind
}

// newer orders builds, so that all agree which one counts.
func newer(a, b Database) bool {
	return cmp.Or(a.Built.Compare(b.Built), cmp.Compare(a.Checksum, b.Checksum)) > 0
}

// tell logs when this gateway falls behind, and when it has caught up.
func (f *Fleet) tell(db Database, lacks string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.behind == lacks:
		return
	case lacks == "":
		f.Log.Info("this gateway has the vulnerability database that the others decide by", "built", db.Built, "checksum", db.Checksum)
	default:
		f.Log.Warn("other gateways decide by a newer vulnerability database: until it is here, unknown images wait for it", "built", db.Built, "checksum", db.Checksum)
	}
	f.behind = lacks
}

// announce has others know that this gateway decides by own, from time to time. That it
// can't is no trouble of the decision: the next call tries again.
func (f *Fleet) announce(ctx context.Context, key cache.Key, old []byte, damaged bool, own, active Database) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); old != nil && !damaged && active.Checksum == own.Checksum && now.Sub(f.renewed) < activeEvery {
		return
	} else {
		f.renewed = now
	}
	b, err := json.Marshal(activeRecord{own, f.renewed})
	switch {
	case err != nil:
	case damaged:
		err = f.Store.Put(ctx, key, b, activeTTL)
	case old == nil:
		_, err = f.Store.PutNew(ctx, key, b, activeTTL)
	default: // where another was quicker, the next call sees what it wrote
		_, err = f.Store.PutIf(ctx, key, old, b, activeTTL)
	}
	if err != nil {
		f.Log.Debug("can't tell other gateways of the vulnerability database", "error", err)
	}
}

// elsewhere returns the error of a match by db, which others have and this gateway lacks.
func elsewhere(db Database) error {
	return fmt.Errorf("%w like the one that the other gateways decide by (built %s): this one is still fetching it; try again, and if that goes on, run \"sluice db update\" here, or \"sluice db import FILE\"; where all are to go back to an older build, import that everywhere, run \"sluice cache purge active\" and wait a minute",
		ErrDatabaseElsewhere, db.Built.UTC().Format(time.RFC3339))
}
