package remote_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy/remote"
)

// Of two gateways only one asks for the bundle often. The other one has what is new at once
// all the same, and asks no more often than there is something new.
func TestNewsOfBundle(t *testing.T) {
	h := newHost(t, "one")
	store := &cache.Memory{}
	often, seldom := mirror(t, h, filepath.Join(t.TempDir(), "b")), mirror(t, h, filepath.Join(t.TempDir(), "b"))
	often.Every, seldom.Every = 50*time.Millisecond, time.Hour
	for _, m := range []*remote.Mirror{often, seldom} {
		m.Store = store
		if err := m.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = seldom.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	time.Sleep(1200 * time.Millisecond) // for looks at what it has told itself
	asked := h.asked.Load()
	h.is("two")
	other := make(chan struct{})
	go func() { defer close(other); _ = often.Run(ctx) }()
	defer func() { cancel(); <-other }()
	for end := time.Now().Add(30 * time.Second); content(t, seldom) != "two"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not have what the other one has")
		}
	}
	if asked != 2 {
		t.Errorf("two gateways have asked %d times before there was anything new", asked)
	}
}
