//go:build e2e

package e2e

import (
	"encoding/json"
	"slices"
	"testing"
)

// TestEndToEnd tells the stories one after the other, in one scene.
func TestEndToEnd(t *testing.T) {
	s := newScene(t)
	soak := s.beginSoak(t)
	for _, story := range []struct {
		name string
		tell func(*testing.T)
	}{
		{"scan", s.scan},
		{"clients", s.clients},
		{"signatures", s.signatures},
		{"callers", s.callers},
		{"logins", s.logins},
		{"rotation", s.rotation},
		{"reload", s.reload},
		{"redis", s.redis},
		{"fleet", s.fleet},
		{"objects", s.objects},
		{"drain", s.drain},
		{"killed", s.killed},
		{"commands", s.commands},
		{"refusals", s.refusals},
		{"database", s.withoutDatabase},
		{"database life", s.databaseLife},
		{"container", s.container},
	} {
		t.Run(story.name, story.tell)
	}
	t.Run("soak", func(t *testing.T) {
		if soak == nil {
			t.Skip("no soak: SLUICE_SOAK=10m asks for one, which goes on beside the other stories")
		}
		soak.flat(t)
	})
	s.screens.show(t)
}

// scan has the command line say what policy makes of each image: what pulls have to
// agree with.
func (s *scene) scan(t *testing.T) {
	g := s.bareGateway(t)
	s.importDatabase(t, g)
	for _, i := range s.images {
		r := g.sluice(t, "", "scan", "oci:"+i.layout, "-o", "json")
		var a struct {
			Scan struct {
				State    string
				Packages int
			}
			Findings []struct{ ID string }
			Decision struct{ Allow bool }
		}
		if err := json.Unmarshal([]byte(r.out), &a); err != nil {
			t.Fatalf("sluice scan %s: %v\n%s", i.ref, err, r.out)
		}
		i.allowed, i.state = a.Decision.Allow, a.Scan.State
		if big := slices.Contains([]*image{s.big, s.badBig, s.badLate}, i); big && len(i.layers) < 10 {
			t.Errorf("%s has only %d layers", i.ref, len(i.layers))
		}
		if want := map[bool]int{true: 0, false: 1}[i.allowed]; r.status != want {
			t.Errorf("sluice scan %s: exit status %d, want %d", i.ref, r.status, want)
		}
		t.Logf("%-20s %-10s allow=%-5t %4d packages %4d findings, %d layers", i.ref, i.state, i.allowed, a.Scan.Packages, len(a.Findings), len(i.layers))
	}
	s.multi.allowed, s.badMulti.allowed = s.small.allowed, s.bad.allowed
}
