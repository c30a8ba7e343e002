package remote

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// TestRolledBackIsNews checks that a bundle which this gateway was once told of is told of by
// it, when it is the first to find it again.
func TestRolledBackIsNews(t *testing.T) {
	var served atomic.Value
	store := new(cache.Memory)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	mirror := func() *Mirror {
		return &Mirror{From: "x", Store: store, File: filepath.Join(t.TempDir(), "bundle"), Every: time.Hour,
			Check: func(context.Context, []byte) error { return nil },
			Fetch: func(_ context.Context, seen string) ([]byte, string, error) {
				tag := served.Load().(string)
				if seen == tag {
					return nil, seen, nil
				}
				return []byte(tag), tag, nil
			}}
	}
	served.Store("v1")
	a, b := mirror(), mirror()
	for _, m := range []*Mirror{a, b} {
		if err := m.Open(ctx); err != nil {
			t.Fatal(err)
		}
		go m.Run(ctx)
	}
	has := func(m *Mirror) string {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.tag
	}
	for _, step := range []struct {
		first, other *Mirror
		serves       string
	}{{a, b, "v2"}, {b, a, "v3"}, {b, a, "v2"}} {
		served.Store(step.serves)
		if err := step.first.update(ctx); err != nil { // its turn by the clock
			t.Fatal(err)
		}
		for end := time.Now().Add(20 * newsEvery); has(step.other) != step.serves; time.Sleep(newsEvery / 10) {
			if time.Now().After(end) {
				t.Fatalf("one has %s, and the other one still %s", step.serves, has(step.other))
			}
		}
		time.Sleep(2 * newsEvery) // both have looked again
	}
}
