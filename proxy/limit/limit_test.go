package limit

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// enter takes a place and gives it back.
func enter(t *testing.T, g *Guard, name string) error {
	t.Helper()
	leave, err := g.Enter(t.Context(), name)
	if err == nil {
		leave()
	}
	return err
}

func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Requests: 10, Burst: 5})
		start := time.Now()
		for range 15 { // five at once, ten in a second
			if err := enter(t, g, "alice"); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("fifteen requests took %s, want 1s", took)
		}
		if err := enter(t, g, "bob"); err != nil || time.Since(start) != time.Second {
			t.Errorf("bob was held up by alice: %v", err)
		}
	})
}

// TestTooMany has fifty requests come at once: those that would wait for longer than two
// seconds are refused, and told when to come back; they use up nobody's turn.
func TestTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Requests: 10, Burst: 5})
		results := make(chan error, 50)
		for range 50 {
			go func() {
				leave, err := g.Enter(context.Background(), "alice")
				if err == nil {
					leave()
				}
				results <- err
			}()
		}
		served := 0
		for range 50 {
			err := <-results
			var many *TooManyError
			switch {
			case err == nil:
				served++
			case !errors.As(err, &many) || many.RetryAfter < time.Second || many.RetryAfter > 5*time.Second:
				t.Errorf("refused with %v", err)
			}
		}
		if served != 25 {
			t.Errorf("%d were served, want 5 at once and 20 in two seconds", served)
		}
	})
}

func TestOpen(t *testing.T) {
	g := New(Limits{Open: 2, OpenAll: 3})
	var leave []func()
	take := func(name string) error {
		l, err := g.Enter(t.Context(), name)
		if err == nil {
			leave = append(leave, l)
		}
		return err
	}
	for i, step := range []struct {
		name string
		ok   bool
	}{{"alice", true}, {"alice", false}, {"bob", true}, {"carol", true}, {"dave", false}} { // half of three is one
		if err := take(step.name); (err == nil) != step.ok {
			t.Errorf("step %d, %s: %v", i, step.name, err)
		}
	}
	leave[0]()
	leave[0]() // twice is once
	if err := take("dave"); err != nil {
		t.Errorf("a free place was refused: %v", err)
	}
	if err := take("erin"); err == nil {
		t.Error("a place was given back twice")
	}
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Limits{Bytes: 1 << 20})
		start, sent := time.Now(), int64(0)
		for sent < 10<<20 {
			n, err := g.Pacer("alice").Piece(t.Context(), 10<<20-sent)
			if err != nil {
				t.Fatal(err)
			}
			sent += n
		}
		if took := time.Since(start); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %s", took)
		}
		if n, err := New(Limits{}).Pacer("alice").Piece(t.Context(), 7); n != 7 || err != nil {
			t.Errorf("without a limit: %d, %v", n, err)
		}
	})
}

// TestBounded has more callers come than are told apart.
func TestBounded(t *testing.T) {
	g := New(Limits{Requests: 1000, Burst: 100000, OpenAll: 100000})
	for i := range maxParties + 1000 {
		if err := enter(t, g, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.named) > maxParties {
		t.Errorf("%d callers are kept", len(g.named))
	}
}
