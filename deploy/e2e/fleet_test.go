//go:build e2e

package e2e

import (
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fleet has three gateways meet unknown images at the same time: each image is scanned by
// one of them. The one that is at it is killed, and the others' clients get what they are
// to get all the same.
func (s *scene) fleet(t *testing.T) {
	need(t, "fleet", "redis-server", "crane")
	const addr = "127.0.0.1:6398"
	more := s.sharing(t, addr)
	first := s.bareGateway(t, more...)
	first.process = start(t, nil, s.sluice, "serve", "--config", first.config)
	first.process.await(t, "waiting for Redis", 20*time.Second, func() bool { return strings.Contains(first.out.String(), "waiting for the store") })
	if lives, ready := first.status("/healthz"), first.status("/readyz"); lives != 200 || ready != 503 {
		t.Errorf("a gateway that waits for Redis answers health checks with %d and %d, want 200 and 503", lives, ready)
	}
	startRedis(t, addr)
	first.await(t, "up", time.Minute, func() bool { return strings.Contains(first.out.String(), "serving") })
	s.importDatabase(t, first)
	first.connect(t)
	first.await(t, "ready", time.Minute, func() bool { return first.status("/readyz") == 200 })
	gateways := []*gateway{first, s.bareGateway(t, more...), s.bareGateway(t, more...)}
	for _, g := range gateways[1:] { // which have the first one's pull token, by way of Redis
		s.importDatabase(t, g)
		g.start(t)
	}
	t.Run("one scan", func(t *testing.T) {
		s.pullAt(t, gateways, s.big, true)
		s.pullAt(t, gateways, s.bad, false)
		scans, elsewhere := 0, 0
		for _, g := range gateways {
			scans += g.scans()
			elsewhere += int(g.metric("sluice_scans_elsewhere_total"))
		}
		if scans != 2 || elsewhere != 4 {
			t.Errorf("two images, three gateways: %d scans, %d verdicts of others; want 2 and 4", scans, elsewhere)
		}
	})
	t.Run("asked no more", func(t *testing.T) {
		c := s.craneClient(t, gateways[1])
		s.allowed(t, c, s.big)
		before := gateways[1].metric("sluice_store_asked_total")
		const pulls = 10
		for range pulls {
			s.allowed(t, c, s.big)
		}
		asked := gateways[1].metric("sluice_store_asked_total") - before
		t.Logf("%d warm pulls asked Redis %.0f times, for what goes on beside them too", pulls, asked)
		if asked > 3*pulls {
			t.Errorf("%d warm pulls asked Redis %.0f times", pulls, asked)
		}
	})
	t.Run("killed", func(t *testing.T) {
		s.front.slow(4 << 20)
		defer s.front.slow(0)
		mark := s.front.mark()
		done := make(chan result, 1)
		c := s.craneClient(t, first)
		go func() { done <- c.pull(t, s.badBig) }()
		first.await(t, "fetching", 20*time.Second, func() bool { return len(s.front.since(mark, "blobs")) > 0 })
		rest := make(chan struct{})
		go func() { defer close(rest); s.pullAt(t, gateways[1:], s.badBig, false) }()
		time.Sleep(2 * time.Second)
		first.end(syscall.SIGKILL, 5*time.Second)
		killed := time.Now()
		s.front.slow(0)
		<-rest
		t.Logf("decided %v after the death of who scanned it", time.Since(killed).Round(time.Second))
		if r := <-done; r.ok() || c.arrived(t, s.badBig) == nil {
			t.Errorf("a denied image arrived by way of a crash:\n%s", r.out)
		}
	})
}

// pullAt pulls an image through several gateways at once.
func (s *scene) pullAt(t *testing.T, gateways []*gateway, i *image, allowed bool) {
	t.Helper()
	var all sync.WaitGroup
	for _, g := range gateways {
		c := s.craneClient(t, g)
		all.Go(func() {
			if allowed {
				s.allowed(t, c, i)
			} else {
				s.denied(t, c, i, "by several gateways", sometime)
			}
		})
	}
	all.Wait()
}
