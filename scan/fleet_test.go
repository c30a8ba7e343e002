package scan

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// inFleet has h decide by what it and others agree on; the count is of calls of Behind.
func (h *house) inFleet(own func(context.Context) (Database, error)) (*Fleet, *atomic.Int32) {
	var behind atomic.Int32
	f := &Fleet{Store: h.store, Own: own, Fresh: always, Behind: func() { behind.Add(1) }, Log: slog.New(slog.DiscardHandler)}
	h.Database = f.Database
	return f, &behind
}

func always(time.Time) error { return nil }

// gone is a Store that can't be reached while it is set.
type gone struct {
	cache.Store
	down atomic.Bool
}

func (g *gone) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	if g.down.Load() {
		return nil, cache.ErrDown
	}
	return g.Store.Get(ctx, k)
}

// TestDatabaseOutlivesTheStore checks that a gateway with an old build does not go back to it
// when the Store, or the gateway with the new one, is gone, and not past what is too old.
func TestDatabaseOutlivesTheStore(t *testing.T) {
	old := Database{Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Checksum: "xxh64:1"}
	recent := Database{Built: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Checksum: "xxh64:2"}
	store := &gone{Store: new(cache.Memory)}
	fleet := func(own Database) *Fleet {
		return &Fleet{Store: store, Own: func(context.Context) (Database, error) { return own, nil }, Fresh: always, Behind: func() {}, Log: slog.New(slog.DiscardHandler)}
	}
	lags, leads := fleet(old), fleet(recent)
	want := func(when string, f *Fleet, checksum string, elsewhere bool) {
		t.Helper()
		if db, err := f.Database(t.Context()); err != nil || db.Checksum != checksum || db.Elsewhere != elsewhere {
			t.Errorf("%s: %+v, %v; want %s, elsewhere %v", when, db, err, checksum, elsewhere)
		}
	}
	store.down.Store(true)
	want("nothing was ever read", lags, old.Checksum, false)
	store.down.Store(false)
	want("alone", lags, old.Checksum, false)
	want("the first with it", leads, recent.Checksum, false)
	want("beside it", lags, recent.Checksum, true)
	store.down.Store(true)
	want("the store is gone", lags, recent.Checksum, true)
	want("the store is gone for who has it", leads, recent.Checksum, false)
	store.down.Store(false)
	var ends time.Time
	if err := store.Store.(cache.Walker).Walk(t.Context(), kindActive, func(e cache.Entry) error { ends = e.Ends; return nil }); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(ends); left < 29*24*time.Hour {
		t.Errorf("who has it being gone, it counts for %v only", left)
	}
	lags.Fresh = func(time.Time) error { return ErrDatabaseStale }
	if db, err := lags.Database(t.Context()); !errors.Is(err, ErrDatabaseStale) {
		t.Errorf("one that is too old by now: %+v, %v", db, err)
	}
	lags.Fresh = always
	purge := func() {
		if err := store.Delete(t.Context(), cache.Name(kindActive, "database")); err != nil {
			t.Fatal(err)
		}
	}
	want("who has it reads it too", leads, recent.Checksum, false)
	synctest.Test(t, func(t *testing.T) {
		purge()
		want("just lost", lags, recent.Checksum, true)
		time.Sleep(activeEvery / 2)
		want("for who has it", leads, recent.Checksum, false)
		want("written again", fleet(old), recent.Checksum, true)
		want("read again", lags, recent.Checksum, true)
		purge()
		want("lost again", lags, recent.Checksum, true)
		time.Sleep(absentFor)
		want("taken back", lags, old.Checksum, false)
	})
}

// TestOneDatabase has a gateway with an old build decide by the verdicts of one with a new
// build, and match nothing before it has that build.
func TestOneDatabase(t *testing.T) {
	old := Database{Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Checksum: "xxh64:1", Dir: "old"}
	recent := Database{Built: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Checksum: "xxh64:2", Dir: "new"}
	a := newHouse(t)
	b := a.another(t)
	var has atomic.Pointer[Database]
	has.Store(&old)
	lags, behind := b.inFleet(func(context.Context) (Database, error) { return *has.Load(), nil })
	if db, err := lags.Database(t.Context()); err != nil || db != old {
		t.Fatalf("alone, it decides by %+v, %v", db, err)
	}
	a.inFleet(func(context.Context) (Database, error) { return recent, nil })
	content := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, content)
	a.run(t, img, content)

	if v, err := b.Cached(t.Context(), img.Digest); err != nil || v.Scan.Database.Checksum != recent.Checksum {
		t.Errorf("the other's verdict: %+v, %v", v, err)
	}
	if behind.Load() == 0 || lags.Lacks() != recent.Checksum {
		t.Errorf("it was told %d times that it lags, behind %q", behind.Load(), lags.Lacks())
	}
	b.engine.match = func(_ context.Context, _ []byte, db Database) (*Matches, error) {
		if db.Dir != "new" {
			t.Errorf("matched with %+v", db)
		}
		return &Matches{DistroKnown: true}, nil
	}
	other := layerOf(tarOf(t, "b"))
	unknown := imageOf(t, ociConfig, other)
	sc, err := b.Begin(t.Context(), unknown)
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	if err := sc.Layer(t.Context(), 0, bytes.NewReader(other.bytes)); err != nil {
		t.Fatal(err)
	}
	if v, err := sc.Finish(t.Context()); !errors.Is(err, ErrDatabaseElsewhere) || !errors.Is(err, ErrDatabaseMissing) {
		t.Errorf("an unknown image: %+v, %v", v, err)
	}
	if v, err := b.Known(t.Context(), unknown.Digest); !errors.Is(err, ErrDatabaseElsewhere) {
		t.Errorf("one that is catalogued: %+v, %v", v, err)
	}
	has.Store(&recent)
	if v, err := b.Known(t.Context(), unknown.Digest); err != nil || v.Scan.State != Complete || v.Scan.Database.Checksum != recent.Checksum {
		t.Errorf("with the build: %+v, %v", v, err)
	}
	if lags.Lacks() != "" {
		t.Errorf("it has the build and lacks %q", lags.Lacks())
	}
	has.Store(&old) // put back by hand: the others' still counts
	if db, err := lags.Database(t.Context()); err != nil || !db.Elsewhere || db.Checksum != recent.Checksum {
		t.Errorf("set back, it decides by %+v, %v", db, err)
	}
}

// TestNoDatabaseOfItsOwn has a gateway without a build answer by the verdicts of others,
// and by none once nobody has that build any more.
func TestNoDatabaseOfItsOwn(t *testing.T) {
	h := newHouse(t)
	f, _ := h.inFleet(func(context.Context) (Database, error) { return Database{}, ErrDatabaseMissing })
	if _, err := f.Database(t.Context()); !errors.Is(err, ErrDatabaseMissing) {
		t.Errorf("without any: %v", err)
	}
	if _, err := h.store.Get(t.Context(), cache.Name(kindActive, "database")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it announced nothing: %v", err)
	}
	other := &Fleet{Store: h.store, Own: func(context.Context) (Database, error) { return h.db, nil }, Log: f.Log}
	if _, err := other.Database(t.Context()); err != nil {
		t.Fatal(err)
	}
	if db, err := f.Database(t.Context()); err != nil || !db.Elsewhere || db.Checksum != h.db.Checksum {
		t.Errorf("beside one that has it: %+v, %v", db, err)
	}
	if err := h.store.Put(t.Context(), cache.Name(kindActive, "database"), []byte("garbage"), 0); err != nil {
		t.Fatal(err)
	}
	if db, err := f.Database(t.Context()); err != nil || db.Checksum != h.db.Checksum {
		t.Errorf("beside garbage: %+v, %v; what was read before counts", db, err)
	}
	if _, err := other.Database(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := &Fleet{Store: h.store, Own: f.Own, Fresh: always, Behind: f.Behind, Log: f.Log}
	if db, err := fresh.Database(t.Context()); err != nil || !db.Elsewhere {
		t.Errorf("garbage was not replaced: %+v, %v", db, err)
	}
}
