// Package cachetest holds every implementation of cache.Store to one contract.
//
//	func TestStore(t *testing.T) {
//		cachetest.Test(t, func(t *testing.T) cache.Store { return new(cache.Memory) })
//	}
//
// # Why
//
// A Store is chosen by configuration, and what runs on the one must run on the
// other. So the guarantees in cache.Store are written once as tests, and whoever
// adds a guarantee there adds its test here.
//
// Whether an entry expires is tested with a short real time to live, since a server
// keeps its own clock. Each such test waits for an end and never bets on being
// quicker than one, so that a busy machine can't fail it.
package cachetest

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sluicegate/sluice/cache"
)

const (
	short = 50 * time.Millisecond // a life that ends during a test
	long  = time.Hour             // a life that does not
)

// Test checks that the Stores that open returns keep what cache.Store promises. Each
// call of open must give an empty Store; Test closes it. Subtests run in parallel.
func Test(t *testing.T, open func(t *testing.T) cache.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, suite)
	}{
		{"Value", testValue},
		{"OddKeys", testOddKeys},
		{"Sizes", testSizes},
		{"Refused", testRefused},
		{"PutNew", testPutNew},
		{"PutNewRace", testPutNewRace},
		{"PutIf", testPutIf},
		{"PutIfRace", testPutIfRace},
		{"Delete", testDelete},
		{"Map", testMap},
		{"OddFields", testOddFields},
		{"Kinds", testKinds},
		{"ValueExpires", testValueExpires},
		{"MapExpires", testMapExpires},
		{"MapLife", testMapLife},
		{"Aliasing", testAliasing},
		{"Cancelled", testCancelled},
		{"PutRace", testPutRace},
		{"PutFieldRace", testPutFieldRace},
		{"Mixed", testMixed},
		{"Walk", testWalk},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			store := open(t)
			test.run(t, suite{t, store})
			if err := store.Ping(t.Context()); err != nil {
				t.Errorf("Ping after the test: %v", err)
			}
			if err := store.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// A suite is a Store whose errors end the test.
type suite struct {
	t     *testing.T
	store cache.Store
}

func (s suite) put(k cache.Key, value string, ttl time.Duration) {
	s.t.Helper()
	if err := s.store.Put(s.t.Context(), k, []byte(value), ttl); err != nil {
		s.t.Fatalf("Put(%q): %v", k, err)
	}
}

func (s suite) putNew(k cache.Key, value string, ttl time.Duration, want string) {
	s.t.Helper()
	got, err := s.store.PutNew(s.t.Context(), k, []byte(value), ttl)
	if err != nil || string(got) != want {
		s.t.Fatalf("PutNew(%q, %.20q) = %.20q, %v, want %.20q", k, value, got, err, want)
	}
}

func (s suite) putField(k cache.Key, field, value string, ttl time.Duration) {
	s.t.Helper()
	if err := s.store.PutField(s.t.Context(), k, field, []byte(value), ttl); err != nil {
		s.t.Fatalf("PutField(%q, %q): %v", k, field, err)
	}
}

func (s suite) want(k cache.Key, want string) {
	s.t.Helper()
	got, err := s.store.Get(s.t.Context(), k)
	if err != nil || string(got) != want {
		s.t.Fatalf("Get(%q) = %.20q (%d bytes), %v, want %.20q (%d bytes)", k, got, len(got), err, want, len(want))
	}
}

func (s suite) wantMiss(k cache.Key) {
	s.t.Helper()
	got, err := s.store.Get(s.t.Context(), k)
	if !errors.Is(err, fs.ErrNotExist) || got != nil {
		s.t.Fatalf("Get(%q) = %.20q, %v, want nil and a miss", k, got, err)
	}
}

func (s suite) wantFields(k cache.Key, want map[string]string) {
	s.t.Helper()
	fields, err := s.store.Fields(s.t.Context(), k)
	if err != nil {
		s.t.Fatalf("Fields(%q): %v", k, err)
	}
	got := make(map[string]string)
	for name, value := range fields {
		got[name] = string(value)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Fatalf("Fields(%q) (-want +got):\n%s", k, diff)
	}
}

// fails reports as wrong a call that brought no error, or one that looks like a miss.
func (s suite) fails(what string, err error) {
	s.t.Helper()
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		s.t.Errorf("%s: error %v, want one that is no miss", what, err)
	}
}

// mistaken reports as wrong a use of an entry as the other type that wasn't said to be one.
func (s suite) mistaken(what string, err error) {
	s.t.Helper()
	if !errors.Is(err, cache.ErrDamaged) {
		s.t.Errorf("%s: error %v, want one that wraps ErrDamaged", what, err)
	}
}

func testCancelled(t *testing.T, s suite) {
	k, m := cache.Name("value", "a"), cache.Name("map", "a")
	s.put(k, "1", 0)
	s.putField(m, "f", "1", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls := map[string]func() error{
		"Get":         func() error { _, err := s.store.Get(ctx, k); return err },
		"Put":         func() error { return s.store.Put(ctx, k, []byte("1"), 0) },
		"PutNew":      func() error { _, err := s.store.PutNew(ctx, k, []byte("1"), 0); return err },
		"PutIf":       func() error { _, err := s.store.PutIf(ctx, k, []byte("1"), []byte("2"), 0); return err },
		"Delete":      func() error { return s.store.Delete(ctx, cache.Name("value", "none")) },
		"Fields":      func() error { _, err := s.store.Fields(ctx, m); return err },
		"PutField":    func() error { return s.store.PutField(ctx, m, "f", []byte("1"), 0) },
		"DeleteField": func() error { return s.store.DeleteField(ctx, m, "none") },
		"Ping":        func() error { return s.store.Ping(ctx) },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a context that has ended: %v, want context.Canceled", name, err)
		}
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if _, err := s.store.Get(late, k); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get past the deadline: %v, want context.DeadlineExceeded", err)
	}
	s.want(k, "1")
	s.wantFields(m, map[string]string{"f": "1"})
}

func testAliasing(t *testing.T, s suite) {
	ctx := t.Context()
	k, n, m := cache.Name("value", "a"), cache.Name("value", "new"), cache.Name("map", "a")
	scratch := bytes.Repeat([]byte("x"), 3000)
	want := string(scratch)
	if err := s.store.Put(ctx, k, scratch, 0); err != nil {
		t.Fatal(err)
	}
	put, err := s.store.PutNew(ctx, n, scratch, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.PutField(ctx, m, "f", scratch, 0); err != nil {
		t.Fatal(err)
	}
	clear(scratch)
	if string(put) != want {
		t.Error("PutNew returned the caller's own slice")
	}
	for range 2 { // the second time, what the first returned has been overwritten
		got, err := s.store.Get(ctx, k)
		if err != nil || string(got) != want {
			t.Fatalf("Get = %.10q…, %v: the value has changed", got, err)
		}
		clear(got)
		fields, err := s.store.Fields(ctx, m)
		if err != nil || string(fields["f"]) != want {
			t.Fatalf("Fields = %.10q…, %v: the value has changed", fields["f"], err)
		}
		clear(fields["f"])
		clear(fields)
		old, err := s.store.PutNew(ctx, n, []byte("y"), 0)
		if err != nil || string(old) != want {
			t.Fatalf("PutNew = %.10q…, %v: the value has changed", old, err)
		}
		clear(old)
	}
}
