package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// A lease is an entry of the Store that names the one replica that does something. It
// lapses a while after its holder has died.
//
// A Store can't compare and replace in one step, so a renewal looks who holds the lease
// and then writes it. Both are done with before it could have lapsed, or not at all: only
// an answer of the Store that is late by most of the lease lets two hold it. What is done
// under one must bear that.
type lease struct {
	store cache.Store
	key   cache.Key
	me    []byte
	term  time.Duration
	until time.Time // when it lapses unless it is renewed, or sooner
}

// errLeaseLost is that another replica holds what this one had.
var errLeaseLost = errors.New("another gateway goes on with it")

// leased runs f if no other replica holds the lease on key, and keeps that until f
// returns, however long one step of it takes. The context of f ends, and leased returns
// why, when the lease is lost or may have lapsed.
func (g *Gateway) leased(ctx context.Context, key cache.Key, term time.Duration, f func(context.Context) error) error {
	l := &lease{store: g.Store, key: key, me: []byte(rand.Text()), term: term, until: time.Now().Add(term)}
	holder, err := l.store.PutNew(ctx, key, l.me, term)
	if err != nil || !bytes.Equal(holder, l.me) {
		return err
	}
	work, end := context.WithCancelCause(ctx)
	kept := make(chan error, 1)
	go func() {
		err := l.keep(work)
		end(err)
		kept <- err
	}()
	err = f(work)
	end(nil)
	if lost := <-kept; lost != nil {
		return lost
	}
	return errors.Join(err, l.release(context.WithoutCancel(ctx)))
}

// keep renews the lease until ctx ends, or returns why it can't be relied on any more.
func (l *lease) keep(ctx context.Context) error {
	tick := time.NewTicker(l.term / 6)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := l.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errLeaseLost):
			return err
		case err != nil && !time.Now().Before(l.until):
			return fmt.Errorf("keep others from doing the same: %w", err)
		}
	}
}

func (l *lease) renew(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, l.until)
	defer cancel()
	begun := time.Now()
	holder, err := l.store.PutNew(ctx, l.key, l.me, l.term)
	if err != nil {
		return err
	}
	if !bytes.Equal(holder, l.me) {
		return errLeaseLost
	}
	if err := l.store.Put(ctx, l.key, l.me, l.term); err != nil {
		return err
	}
	l.until = begun.Add(l.term)
	return nil
}

// release lets others have it at once. keep has returned.
func (l *lease) release(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, l.until)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	holder, err := l.store.Get(ctx, l.key)
	if isMiss(err) || err == nil && !bytes.Equal(holder, l.me) {
		return nil
	}
	return errors.Join(err, l.store.Delete(ctx, l.key))
}
