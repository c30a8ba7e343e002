//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// shows says how much of its reason a client shows.
type shows struct {
	manifest bool // when the manifest is refused
	midway   bool // when the pull is stopped in its middle
	index    bool // when the manifest for its platform is refused
}

// clients tells one story for each client, with a gateway of its own.
func (s *scene) clients(t *testing.T) {
	plain := func(t *testing.T) *gateway { return s.newGateway(t, "gate: {tag_ttl: 10m}") }
	for _, c := range []struct {
		name    string
		gateway func(*testing.T) *gateway
		open    func(*testing.T, *gateway) *client
		shows   shows
	}{
		{"docker", s.tlsGateway, s.dockerClient, shows{true, true, true}},
		{"containerd", plain, func(t *testing.T, g *gateway) *client { return s.containerdClient(t, g) }, shows{false, false, true}},
		{"podman", plain, s.podmanClient, shows{true, true, true}},
		{"skopeo", plain, func(t *testing.T, g *gateway) *client { return s.skopeoClient(t, g) }, shows{true, false, true}},
		{"crane", plain, s.craneClient, shows{true, false, true}}, // midway by chance: where the next request is refused
	} {
		t.Run(c.name, func(t *testing.T) {
			g := c.gateway(t)
			g.start(t)
			s.story(t, g, c.open(t, g), c.shows)
		})
	}
}

// story: unknown, known, restarted, stopped.
func (s *scene) story(t *testing.T, g *gateway, c *client, shows shows) {
	began := s.front.mark()
	knocked := s.trap.knocked()
	t.Run("unknown", func(t *testing.T) {
		s.denied(t, c, s.bad, "first pull, small", shows.manifest)
		s.front.slow(12 << 20) // so that the manifest is answered before the scan has ended
		s.denied(t, c, s.badBig, "first pull, stopped midway", shows.midway)
		s.front.slow(0)
		s.allowed(t, c, s.small)
		s.allowed(t, c, s.big)
		if n := g.scans(); n != 4 {
			t.Errorf("%d scans of four images", n)
		}
		if again := s.front.twice(began, "blobs"); len(again) > 0 {
			t.Errorf("fetched from upstream more than once: %v", again)
		}
	})
	t.Run("known", func(t *testing.T) { s.known(t, g, c, shows, 4) })
	t.Run("restarted", func(t *testing.T) {
		g.stop(t)
		g.start(t)
		s.known(t, g, c, shows, 0)
	})
	t.Run("index", func(t *testing.T) {
		s.multi.allowed, s.badMulti.allowed = s.small.allowed, s.bad.allowed
		if r := c.pull(t, s.multi); !r.ok() {
			t.Errorf("%s pull %s: exit status %d\n%s", c.name, s.multi.ref, r.status, last(r.out, 12))
		}
		s.denied(t, c, s.badMulti, "index", shows.index)
	})
	t.Run("stopped", func(t *testing.T) {
		g.stop(t)
		for _, i := range []*image{s.small, s.bad} {
			c.forget(t, i)
			if r := c.pull(t, i); r.ok() || c.arrived(t, i) == nil {
				t.Errorf("%s came although the gateway is stopped:\n%s", i.ref, r.out)
			}
		}
	})
	if n := s.trap.knocked() - knocked; n > 0 {
		t.Errorf("%s went past the gateway %d times", c.name, n)
	}
	if s.front.leaked() > 0 {
		t.Error("the registry's token went to the blob host")
	}
}

// known pulls what the gateway knows: nothing is asked of upstream, nothing scanned.
func (s *scene) known(t *testing.T, g *gateway, c *client, shows shows, scans int) {
	for _, i := range []*image{s.small, s.big} {
		c.forget(t, i)
	}
	mark := s.front.mark()
	s.denied(t, c, s.bad, "known", shows.manifest)
	s.denied(t, c, s.badBig, "known, big", shows.manifest)
	s.allowed(t, c, s.big)
	s.allowed(t, c, s.small)
	if calls := s.front.since(mark, "blobs"); len(calls) > 0 {
		t.Errorf("upstream was asked again: %v", calls)
	}
	if n := g.scans(); n != scans {
		t.Errorf("%d scans since the start, want %d", n, scans)
	}
}

func (s *scene) allowed(t *testing.T, c *client, i *image) {
	t.Helper()
	if !i.allowed {
		t.Fatalf("%s is to be pulled, and sluice scan denies it", i.ref)
	}
	if r := c.pull(t, i); !r.ok() {
		t.Errorf("%s pull %s: exit status %d\n%s", c.name, i.ref, r.status, last(r.out, 12))
		return
	}
	if err := c.arrived(t, i); err != nil {
		t.Errorf("%s: %v", c.name, err)
	}
}

// denied pulls an image that must not arrive, and notes what is on the screen: the
// reason, if the client is one that shows it.
func (s *scene) denied(t *testing.T, c *client, i *image, when string, reason bool) {
	t.Helper()
	if i.allowed {
		t.Fatalf("%s is to be refused, and sluice scan allows it", i.ref)
	}
	r := c.pull(t, i)
	if r.ok() {
		t.Errorf("%s pulled %s, which policy denies:\n%s", c.name, i.ref, last(r.out, 12))
	}
	if c.arrived(t, i) == nil {
		t.Errorf("all of %s arrived at %s, which policy denies", i.ref, c.name)
	}
	shown := strings.Contains(r.out, "blocked by policy") && strings.Contains(r.out, i.kev)
	if reason && !shown {
		t.Errorf("%s does not say why %s is denied (%s):\n%s", c.name, i.ref, when, last(r.out, 12))
	}
	if screen := (screen{c.name, when, shown, last(r.out, 1)}); !slices.Contains(s.screens, screen) {
		s.screens = append(s.screens, screen)
	}
}

// table shows what users saw.
func (s *scene) table(t *testing.T) {
	slices.SortStableFunc(s.screens, func(a, b screen) int { return strings.Compare(a.client, b.client) })
	var b strings.Builder
	for _, x := range s.screens {
		fmt.Fprintf(&b, "%-10s  %-28s  %-6s  %.400s\n", x.client, x.when, map[bool]string{true: "reason", false: "-"}[x.reason], x.text)
	}
	t.Logf("what users see of a denial:\n%s", b.String())
}
