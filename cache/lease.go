package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Kinds of what leases are kept under.
const (
	KindLease Kind = "lease" // what is done → who does it
	KindFence Kind = "fence" // what is done → the token of who did it last
)

// ErrHeld is wrapped by the error of Acquire where another has the lease. ErrLost is why
// the context of a Lease ended that was not released.
var (
	ErrHeld = errors.New("another process does this")
	ErrLost = errors.New("the lease on this work was lost")
)

// fenceLife is how long tokens are counted for. After it they begin at the time of day,
// which is past any before.
const fenceLife = 24 * time.Hour

// A Lease is the right to do a piece of work that one process is to do at a time. It is
// renewed by itself until it is released or lost. Who held it before may not know yet that
// it was lost: what is done under a Lease should be such that done twice is no harm, or be
// guarded by its Token.
type Lease struct {
	// Token is greater than that of every Lease on this work that was acquired before.
	Token uint64

	store Store
	key   Key
	value []byte
	life  time.Duration
	ctx   context.Context
	lose  context.CancelCauseFunc
	done  chan struct{} // closed when nothing is renewed any more
}

// Acquire returns the lease on the work of that name, for holder, which is only shown. It
// wraps ErrHeld when another has it. One that is not renewed, since its process has died
// or can't reach the Store, ends after life.
func Acquire(ctx context.Context, s Store, name, holder string, life time.Duration) (*Lease, error) {
	l := &Lease{store: s, key: Name(KindLease, name), life: life, done: make(chan struct{})}
	began := time.Now()
	mine := []byte(holder + " " + rand.Text())
	there, err := s.PutNew(ctx, l.key, mine, life)
	if err != nil {
		return nil, err
	}
	if string(there) != string(mine) {
		return nil, fmt.Errorf("%s: %w: %s", name, ErrHeld, Holder(there))
	}
	l.value = mine
	if l.Token, err = nextToken(ctx, s, Name(KindFence, name), string(mine)); err != nil {
		l.giveBack(ctx)
		return nil, err
	}
	// Only who still has the lease when its token is counted may use it.
	counted := fmt.Append(nil, string(mine), " ", l.Token)
	switch kept, err := s.PutIf(ctx, l.key, mine, counted, life); {
	case err != nil:
		l.giveBack(ctx)
		return nil, err
	case !kept:
		return nil, fmt.Errorf("%s: %w", name, ErrHeld)
	}
	l.value = counted
	l.ctx, l.lose = context.WithCancelCause(ctx)
	go l.keep(began)
	return l, nil
}

// Held reports whether anybody has the lease on the work of that name. A Store with copies
// may know a little late.
func Held(ctx context.Context, s Store, name string) (bool, error) {
	_, err := s.Get(ctx, Name(KindLease, name))
	if errors.Is(err, ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Holder returns who holds a lease by what is stored of it.
func Holder(value []byte) string {
	parts := strings.Split(string(value), " ")
	return strings.Join(parts[:max(1, len(parts)-2)], " ")
}

// nextToken counts one up. What it stores is its own, so that it knows who has counted.
func nextToken(ctx context.Context, s Store, k Key, me string) (uint64, error) {
	for {
		token := uint64(time.Now().UnixMilli())
		mine := func() []byte { return fmt.Append(nil, token, " ", me) }
		there, err := s.PutNew(ctx, k, mine(), fenceLife)
		if err != nil {
			return 0, err
		}
		if string(there) == string(mine()) {
			return token, nil
		}
		count, _, _ := strings.Cut(string(there), " ")
		last, err := strconv.ParseUint(count, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("count the token of %q: %w", k, err)
		}
		token = max(token, last+1)
		if counted, err := s.PutIf(ctx, k, there, mine(), fenceLife); err != nil || counted {
			return token, err
		}
	}
}

// Context is that of Acquire. It ends, with the cause ErrLost, when the lease was lost, and
// when it is released.
func (l *Lease) Context() context.Context { return l.ctx }

// Release gives the lease back, so that another may have it at once.
func (l *Lease) Release() {
	l.lose(context.Canceled)
	<-l.done
	l.giveBack(l.ctx)
}

// giveBack ends the lease in the Store, also when ctx has ended.
func (l *Lease) giveBack(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.life)
	defer cancel()
	// With a life that ends at once it is gone only if it is still ours. That this fails
	// has no other end than that the lease is given back later.
	_, _ = l.store.PutIf(ctx, l.key, l.value, l.value, time.Millisecond)
}

// keep renews the lease, three times in its life.
func (l *Lease) keep(renewed time.Time) {
	defer close(l.done)
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(l.life / 3):
		}
		at := time.Now()
		ctx, cancel := context.WithDeadline(l.ctx, renewed.Add(l.life))
		kept, err := l.store.PutIf(ctx, l.key, l.value, l.value, l.life)
		cancel()
		switch {
		case err == nil && !kept, time.Since(renewed) >= l.life:
			l.lose(errors.Join(ErrLost, err))
			return
		case err == nil:
			renewed = at
		}
	}
}
