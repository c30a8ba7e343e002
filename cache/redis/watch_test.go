package redis

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// A watching collects what a Watch tells.
type watching struct {
	beats   chan time.Time
	changes chan cache.Key
	end     chan error
}

func watchStore(ctx context.Context, s *Store) watching {
	w := watching{make(chan time.Time, 1000), make(chan cache.Key, 1000), make(chan error, 1)}
	go func() {
		w.end <- s.Watch(ctx, func(at time.Time) { w.beats <- at }, func(k cache.Key) { w.changes <- k })
	}()
	return w
}

const patience = 30 * time.Second

func receive[T any](t *testing.T, from chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %v", what, patience)
		panic("unreachable")
	}
}

// TestWatch checks that every write of another gateway is told of, and told before the beat
// that was sent after it.
func TestWatch(t *testing.T) {
	server := startServer(t)
	ours, theirs := mustOpen(t, Config{URL: "redis://" + server.addr}), mustOpen(t, Config{URL: "redis://" + server.addr})
	ctx, cancel := context.WithCancel(t.Context())
	w := watchStore(ctx, ours)
	receive(t, w.beats, "beat")
	value, odd, fields := cache.Name("value", "a"), cache.Name("odd", "a\x00b\x01\n{ä"), cache.Name("map", "m")
	for _, step := range []struct {
		what  string
		do    func() error
		tells cache.Key
	}{
		{"Put", func() error { return theirs.Put(ctx, value, []byte("1"), 0) }, value},
		{"Put of our own", func() error { return ours.Put(ctx, odd, nil, time.Hour) }, odd},
		{"PutNew of what is there", func() error { _, err := theirs.PutNew(ctx, odd, nil, 0); return err }, cache.Key{}},
		{"PutNew", func() error { _, err := theirs.PutNew(ctx, cache.Name("new"), nil, 0); return err }, cache.Name("new")},
		{"PutIf of another", func() error { _, err := theirs.PutIf(ctx, value, []byte("x"), []byte("2"), 0); return err }, cache.Key{}},
		{"PutIf", func() error { _, err := theirs.PutIf(ctx, value, []byte("1"), []byte("2"), 0); return err }, value},
		{"PutField", func() error { return theirs.PutField(ctx, fields, "f", nil, 0) }, fields},
		{"DeleteField of none", func() error { return theirs.DeleteField(ctx, fields, "g") }, cache.Key{}},
		{"DeleteField", func() error { return theirs.DeleteField(ctx, fields, "f") }, fields},
		{"Delete", func() error { return theirs.Delete(ctx, value) }, value},
		{"Delete of none", func() error { return theirs.Delete(ctx, value) }, cache.Key{}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		for done := time.Now(); receive(t, w.beats, "beat").Before(done); {
		}
		var told []cache.Key
		for len(w.changes) > 0 {
			told = append(told, <-w.changes)
		}
		if (step.tells == cache.Key{}) != (len(told) == 0) || len(told) > 1 || len(told) == 1 && told[0] != step.tells {
			t.Errorf("%s tells %q, want %q", step.what, told, step.tells)
		}
	}
	cancel()
	if err := receive(t, w.end, "end"); !strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("Watch ended with %v", err)
	}
}

// TestWatchDeaf checks that a Watch ends when the server has gone, and when it is stuck.
func TestWatchDeaf(t *testing.T) {
	for _, trouble := range []struct {
		name string
		make func(*testing.T, *server)
	}{
		{"gone", func(_ *testing.T, s *server) { s.kill() }},
		{"stuck", func(t *testing.T, s *server) {
			if err := s.client(t).Do(t.Context(), "CLIENT", "PAUSE", "20000", "ALL").Err(); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(trouble.name, func(t *testing.T) {
			server := startServer(t)
			s := mustOpen(t, Config{URL: "redis://" + server.addr, Timeout: time.Second})
			w := watchStore(t.Context(), s)
			receive(t, w.beats, "beat")
			trouble.make(t, server)
			if err := receive(t, w.end, "end"); err == nil || !strings.Contains(err.Error(), server.addr) {
				t.Errorf("Watch ended with %v, want that names %s", err, server.addr)
			}
		})
	}
}
