//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// What a gateway of a client's story is told of the gate: first, and for the second half.
const (
	gateAtFirst = "gate: {tag_ttl: 10m}"
	gateLater   = "gate: {tag_ttl: 10m, header_wait: 3s}" // a config's headers go out before the decision
)

// A lead is the client that a story is about.
type lead struct {
	name string
	open func(*scene, *testing.T, *gateway) *client
}

// clients tells one story for each client, with a gateway of its own, and some at the
// same time. Those of a group are pointed at theirs by the same files, and wait for each
// other.
func (s *scene) clients(t *testing.T) {
	groups := [][]lead{
		{{"docker", (*scene).dockerClient}},
		{{"podman", (*scene).podmanClient}},
		{{"buildah", (*scene).buildahClient}, {"skopeo", (*scene).skopeoClient}},
		{{"containerd", (*scene).containerdClient}, {"containerd 2 by ctr", (*scene).containerd2}, {"containerd 2 by CRI", (*scene).criClient}},
		{{"crane", (*scene).craneClient}, {"oras", (*scene).orasClient}, {"regctl", (*scene).regctlClient}},
	}
	knocked := s.trap.knocked()
	t.Run("group", func(t *testing.T) { // ends when all of them have ended
		for n, group := range groups {
			s := s.apart(t, n+1)
			t.Run("of "+group[0].name, func(t *testing.T) {
				t.Parallel()
				for _, l := range group {
					t.Run(l.name, func(t *testing.T) {
						g := s.newGateway(t, gateAtFirst)
						if l.name == "docker" { // for which it is cgr.dev itself
							g.overTLS(t)
						}
						g.start(t)
						s.story(t, g, l.open(s, t, g))
					})
				}
			})
		}
	})
	if n := s.trap.knocked() - knocked; n > 0 {
		t.Errorf("clients went past their gateways %d times", n)
	}
}

// story: unknown, known, restarted, stopped.
func (s *scene) story(t *testing.T, g *gateway, c *client) {
	began := s.front.mark()
	t.Run("unknown", func(t *testing.T) {
		s.denied(t, c, s.bad, "first pull, small", known)
		s.denied(t, c, s.badBig, "first pull, slow", early)
		s.denied(t, c, s.badBig, "next try", known)
		s.allowed(t, c, s.small)
		s.inTime(t, c, s.big)
		if n := g.scans(); n != 4 {
			t.Errorf("%d scans of four images", n)
		}
	})
	t.Run("known", func(t *testing.T) { s.known(t, g, c, 4, s.small, s.big) })
	t.Run("restarted", func(t *testing.T) {
		g.stop(t)
		g.edit(t, gateAtFirst, gateLater)
		g.start(t)
		s.known(t, g, c, 0, s.small)
		s.denied(t, c, s.badLate, "first pull, slower", late)
		s.denied(t, c, s.badLate, "next try", known)
		if again := s.front.twice(began, "blobs"); len(again) > 0 {
			t.Errorf("fetched from upstream more than once: %v", again)
		}
	})
	t.Run("index", func(t *testing.T) {
		s.allowed(t, c, s.multi)
		if seen := s.denied(t, c, s.badMulti, "index", sometime); seen != reason {
			t.Errorf("%s says of the image for its platform: %s", c.name, seen)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		g.stop(t)
		for _, i := range []*image{s.small, s.bad} {
			c.forget(t, i)
			if r := c.pull(t, i); r.ok() || c.has(t, i) {
				t.Errorf("%s came although the gateway is stopped:\n%s", i.ref, r.out)
			}
		}
	})
	if s.front.leaked() > 0 {
		t.Error("the registry's token went to the blob host")
	}
}

// known pulls what the gateway knows: nothing is asked of upstream, nothing scanned.
func (s *scene) known(t *testing.T, g *gateway, c *client, scans int, allowed ...*image) {
	for _, i := range allowed {
		c.forget(t, i)
	}
	mark := s.front.mark()
	s.denied(t, c, s.bad, "known", known)
	s.denied(t, c, s.badBig, "known, big", known)
	for _, i := range allowed {
		s.allowed(t, c, i)
	}
	if calls := s.front.since(mark, "blobs"); len(calls) > 0 {
		t.Errorf("upstream was asked again: %v", calls)
	}
	if n := g.scans(); n != scans {
		t.Errorf("%d scans since the start, want %d", n, scans)
	}
}

// inTime pulls an image of ten layers that arrive slowly and together. A client that
// asks for three at a time and a gate that waits for all of them must not wait for each
// other: that would end when the hold does, after four minutes.
func (s *scene) inTime(t *testing.T, c *client, i *image) {
	t.Helper()
	defer s.front.slowly(i, early)()
	began := time.Now()
	s.allowed(t, c, i)
	if took := time.Since(began); took > 100*time.Second {
		t.Errorf("%s needed %s for %s", c.name, took, i.ref)
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
	if !c.has(t, i) {
		t.Errorf("%s has pulled %s and does not list it", c.name, i.ref)
	}
}

// denied pulls an image that must not arrive, and holds what is on the screen to what is
// promised for that moment.
func (s *scene) denied(t *testing.T, c *client, i *image, when string, m moment) (seen string) {
	t.Helper()
	if i.allowed {
		t.Fatalf("%s is to be refused, and sluice scan allows it", i.ref)
	}
	if m == early || m == late {
		defer s.front.slowly(i, m)()
	}
	r := c.pull(t, i)
	if r.ok() {
		t.Errorf("%s pulled %s, which policy denies:\n%s", c.name, i.ref, last(r.out, 12))
	}
	if c.has(t, i) {
		t.Errorf("%s lists %s, which policy denies", c.name, i.ref)
	}
	if c.arrived(t, i) == nil {
		t.Errorf("all of %s arrived at %s, which policy denies", i.ref, c.name)
	}
	seen = saw(r.out, i)
	s.screens.add(screen{c.view.client, when, seen, last(r.out, 1)})
	c.view.check(t, m, seen, r.out)
	return seen
}
