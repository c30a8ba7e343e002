package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/cachetest"
)

// A shared is a Store as several processes see one, with faults that a real one has rarely.
type shared struct {
	*cache.Memory

	mu       sync.Mutex // guards what follows
	watchers map[int]*watcher
	next     int
	muted    bool          // news and beats are lost
	err      error         // of every call
	delay    time.Duration // of every call
	calls    int
}

type watcher struct {
	beat    func(time.Time)
	changed func(cache.Key)
	lost    chan error
}

func newShared() *shared { return &shared{Memory: new(cache.Memory), watchers: map[int]*watcher{}} }

func (s *shared) set(change func(*shared)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// ask is the beginning of every call.
func (s *shared) ask(ctx context.Context) error {
	s.mu.Lock()
	err, delay := s.err, s.delay
	s.calls++
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(delay):
		return err
	}
}

// tell is the end of every write.
func (s *shared) tell(k cache.Key, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		if !s.muted {
			w.changed(k)
		}
	}
	return err
}

func (s *shared) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	if err := s.ask(ctx); err != nil {
		return nil, err
	}
	return s.Memory.Get(ctx, k)
}

func (s *shared) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	if err := s.ask(ctx); err != nil {
		return nil, err
	}
	return s.Memory.Fields(ctx, k)
}

func (s *shared) Put(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) error {
	if err := s.ask(ctx); err != nil {
		return err
	}
	return s.tell(k, s.Memory.Put(ctx, k, value, ttl))
}

func (s *shared) PutField(ctx context.Context, k cache.Key, f string, value []byte, ttl time.Duration) error {
	if err := s.ask(ctx); err != nil {
		return err
	}
	return s.tell(k, s.Memory.PutField(ctx, k, f, value, ttl))
}

func (s *shared) Delete(ctx context.Context, k cache.Key) error {
	return s.tell(k, s.Memory.Delete(ctx, k))
}

func (s *shared) Watch(ctx context.Context, beat func(time.Time), changed func(cache.Key)) error {
	w := &watcher{beat, changed, make(chan error, 1)}
	s.mu.Lock()
	s.next++
	id := s.next
	err := s.err
	if err == nil {
		s.watchers[id] = w
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	defer s.set(func(s *shared) { delete(s.watchers, id) })
	for {
		s.mu.Lock()
		if !s.muted {
			beat(time.Now())
		}
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-w.lost:
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// fail makes every call fail, and ends every Watch.
func (s *shared) fail(err error) {
	s.set(func(s *shared) {
		s.err = err
		for _, w := range s.watchers {
			if err != nil {
				w.lost <- err
			}
		}
	})
}

func (s *shared) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

var errGone = fmt.Errorf("%w: connection refused", cache.ErrDown)

// A logged counts lines.
type logged struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func newLocal(t *testing.T, s *shared, c cache.LocalConfig) *cache.Local {
	l := cache.NewLocal(s, c)
	t.Cleanup(func() { _ = l.Close() })
	eventually(t, "the store to be listened to", func() bool { return copies(t, l, cache.Name("probe")) })
	return l
}

// copies reports whether l answers for k from its memory.
func copies(t *testing.T, l *cache.Local, k cache.Key) bool {
	t.Helper()
	for range 2 {
		if _, err := l.Get(t.Context(), k); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	before := l.Stats()
	_, _ = l.Get(t.Context(), k)
	after := l.Stats()
	return after.Hits == before.Hits+1 && after.Stale == before.Stale
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func wantValue(t *testing.T, s cache.Store, k cache.Key, want string) {
	t.Helper()
	if got, err := s.Get(t.Context(), k); err != nil || string(got) != want {
		t.Fatalf("Get(%q) = %q, %v, want %q", k, got, err, want)
	}
}

func put(t *testing.T, s cache.Store, k cache.Key, value string) {
	t.Helper()
	if err := s.Put(t.Context(), k, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

func TestLocalIsAStore(t *testing.T) {
	cachetest.Test(t, func(*testing.T) cache.Store { return cache.NewLocal(newShared(), cache.LocalConfig{}) })
}

// TestLocalAsksOnce checks that what was read once is answered from memory, a miss and an
// empty map too, until another process changes it.
func TestLocalAsksOnce(t *testing.T) {
	s := newShared()
	l, other := newLocal(t, s, cache.LocalConfig{}), newLocal(t, s, cache.LocalConfig{})
	k, m := cache.Name("tag", "a"), cache.Name("listing", "a")
	read := func(want string, fields int) {
		t.Helper()
		got, err := l.Get(t.Context(), k)
		if string(got) != want || (err == nil) != (want != "") {
			t.Fatalf("Get = %q, %v, want %q", got, err, want)
		}
		f, err := l.Fields(t.Context(), m)
		if err != nil || len(f) != fields {
			t.Fatalf("Fields = %q, %v, want %d", f, err, fields)
		}
		clear(f)
	}
	asked := func(want int) {
		t.Helper()
		before := s.asked()
		for range 10 {
			v, _ := l.Get(t.Context(), k)
			clear(v)
			f, _ := l.Fields(t.Context(), m)
			clear(f)
		}
		if got := s.asked() - before; got > want {
			t.Fatalf("the store was asked %d times, want %d", got, want)
		}
	}
	read("", 0)
	asked(0)
	put(t, other, k, "1")
	if err := other.PutField(t.Context(), m, "f", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	read("1", 1)
	asked(0)
	put(t, l, k, "2")
	read("2", 1)
	asked(0)
	if err := other.Delete(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	read("", 1)
	put(t, s, k, "3")
	if got, err := l.Get(cache.Direct(t.Context()), k); err != nil || string(got) != "3" {
		t.Errorf("a direct Get = %q, %v", got, err)
	}
}

// TestLocalLosesNews checks the bound on how old an answer may be: news are lost without
// a word, as behind a connection that has died.
func TestLocalLosesNews(t *testing.T) {
	s := newShared()
	l := newLocal(t, s, cache.LocalConfig{Fixed: []cache.Kind{"sbom"}})
	k, fixed := cache.Name("tag", "a"), cache.Name("sbom", "a")
	put(t, s, k, "1")
	put(t, s, fixed, "1")
	eventually(t, "a copy", func() bool { return copies(t, l, k) && copies(t, l, fixed) })
	s.set(func(s *shared) { s.muted = true })
	put(t, s, k, "2")
	changed := time.Now()
	eventually(t, "the change to be seen", func() bool {
		began := time.Now()
		v, err := l.Get(t.Context(), k)
		if err == nil && string(v) == "1" && began.Sub(changed) > cache.Staleness {
			t.Fatalf("%v after the change the old value is answered", began.Sub(changed))
		}
		return string(v) == "2"
	})
	if !copies(t, l, fixed) {
		t.Error("what never changes was read again")
	}
	if copies(t, l, k) {
		t.Error("what may have changed is answered from memory")
	}
	put(t, s, k, "3") // and nobody has said so
	s.set(func(s *shared) { s.muted = false })
	eventually(t, "the store to be heard again", func() bool { return copies(t, l, k) })
	wantValue(t, l, k, "3")
}

// TestLocalLateRead checks that a read which the news of a change overtakes is not kept.
func TestLocalLateRead(t *testing.T) {
	s := newShared()
	l := newLocal(t, s, cache.LocalConfig{})
	k := cache.Name("tag", "a")
	s.set(func(s *shared) { s.delay = 300 * time.Millisecond })
	var reading sync.WaitGroup
	before := s.asked()
	reading.Go(func() { _, _ = l.Get(t.Context(), k) })
	eventually(t, "the read to begin", func() bool { return s.asked() > before })
	_ = s.tell(k, nil) // of a change that the read may or may not see
	reading.Wait()
	s.set(func(s *shared) { s.delay = 0 })
	before = s.asked()
	_, _ = l.Get(t.Context(), k)
	if s.asked() == before {
		t.Error("what was read before a change was known is answered after it")
	}
}

// TestLocalWithoutStore checks that copies answer while the Store is gone, for the kinds
// that may, that nothing else does, and that the log has one line for each turn.
func TestLocalWithoutStore(t *testing.T) {
	s, log := newShared(), new(logged)
	l := newLocal(t, s, cache.LocalConfig{Never: []cache.Kind{"waivers"}, Log: slog.New(slog.NewTextHandler(log, nil))})
	k, m, waivers, miss, unread := cache.Name("tag", "a"), cache.Name("listing", "a"), cache.Name("waivers"), cache.Name("tag", "miss"), cache.Name("tag", "unread")
	for _, k := range []cache.Key{k, waivers, unread} {
		put(t, s, k, "1")
	}
	if err := s.PutField(t.Context(), m, "f", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for _, k := range []cache.Key{k, waivers, miss} {
		_, _ = l.Get(t.Context(), k)
	}
	_, _ = l.Fields(t.Context(), m)
	for range 2 {
		s.fail(errGone)
		eventually(t, "the outage to be known", func() bool { return l.Stats().Down != nil })
		for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); { // past what a store is left alone for
			wantValue(t, l, k, "1")
			if f, err := l.Fields(t.Context(), m); err != nil || string(f["f"]) != "1" {
				t.Fatalf("Fields = %q, %v", f, err)
			}
			for _, k := range []cache.Key{waivers, miss, unread} {
				if v, err := l.Get(t.Context(), k); !errors.Is(err, cache.ErrDown) || errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("Get(%q) = %q, %v without the store", k, v, err)
				}
			}
		}
		if err := l.Put(t.Context(), unread, []byte("2"), 0); !errors.Is(err, cache.ErrDown) {
			t.Fatalf("Put without the store: %v", err)
		}
		s.fail(nil)
		eventually(t, "the store to be back", func() bool { return l.Stats().Down == nil && copies(t, l, k) })
		wantValue(t, l, waivers, "1")
	}
	if down, up := log.count("level=ERROR"), log.count("level=INFO"); down != 2 || up != 2 {
		t.Errorf("two outages made %d and %d lines:\n%s", down, up, log.text.String())
	}
}

// TestLocalFullStore checks that a Store without room is said to be so once, that what it
// holds is answered, and that forgetting something is not taken for room.
func TestLocalFullStore(t *testing.T) {
	s, log := newShared(), new(logged)
	l := newLocal(t, s, cache.LocalConfig{Log: slog.New(slog.NewTextHandler(log, nil))})
	k := cache.Name("tag", "a")
	put(t, l, k, "1")
	wantValue(t, l, k, "1")
	s.set(func(s *shared) { s.err = fmt.Errorf("OOM: %w", cache.ErrFull) })
	for range 3 {
		if err := l.Put(t.Context(), cache.Name("tag", "b"), nil, 0); !errors.Is(err, cache.ErrFull) {
			t.Fatalf("Put without room: %v", err)
		}
		wantValue(t, l, k, "1")
	}
	s.set(func(s *shared) { s.err = nil })
	if err := l.Delete(t.Context(), cache.Name("tag", "c")); err != nil {
		t.Fatal(err)
	}
	put(t, l, k, "2") // too early to say that there is room for good
	if full, room := log.count("level=ERROR"), log.count("level=INFO"); full != 1 || room != 0 || l.Stats().Down != nil {
		t.Errorf("%d and %d lines, down: %v:\n%s", full, room, l.Stats().Down, log.text.String())
	}
}

// TestLocalMends checks that what can't be used is made again, of kinds that may be, and is
// an error of others.
func TestLocalMends(t *testing.T) {
	s, log := newShared(), new(logged)
	l := newLocal(t, s, cache.LocalConfig{Remade: []cache.Kind{"tag"}, Log: slog.New(slog.NewTextHandler(log, nil))})
	ctx := t.Context()
	spoil := func(kind cache.Kind, id string, asMap bool) cache.Key {
		k := cache.Name(kind, id)
		if asMap {
			if err := s.PutField(ctx, k, "f", []byte("1"), 0); err != nil {
				t.Fatal(err)
			}
		} else {
			put(t, s, k, "1")
		}
		return k
	}
	uses := map[string]struct {
		spoilt bool // as a map
		use    func(cache.Key) error
		missed bool
	}{
		"Get":    {true, func(k cache.Key) error { _, err := l.Get(ctx, k); return err }, true},
		"Put":    {true, func(k cache.Key) error { return l.Put(ctx, k, []byte("2"), 0) }, false},
		"PutNew": {true, func(k cache.Key) error { _, err := l.PutNew(ctx, k, []byte("2"), 0); return err }, false},
		"Fields": {false, func(k cache.Key) error {
			f, err := l.Fields(ctx, k)
			if len(f) > 0 {
				t.Errorf("fields of a value: %q", f)
			}
			return err
		}, false},
		"PutField": {false, func(k cache.Key) error { return l.PutField(ctx, k, "f", []byte("2"), 0) }, false},
	}
	for name, u := range uses {
		before := log.count("level=WARN")
		k := spoil("tag", name, u.spoilt)
		for range 2 { // the second finds what the first has left
			err := u.use(k)
			if u.missed && !errors.Is(err, cache.ErrNotExist) || !u.missed && err != nil {
				t.Errorf("%s of what is made again: %v", name, err)
			}
		}
		if n := log.count("level=WARN") - before; n != 1 {
			t.Errorf("%s: %d lines:\n%s", name, n, log.text.String())
		}
		k, before = spoil("waivers", name, u.spoilt), log.count("level=ERROR")
		for range 3 {
			if err := u.use(k); !errors.Is(err, cache.ErrDamaged) || errors.Is(err, cache.ErrNotExist) {
				t.Errorf("%s of what isn't made again: %v", name, err)
			}
		}
		if n := log.count("level=ERROR") - before; n != 1 {
			t.Errorf("%s of what isn't made again: %d lines:\n%s", name, n, log.text.String())
		}
	}
}

// TestLocalSlowStore checks that a slow Store holds up only what has no copy.
func TestLocalSlowStore(t *testing.T) {
	s := newShared()
	l := newLocal(t, s, cache.LocalConfig{})
	k, unread := cache.Name("tag", "a"), cache.Name("tag", "b")
	put(t, s, k, "1")
	put(t, s, unread, "1")
	eventually(t, "a copy", func() bool { return copies(t, l, k) })
	s.set(func(s *shared) { s.muted, s.delay = true, 3*time.Second })
	time.Sleep(cache.Staleness) // from now on the copy is not good any more
	began := time.Now()
	for range 100 {
		wantValue(t, l, k, "1")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a hundred reads that have a copy took %v", took)
	}
	wantValue(t, l, unread, "1")
}

// TestLocalBound checks that copies take no more memory than they may.
func TestLocalBound(t *testing.T) {
	s := newShared()
	l := newLocal(t, s, cache.LocalConfig{Bytes: 64 << 10})
	large := cache.Name("tag", "large")
	put(t, s, large, strings.Repeat("x", 5<<10))
	for i := range 500 {
		k := cache.Name("tag", fmt.Sprint(i))
		put(t, s, k, strings.Repeat("x", 1000))
		wantValue(t, l, k, strings.Repeat("x", 1000))
		if b := l.Stats().Bytes; b > 64<<10 {
			t.Fatalf("%d bytes are kept", b)
		}
	}
	if n := l.Stats().Copies; n < 40 || n > 64 {
		t.Errorf("%d copies are kept", n)
	}
	if !copies(t, l, cache.Name("tag", "499")) || copies(t, l, large) {
		t.Error("what was used last should be kept, and what is too large not")
	}
}
