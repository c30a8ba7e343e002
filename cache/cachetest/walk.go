package cachetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// testWalk checks a Store that is a cache.Walker.
func testWalk(t *testing.T, s suite) {
	w, ok := s.store.(cache.Walker)
	if !ok {
		t.Skip("its entries can't be listed")
	}
	wanted := make(map[cache.Key]bool) // → whether it is a map
	for i := range 1500 {
		k := cache.Name("many", fmt.Sprint(i), "a|b%{c}:\x00\x01")
		wanted[k] = false
		s.put(k, "value", 0)
	}
	lasting, ending, fields, brief := cache.Name("value", "lasting"), cache.Recipe("value", "ending"), cache.Name("map", "", "x"), cache.Name("value", "brief")
	s.put(lasting, "", 0)
	s.put(ending, "0123456789", long)
	s.put(brief, "", short)
	for i := range 3 {
		s.putField(fields, fmt.Sprint("field ", i), "0123456789", long)
	}
	wanted[lasting], wanted[ending], wanted[fields] = false, false, true
	time.Sleep(2 * short)
	for _, kind := range []cache.Kind{"", "many", "value", "map", "man", "none"} {
		got := make(map[cache.Key]cache.Entry)
		if err := w.Walk(t.Context(), kind, func(e cache.Entry) error { got[e.Key] = e; return nil }); err != nil {
			t.Fatalf("Walk(%q): %v", kind, err)
		}
		for k, isMap := range wanted {
			e, there := got[k]
			if there != (kind == "" || kind == k.Kind()) {
				t.Errorf("Walk(%q) tells of %q: %t", kind, k, there)
			} else if there && (e.Map != isMap || e.Size <= 0) {
				t.Errorf("Walk(%q) tells of %q: map %t, %d bytes", kind, k, e.Map, e.Size)
			}
			delete(got, k)
			if ends := time.Until(e.Ends); there && (k == ending || k == fields) && (ends <= 0 || ends > long) {
				t.Errorf("Walk(%q): %q ends in %v", kind, k, ends)
			} else if there && k == lasting && !e.Ends.IsZero() {
				t.Errorf("Walk(%q): %q ends at %v", kind, k, e.Ends)
			}
		}
		if len(got) > 0 {
			t.Errorf("Walk(%q) tells of what isn't there: %v", kind, got)
		}
	}
	stop := errors.New("stop")
	n := 0
	if err := w.Walk(t.Context(), "many", func(cache.Entry) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("Walk went on to %d entries behind an error, and returned %v", n, err)
	}
}
