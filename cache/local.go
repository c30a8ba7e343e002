package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// ErrDown is wrapped by the error of a Store that can't be reached, or that can't answer
// now. What is stored may be well.
var ErrDown = errors.New("the store is out of reach")

// ErrFull is wrapped by the error of a write that a Store has no room for. What it holds it
// still answers.
var ErrFull = errors.New("the store is full")

// Staleness is how old what a Local answers may be at most, while its Store can be heard:
// older copies are read anew. A change that another process has made is usually known
// within milliseconds; this is the bound where news of it got lost.
const Staleness = time.Second

// A Local keeps copies of what was read lately from a Store that others share, in the
// memory of this process, and answers from them. Copies are dropped when anybody writes
// what they are of.
//
// What a Local guarantees is what a Store does, but for this: what another process writes
// may be seen late, by Staleness at most; an entry whose life has ended may be seen for a
// minute more; and while the Store is out of reach a read is answered by the copy there is,
// however old, but for the kinds that must not be. A read with the context of Direct is
// answered by the Store.
//
// While the Store is slow a read waits for it shortly where there is a copy. A miss is
// never answered without the Store.
type Local struct {
	store  Watcher
	config LocalConfig
	stop   context.CancelFunc
	done   chan struct{} // closed when nothing listens any more

	mu      sync.Mutex // guards what follows
	copies  copies
	loading map[copyKey]*load
	contact int               // counts the times that the Store was heard anew; a copy is good in its own
	hearing bool              // now, in that contact
	heard   time.Time         // of all written before, news have come
	down    time.Time         // until then the Store is not asked
	slow    time.Time         // until then the Store is not asked where there is a copy
	cause   error             // why it is out of reach, nil where it isn't
	since   time.Time         // that it is or isn't
	filled  time.Time         // when it had no room first, zero where it has
	full    time.Time         // when it had no room last
	damaged map[Key]time.Time // records that can't be read, when this was logged
	stats   LocalStats
}

// LocalConfig says what a Local may do.
type LocalConfig struct {
	// Bytes bounds the copies. 0 is 64 MiB: what ten thousand images are decided by.
	Bytes int64
	// Fixed are kinds whose entries never change, since their key is of what they hold. A
	// copy of one is good for ever.
	Fixed []Kind
	// Never are kinds of which no copy is good without the Store: who reads them has a
	// rule of its own for that, or needs them as they are.
	Never []Kind
	// Remade are kinds whose entries are made again where they are missing, and whose want
	// lets nothing pass. One that is damaged, or of another type, is deleted and logged, and
	// is a miss.
	Remade []Kind
	Log    *slog.Logger // nil: nothing is logged
}

// LocalStats counts what a Local has done, and says how the Store is.
type LocalStats struct {
	Hits   uint64    // reads answered by a copy
	Asked  uint64    // calls that went to the Store
	Stale  uint64    // reads answered by a copy for want of the Store, among Hits
	Copies int       // kept now
	Bytes  int64     // of them, about
	Down   error     // why the Store is out of reach; nil where it isn't
	Since  time.Time // that this is so
}

const (
	// maxCopyAge is how long a copy is good: a bound on what a life that has ended in the
	// Store goes on here, since a read doesn't tell of it.
	maxCopyAge = time.Minute
	// copyPatience is how long the Store may take where there is a copy: ten times what a
	// healthy one takes across zones, and no matter to a client.
	copyPatience = 250 * time.Millisecond
	// restFor is how long a Store that has failed, or was slow, is left alone.
	restFor = time.Second
	// roomFor is how long ago a Store must have been full to be said to have room again:
	// at the brim one write fails, and the next does not.
	roomFor = 10 * time.Second
	// tellDamage is how often it is logged that a record can't be read, and maxDamaged of
	// how many records that is known.
	tellDamage, maxDamaged = time.Minute, 1024
)

type directKey struct{}

// Direct returns a context in which a Local reads from its Store, however good its copy.
func Direct(ctx context.Context) context.Context { return context.WithValue(ctx, directKey{}, true) }

// NewLocal returns a Local before store, which it closes when it is closed itself.
func NewLocal(store Watcher, c LocalConfig) *Local {
	if c.Bytes == 0 {
		c.Bytes = 64 << 20
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &Local{store: store, config: c, stop: stop, done: make(chan struct{}), loading: map[copyKey]*load{}, since: time.Now()}
	l.copies.max = c.Bytes
	go l.listen(ctx)
	return l
}

// Close implements Store.
func (l *Local) Close() error {
	l.stop()
	<-l.done
	return l.store.Close()
}

// Stats returns what was counted until now.
func (l *Local) Stats() LocalStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Copies, s.Bytes, s.Down, s.Since = l.copies.len(), l.copies.bytes, l.cause, l.since
	return s
}

// Get implements Store.
func (l *Local) Get(ctx context.Context, k Key) ([]byte, error) {
	c, err := l.read(ctx, copyKey{k, false}, func(ctx context.Context) (*copied, error) {
		value, err := l.store.Get(ctx, k)
		if l.mend(ctx, k, err) {
			err = fmt.Errorf("get %q: it was damaged, and is deleted: %w", k, ErrNotExist)
		}
		if errors.Is(err, ErrNotExist) {
			return &copied{miss: err, cost: copyCost}, nil
		}
		return &copied{value: value, cost: copyCost + int64(len(value))}, err
	})
	if err != nil {
		return nil, err
	}
	if c.miss != nil {
		return nil, c.miss
	}
	return clone(c.value), nil
}

// Fields implements Store.
func (l *Local) Fields(ctx context.Context, k Key) (map[string][]byte, error) {
	c, err := l.read(ctx, copyKey{k, true}, func(ctx context.Context) (*copied, error) {
		fields, err := l.store.Fields(ctx, k)
		if l.mend(ctx, k, err) {
			err = nil
		}
		cost := int64(copyCost)
		for name, value := range fields {
			cost += copyCost/2 + int64(len(name)+len(value))
		}
		return &copied{fields: fields, cost: cost}, err
	})
	if err != nil {
		return nil, err
	}
	fields := maps.Clone(c.fields)
	for name, value := range fields {
		fields[name] = clone(value)
	}
	return fields, nil
}

// read returns a copy that is good, or makes one with load, or returns the one there is
// where the Store is out of reach.
func (l *Local) read(ctx context.Context, k copyKey, load func(context.Context) (*copied, error)) (*copied, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	have, good, mark, err := l.begin(k, ctx.Value(directKey{}) != nil)
	if good || err != nil {
		return have, err
	}
	limited, cancel := ctx, context.CancelFunc(func() {})
	if have != nil {
		limited, cancel = context.WithTimeout(ctx, copyPatience)
	}
	got, err := load(limited)
	late := err != nil && limited.Err() != nil && ctx.Err() == nil
	cancel()
	l.finish(k, mark, got, err, late)
	if have != nil && (late || errors.Is(err, ErrDown)) {
		return l.stale(have), nil
	}
	if err != nil {
		return nil, err
	}
	return got, nil
}

// begin returns the copy under k and whether it is good, or may stand in for the Store
// where that is not asked now. Else the caller is to ask the Store, and to call finish.
func (l *Local) begin(k copyKey, direct bool) (have *copied, good bool, mark *load, err error) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	have = l.copies.get(k)
	if have != nil && !direct && l.good(k, have, now) {
		l.stats.Hits++
		return have, true, nil, nil
	}
	if have != nil && (direct || have.miss != nil || slices.Contains(l.config.Never, k.kind)) {
		have = nil // it must not stand in for the Store
	}
	if have != nil && (now.Before(l.down) || now.Before(l.slow)) {
		l.stats.Hits++
		l.stats.Stale++
		return have, true, nil, nil
	}
	if now.Before(l.down) {
		return nil, false, nil, fmt.Errorf("%s: %w", k, l.cause)
	}
	l.stats.Asked++
	mark = l.loading[k]
	if mark == nil {
		mark = &load{contact: l.contact, began: now}
		l.loading[k] = mark
	}
	mark.users++
	return have, false, mark, nil
}

// good reports whether a copy may be answered with. l.mu is held.
func (l *Local) good(k copyKey, c *copied, now time.Time) bool {
	if slices.Contains(l.config.Fixed, k.kind) && c.miss == nil {
		return true
	}
	return l.hearing && c.contact == l.contact && now.Sub(l.heard) < Staleness && now.Sub(c.at) < maxCopyAge
}

// finish keeps what was read under k.
func (l *Local) finish(k copyKey, mark *load, got *copied, err error, late bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mark.users--; mark.users == 0 && l.loading[k] == mark {
		delete(l.loading, k)
	}
	now := time.Now()
	switch {
	case late:
		l.slow = now.Add(restFor)
	case errors.Is(err, ErrDown):
		l.failed(now, err)
	case err == nil && !mark.changed:
		got.contact, got.at = mark.contact, mark.began
		l.copies.put(k, got)
	}
}

// stale counts a copy that stands in for the Store.
func (l *Local) stale(c *copied) *copied {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Hits++
	l.stats.Stale++
	return c
}

// Put implements Store.
func (l *Local) Put(ctx context.Context, k Key, value []byte, ttl time.Duration) error {
	return l.keep(ctx, k, func() error { return l.store.Put(ctx, k, value, ttl) })
}

// PutNew implements Store.
func (l *Local) PutNew(ctx context.Context, k Key, value []byte, ttl time.Duration) (there []byte, err error) {
	err = l.keep(ctx, k, func() error { there, err = l.store.PutNew(ctx, k, value, ttl); return err })
	return there, err
}

// PutIf implements Store.
func (l *Local) PutIf(ctx context.Context, k Key, old, value []byte, ttl time.Duration) (stored bool, err error) {
	err = l.keep(ctx, k, func() error { stored, err = l.store.PutIf(ctx, k, old, value, ttl); return err })
	return stored, err
}

// Delete implements Store.
func (l *Local) Delete(ctx context.Context, k Key) error {
	return l.write(ctx, k, func() error { return l.store.Delete(ctx, k) })
}

// PutField implements Store.
func (l *Local) PutField(ctx context.Context, k Key, field string, value []byte, ttl time.Duration) error {
	return l.keep(ctx, k, func() error { return l.store.PutField(ctx, k, field, value, ttl) })
}

// DeleteField implements Store.
func (l *Local) DeleteField(ctx context.Context, k Key, field string) error {
	return l.write(ctx, k, func() error { return l.store.DeleteField(ctx, k, field) })
}

// Ping implements Store. It asks the Store, also one that is left alone.
func (l *Local) Ping(ctx context.Context) error { return l.store.Ping(ctx) }

// keep does what needs room, and changes the entry under k.
func (l *Local) keep(ctx context.Context, k Key, do func() error) error {
	err := l.write(ctx, k, do)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	switch {
	case errors.Is(err, ErrFull):
		if l.filled.IsZero() {
			l.config.Log.Error("the store has no room: what it holds answers, what is new is refused until there is", "error", err)
			l.filled = now
		}
		l.full = now
	case err == nil && !l.filled.IsZero() && now.Sub(l.full) > roomFor:
		l.config.Log.Info("the store has room again", "after", now.Sub(l.filled).Round(time.Millisecond))
		l.filled = time.Time{}
	}
	return err
}

// write does what changes the entry under k.
func (l *Local) write(ctx context.Context, k Key, do func() error) error {
	err := l.change(k, do)
	if l.mend(ctx, k, err) {
		err = l.change(k, do)
	}
	return err
}

// mend deletes the entry under k where err says that it is damaged and its kind is made
// again, and reports whether it did. Damage that stays it logs from time to time.
func (l *Local) mend(ctx context.Context, k Key, err error) bool {
	if !errors.Is(err, ErrDamaged) {
		return false
	}
	if slices.Contains(l.config.Remade, k.kind) && l.store.Delete(ctx, k) == nil {
		l.config.Log.Warn("a stored record can't be read; it is made again", "key", fmt.Sprintf("%q", k), "error", err)
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.damaged[k]) > tellDamage {
		if l.damaged == nil || len(l.damaged) >= maxDamaged {
			l.damaged = map[Key]time.Time{}
		}
		l.damaged[k] = now
		l.config.Log.Error("a stored record can't be read: what needs it is refused until it is deleted", "key", fmt.Sprintf("%q", k), "error", err)
	}
	return false
}

// change is write without mending.
func (l *Local) change(k Key, do func() error) error {
	l.mu.Lock()
	if time.Now().Before(l.down) {
		err := fmt.Errorf("write %q: %w", k, l.cause)
		l.mu.Unlock()
		return err
	}
	l.stats.Asked++
	l.mu.Unlock()
	err := do()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(k) // also after an error: nobody knows whether it was written
	if errors.Is(err, ErrDown) {
		l.failed(time.Now(), err)
	}
	return err
}

// drop forgets the copies of k, and those that are being read. l.mu is held.
func (l *Local) drop(k Key) {
	for _, ck := range []copyKey{{k, false}, {k, true}} {
		if mark := l.loading[ck]; mark != nil {
			mark.changed = true
			delete(l.loading, ck) // who reads from now on sees the change
		}
		l.copies.drop(ck)
	}
}

// failed notes that the Store is out of reach. l.mu is held.
func (l *Local) failed(now time.Time, err error) {
	l.down = now.Add(restFor)
	if l.cause == nil {
		l.config.Log.Error("the store is out of reach: what is in memory answers, the rest is refused until it is back", "error", err)
		l.since = now
	}
	l.cause = err
}

// listen hears what others write, for as long as the Store can be heard, and anew when it
// was lost.
func (l *Local) listen(ctx context.Context) {
	defer close(l.done)
	for {
		err := l.store.Watch(ctx, l.beat, func(k Key) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.drop(k)
		})
		if ctx.Err() != nil {
			return
		}
		if !errors.Is(err, ErrDown) {
			err = fmt.Errorf("%w: %w", ErrDown, err)
		}
		l.mu.Lock()
		l.hearing = false
		l.failed(time.Now(), err)
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(restFor / 4):
		}
	}
}

// beat notes that of all written before at, news have come.
func (l *Local) beat(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.hearing {
		l.hearing = true
		l.contact++
		l.down = time.Time{}
		for _, mark := range l.loading { // what changed before it was listened to is unknown
			mark.changed = true
		}
		clear(l.loading)
	}
	l.heard = at
	if l.cause != nil && time.Now().After(l.down) {
		l.config.Log.Info("the store can be reached again", "after", time.Since(l.since).Round(time.Millisecond), "last_error", l.cause)
		l.cause, l.since = nil, time.Now()
	}
}
