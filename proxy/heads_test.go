package proxy

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// The places of HEADs are shared fairly: no asker has more than a quarter, one that gets
// free goes to who has the fewest, and who gives up waiting leaves no trace.
func TestHeads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var h heads
		take := func(asker string) *place {
			t.Helper()
			p := &place{heads: &h, asker: asker}
			if waited, err := p.take(t.Context(), time.Minute); waited || err != nil {
				t.Fatalf("%s: waited %v, %v", asker, waited, err)
			}
			return p
		}
		wait := func(asker string) (p *place, done chan error) {
			p, done = &place{heads: &h, asker: asker}, make(chan error, 1)
			go func() {
				_, err := p.take(t.Context(), time.Minute)
				done <- err
			}()
			synctest.Wait()
			return p, done
		}
		var bots []*place
		for _, asker := range []string{"a", "b", "c", "d"} {
			for range maxHeadsEach - 1 {
				bots = append(bots, take(asker))
			}
		}
		bots = append(bots, take("a"))
		greedy, more := wait("a")
		for _, asker := range []string{"b", "c", "d"} {
			bots = append(bots, take(asker))
		}
		_, other := wait("b")
		node, first := wait("node")
		bots[0].leave() // of a
		if err := <-first; err != nil || greedy.had {
			t.Errorf("who has none gets no place: %v; who has the most has it: %v", err, greedy.had)
		}
		if waited, err := node.take(t.Context(), 0); waited || err != nil {
			t.Errorf("a place is taken twice: %v, %v", waited, err)
		}
		bots[1].leave()
		if err := <-more; err != nil {
			t.Error(err)
		}
		if err := <-other; err == nil || errors.Is(err, context.Canceled) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who waited too long: %v", err)
		}
		for _, p := range append(bots, greedy, node, nil) {
			p.leave()
			p.leave()
		}
		if h.total != 0 || len(h.taken) != 0 || len(h.waiting) != 0 {
			t.Errorf("in the end %d are taken, %v, and %d wait", h.total, h.taken, len(h.waiting))
		}
	})
}
