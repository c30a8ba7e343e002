package proxy_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/scan"
)

// longMatch is an engine whose matches take their time, and that counts those under way.
type longMatch struct {
	*engine
	takes     time.Duration
	now, most atomic.Int32
}

func (m *longMatch) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	if n := m.now.Add(1); n > m.most.Load() {
		m.most.Store(n)
	}
	defer m.now.Add(-1)
	wait := time.NewTimer(m.takes)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return m.engine.Match(ctx, sbom, db)
}

// reviewing runs the re-evaluation of gateways until stop is called.
func reviewing(ctx context.Context, gateways ...*proxy.Gateway) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	for _, g := range gateways {
		all.Go(func() { g.Reevaluate(ctx) })
	}
	return func() { cancel(); all.Wait() }
}

// One image takes longer to match than a lease lasts: the other replica waits all the
// same, and goes on once the first one has died.
func TestLongMatchKeepsTheLease(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t)
	two := l.another()
	slow := &longMatch{engine: l.engine, takes: 4 * time.Minute}
	l.scanner.replace(slow)
	two.scanner.replace(slow)
	l.engine.condemn(img.digest)
	l.engine.renew()
	synctest.Test(t, func(t *testing.T) {
		die := reviewing(t.Context(), l.gateway)
		time.Sleep(time.Second)
		stop := reviewing(t.Context(), two.gateway)
		time.Sleep(200 * time.Second)
		if n := slow.most.Load(); n != 1 || !l.gateway.Reevaluation().Running || two.gateway.Reevaluation().Running {
			t.Errorf("%d matches at once, %+v, %+v", n, l.gateway.Reevaluation(), two.gateway.Reevaluation())
		}
		die()
		time.Sleep(6 * time.Minute)
		if r := two.gateway.Reevaluation(); r.Done != 1 || r.Denied != 1 || r.Running {
			t.Errorf("the other one: %+v", r)
		}
		stop()
	})
}

// unrenewed is a Store that doesn't answer who puts or renews a lease, while away is set.
type unrenewed struct {
	cache.Store
	away atomic.Bool
}

func (s *unrenewed) PutIf(ctx context.Context, k cache.Key, old, value []byte, ttl time.Duration) (bool, error) {
	if s.away.Load() && k.Kind() == cache.KindLease {
		return false, errors.New("the store is away")
	}
	return s.Store.PutIf(ctx, k, old, value, ttl)
}

func (s *unrenewed) PutNew(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) ([]byte, error) {
	if s.away.Load() && k.Kind() == cache.KindLease {
		return nil, errors.New("the store is away")
	}
	return s.Store.PutNew(ctx, k, value, ttl)
}

// The Store is away for longer than a lease lasts, and then another replica has it: the
// first one stops its match, and neither renews the other's lease nor takes it away.
func TestLostLeaseIsLeftToItsHolder(t *testing.T) {
	t.Parallel()
	away := &unrenewed{}
	l, _ := reviewedLab(t, func(l *lab, _ *policy.Config) { away.Store, l.gateway.Store = l.gateway.Store, away })
	slow := &longMatch{engine: l.engine, takes: 4 * time.Minute}
	l.scanner.replace(slow)
	l.engine.renew()
	db, err := l.engine.database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		stop := reviewing(t.Context(), l.gateway)
		time.Sleep(15 * time.Second)
		away.away.Store(true)
		time.Sleep(30 * time.Second)
		if !l.gateway.Reevaluation().Running { // a short outage costs nothing
			t.Error("it ended while its lease lasted")
		}
		time.Sleep(time.Minute)
		another, err := cache.Acquire(t.Context(), away.Store, "re-evaluation "+db.Checksum, "another", time.Minute)
		if err != nil {
			t.Error(err)
			return
		}
		away.away.Store(false)
		time.Sleep(10 * time.Minute)
		if err := another.Context().Err(); err != nil {
			t.Errorf("the other one's lease: %v", context.Cause(another.Context()))
		}
		if r := l.gateway.Reevaluation(); r.Running || r.Done != 0 || slow.now.Load() != 0 {
			t.Errorf("%+v, %d matches", r, slow.now.Load())
		}
		stop()
		another.Release()
	})
}
