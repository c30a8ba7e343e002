package proxy_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// replicas returns gateways that share their Store, each with a disk of its own.
func replicas(t *testing.T, n int, changes ...change) []*lab {
	t.Helper()
	named := func(l *lab, _ *policy.Config) { l.gateway.Replica = fmt.Sprintf("replica %d", l.pushed) }
	first := newLab(t, append(changes, named)...)
	all := []*lab{first}
	for i := range n - 1 {
		all = append(all, first.another(append(changes, func(l *lab, _ *policy.Config) { l.gateway.Replica = fmt.Sprintf("replica %d", i+1) })...))
	}
	return all
}

// Three replicas meet the same unknown image: each serves its clients, its blobs come from
// upstream once for each, and it is scanned and matched once for all.
func TestOneScanForAFleet(t *testing.T) {
	t.Parallel()
	for _, bad := range []bool{false, true} {
		t.Run(fmt.Sprint("denied=", bad), func(t *testing.T) {
			fleet := replicas(t, 3)
			first := fleet[0]
			img := first.push("acme/app", "1", 400_000, 300_000, 200_000)
			status, text := 200, ""
			if bad {
				first.engine.condemn(img.digest)
				status, text = 403, "CVE-2021-44228"
			}
			first.engine.hold()
			for _, l := range fleet {
				l.want(200, "", "GET", manifestPath("acme/app", "1"))
			}
			for _, l := range fleet { // held as one
				d := img.layers[0]
				if r := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond); r.status != 200 || r.err == nil || int64(len(r.body)) > floorOf(d.Size, false) {
					t.Errorf("a blob of a pending image: %d, %d bytes, %v", r.status, len(r.body), r.err)
				}
			}
			first.engine.release()
			var pulls sync.WaitGroup
			for _, l := range fleet {
				pulls.Go(func() {
					l.eventually("its verdict", func() bool { return l.get("GET", blobPath("acme/app", img.config), patience).status == status })
					for _, d := range append(img.layers, img.config) {
						l.want(status, text, "GET", blobPath("acme/app", d))
					}
				})
			}
			pulls.Wait()
			first.engine.mu.Lock()
			defer first.engine.mu.Unlock()
			if first.engine.scans != 1 || first.engine.matches != 1 {
				t.Errorf("%d catalogues and %d matches, want one of each", first.engine.scans, first.engine.matches)
			}
			for _, d := range append(img.layers, img.config) {
				if n, _ := first.origin.Served(d.Digest); n > len(fleet) {
					t.Errorf("a blob was fetched %d times by %d replicas", n, len(fleet))
				}
			}
		})
	}
}

// Replicas that meet an image while another matches it don't match it too: not in the moment
// between its catalogue and its verdict, and not after a new database.
func TestOneMatchForAFleet(t *testing.T) {
	t.Parallel()
	fleet := replicas(t, 3)
	one := fleet[0]
	slow := &longMatch{engine: one.engine, takes: time.Second}
	for _, l := range fleet {
		l.scanner.replace(slow)
	}
	img := one.push("acme/app", "1", 400_000)
	matched := func() {
		t.Helper()
		for _, l := range fleet {
			l.eventually("its verdict", func() bool { _, err := l.gateway.Scanner.Cached(t.Context(), img.digest); return err == nil })
		}
	}
	one.want(200, "", "GET", manifestPath("acme/app", "1"))
	one.eventually("its match", func() bool { return slow.now.Load() == 1 })
	for _, l := range fleet {
		l.want(200, "", "GET", manifestPath("acme/app", "1"))
	}
	matched()
	one.engine.renew()
	var pulls sync.WaitGroup
	for _, l := range fleet { // allowed before, it is served meanwhile
		pulls.Go(func() { l.want(200, "", "GET", blobPath("acme/app", img.layers[0])) })
	}
	pulls.Wait()
	matched()
	one.engine.mu.Lock()
	defer one.engine.mu.Unlock()
	if one.engine.scans != 1 || one.engine.matches != 2 || slow.most.Load() != 1 {
		t.Errorf("%d catalogues and %d matches, at most %d at once, want 1, 2 and 1", one.engine.scans, one.engine.matches, slow.most.Load())
	}
}

// A replica that lacks the database which is decided by meets an image first: it catalogues
// it, and who has the database matches it at once.
func TestWhoHasTheDatabaseMatches(t *testing.T) {
	t.Parallel()
	fleet := replicas(t, 2)
	has, lags := fleet[0], fleet[1]
	lags.scanner.replaceDatabase(func(ctx context.Context) (scan.Database, error) {
		db, err := has.engine.database(ctx)
		db.Elsewhere = true
		return db, err
	})
	img := lags.push("acme/app", "1", 400_000)
	lags.want(200, "", "GET", manifestPath("acme/app", "1"))
	lags.eventually("its catalogue", func() bool { return lags.gateway.Scanner.Catalogued(t.Context(), img.digest) })
	if r := lags.get("GET", blobPath("acme/app", img.config), 2*claimed); r.err == nil {
		t.Errorf("nobody has matched it, and its config has the status %d", r.status)
	}
	has.want(200, "", "GET", manifestPath("acme/app", "1"))
	began := time.Now()
	for _, l := range []*lab{has, lags} {
		l.want(200, "", "GET", blobPath("acme/app", img.config))
		l.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
	}
	if took := time.Since(began); took > 3*claimed {
		t.Errorf("who has the database took %v", took)
	}
	has.engine.mu.Lock()
	defer has.engine.mu.Unlock()
	if has.engine.scans != 1 || has.engine.matches != 1 {
		t.Errorf("%d catalogues and %d matches, want one of each", has.engine.scans, has.engine.matches)
	}
}

// claimed is how often a replica tries to take a scan over.
const claimed = time.Second

// The replica that scans loses the Store: another takes the scan over within seconds, and
// the first one takes the verdict from it.
func TestScanIsTakenOver(t *testing.T) {
	t.Parallel()
	away := &leaseless{}
	one := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Replica = "one"
		away.Store, l.gateway.Store = l.gateway.Store, away
	})
	two := one.another(func(l *lab, _ *policy.Config) { l.gateway.Replica, l.gateway.Store = "two", away.Store })
	img := one.push("acme/app", "1", 400_000)
	one.engine.hold()
	one.want(200, "", "GET", manifestPath("acme/app", "1"))
	one.eventually("its scan", func() bool { one.engine.mu.Lock(); defer one.engine.mu.Unlock(); return one.engine.scans == 1 })
	two.want(200, "", "GET", manifestPath("acme/app", "1"))
	two.scanner.replace(newEngine())
	away.away.Store(true)
	began := time.Now()
	two.eventually("the other's verdict", func() bool { return two.get("GET", blobPath("acme/app", img.config), patience).status == 200 })
	two.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
	t.Logf("taken over after %v", time.Since(began).Round(100*time.Millisecond))
	away.away.Store(false)
	one.eventually("the first one to follow", func() bool { return one.get("GET", blobPath("acme/app", img.config), patience).status == 200 })
	if one.engine.scans != 1 {
		t.Errorf("the first one scanned %d times", one.engine.scans)
	}
}

// leaseless is a Store that doesn't answer for leases while it is away.
type leaseless struct {
	cache.Store
	away atomic.Bool
}

func (s *leaseless) PutNew(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) ([]byte, error) {
	if k.Kind() == cache.KindLease && s.away.Load() {
		return nil, cache.ErrDown
	}
	return s.Store.PutNew(ctx, k, value, ttl)
}

func (s *leaseless) PutIf(ctx context.Context, k cache.Key, old, value []byte, ttl time.Duration) (bool, error) {
	if k.Kind() == cache.KindLease && s.away.Load() {
		return false, cache.ErrDown
	}
	return s.Store.PutIf(ctx, k, old, value, ttl)
}
