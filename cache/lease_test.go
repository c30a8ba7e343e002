package cache_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// TestLease checks that one has it at a time, that the next gets it when it is given back,
// and a greater token.
func TestLease(t *testing.T) {
	s := new(cache.Memory)
	a, err := cache.Acquire(t.Context(), s, "scan x", "replica a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cache.Acquire(t.Context(), s, "scan x", "replica b", time.Minute); !errors.Is(err, cache.ErrHeld) || !strings.HasSuffix(err.Error(), "replica a") {
		t.Errorf("a second one: %v, want that replica a has it", err)
	}
	other, err := cache.Acquire(t.Context(), s, "scan y", "replica b", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	a.Release()
	if err := context.Cause(a.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("its context ended with %v", err)
	}
	var b *cache.Lease
	eventually(t, "the lease to be free", func() bool {
		b, err = cache.Acquire(t.Context(), s, "scan x", "replica b", time.Minute)
		return err == nil
	})
	defer b.Release()
	if b.Token <= a.Token {
		t.Errorf("token %d comes after %d", b.Token, a.Token)
	}
}

// TestLeaseIsKept checks that a lease outlives its life while it is renewed, and that one
// which can't be renewed ends in time and goes to the next.
func TestLeaseIsKept(t *testing.T) {
	s := newShared()
	const life = 300 * time.Millisecond
	a, err := cache.Acquire(t.Context(), faulty{s}, "scan", "a", life)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * life)
	if _, err := cache.Acquire(t.Context(), s, "scan", "b", life); !errors.Is(err, cache.ErrHeld) || a.Context().Err() != nil {
		t.Skipf("this machine was too busy to renew a lease of %v: %v, %v", life, err, a.Context().Err())
	}
	s.set(func(s *shared) { s.err = errGone }) // for a alone
	<-a.Context().Done()
	if err := context.Cause(a.Context()); !errors.Is(err, cache.ErrLost) {
		t.Errorf("its context ended with %v", err)
	}
	var b *cache.Lease
	eventually(t, "the lease to lapse", func() bool {
		b, err = cache.Acquire(t.Context(), s.Memory, "scan", "b", time.Minute)
		return err == nil
	})
	a.Release() // does b no harm
	if _, err := cache.Acquire(t.Context(), s.Memory, "scan", "c", life); !errors.Is(err, cache.ErrHeld) {
		t.Errorf("after a lost lease was released: %v", err)
	}
	b.Release()
	if b.Token <= a.Token {
		t.Errorf("token %d comes after %d", b.Token, a.Token)
	}
}

// faulty fails the renewals as its shared does its calls.
type faulty struct{ *shared }

func (f faulty) PutIf(ctx context.Context, k cache.Key, old, value []byte, ttl time.Duration) (bool, error) {
	if err := f.ask(ctx); err != nil {
		return false, err
	}
	return f.Memory.PutIf(ctx, k, old, value, ttl)
}

// TestLeaseHalfAcquired checks that who fails between having the lease and counting its token
// does not keep it from others.
func TestLeaseHalfAcquired(t *testing.T) {
	for _, kind := range []cache.Kind{cache.KindFence, cache.KindLease} {
		s := &failsOnce{Store: new(cache.Memory), kind: kind}
		if _, err := cache.Acquire(t.Context(), s, "scan", "a", time.Minute); !errors.Is(err, errGone) {
			t.Fatalf("Acquire while nothing of kind %s can be written: %v", kind, err)
		}
		eventually(t, "the lease to be free", func() bool {
			b, err := cache.Acquire(t.Context(), s, "scan", "b", time.Minute)
			if err == nil {
				b.Release()
			}
			return err == nil
		})
	}
}

// failsOnce fails the first conditional write of a kind.
type failsOnce struct {
	cache.Store
	kind cache.Kind
	done bool
}

func (f *failsOnce) fails(k cache.Key) bool {
	if f.done || k.Kind() != f.kind {
		return false
	}
	f.done = true
	return true
}

func (f *failsOnce) PutNew(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) ([]byte, error) {
	if k.Kind() == cache.KindFence && f.fails(k) {
		return nil, errGone
	}
	return f.Store.PutNew(ctx, k, value, ttl)
}

func (f *failsOnce) PutIf(ctx context.Context, k cache.Key, old, value []byte, ttl time.Duration) (bool, error) {
	if f.fails(k) {
		return false, errGone
	}
	return f.Store.PutIf(ctx, k, old, value, ttl)
}

// TestLeaseRace checks that of many who want a lease one has it at a time, and that tokens
// only grow.
func TestLeaseRace(t *testing.T) {
	s := new(cache.Memory)
	var has atomic.Int32
	var last atomic.Uint64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for won := 0; won < 5 && t.Context().Err() == nil; {
				l, err := cache.Acquire(t.Context(), s, "scan", "x", time.Minute)
				if errors.Is(err, cache.ErrHeld) {
					time.Sleep(time.Millisecond)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := has.Add(1); n != 1 {
					t.Errorf("%d have the lease", n)
				}
				if before := last.Swap(l.Token); before >= l.Token {
					t.Errorf("token %d comes after %d", l.Token, before)
				}
				has.Add(-1)
				l.Release()
				won++
			}
		})
	}
	all.Wait()
}
