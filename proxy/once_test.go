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
