package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// Bounds of a transaction: it holds what is written in memory, and all who are in it
// wait for its end.
const (
	batchOps   = 1024
	batchBytes = 32 << 20
	sweepBatch = 500
)

// An op is a write on its way to the committer.
type op struct {
	do      func(*tx) (refused, err error) // may run again after an error
	size    int
	refused error
	err     error
	done    chan struct{} // closed when refused and err are set
}

// write has do run by the committer and waits until what it did is on the disk.
func (s *Store) write(ctx context.Context, verb string, k cache.Key, size int, do func(*tx) (refused, err error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op{do: do, size: size, done: make(chan struct{})}
	select {
	case s.ops <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return s.explain(fmt.Sprintf("%s %q", verb, k), berrors.ErrDatabaseNotOpen)
	}
	select {
	case <-o.done: // the committer finishes what it has taken, also when s closes
	case <-ctx.Done():
		return ctx.Err()
	}
	if o.err != nil {
		return s.explain(fmt.Sprintf("%s %q", verb, k), o.err)
	}
	return o.refused
}

// commitAll is the committer: it takes whatever waits into one transaction.
func (s *Store) commitAll() {
	for {
		var batch []*op
		select {
		case o := <-s.ops:
			batch = s.gather(o)
		case <-s.quit:
			return
		}
		for len(batch) > 0 {
			failed, err := s.commit(batch)
			if failed != nil { // one op's error is not the others'
				failed.err = err
				close(failed.done)
				batch = slices.DeleteFunc(batch, func(o *op) bool { return o == failed })
				continue
			}
			for _, o := range batch {
				o.err = err
				close(o.done)
			}
			break
		}
	}
}

// gather returns first and all that wait behind it, within bounds.
func (s *Store) gather(first *op) []*op {
	batch, size := []*op{first}, first.size
	for len(batch) < batchOps && size < batchBytes {
		select {
		case o := <-s.ops:
			batch, size = append(batch, o), size+o.size
		default:
			return batch
		}
	}
	return batch
}

// commit runs a batch in one transaction. Where that is undone because of one op, it
// returns which.
func (s *Store) commit(batch []*op) (failed *op, err error) {
	if broken := s.broken.Load(); broken != nil {
		return nil, *broken
	}
	err = guard(func() error {
		// Not db.Update: after a panic that rolls back, and to do so reads the whole
		// file in a goroutine of its own, where no panic can be caught.
		t, err := s.db.Begin(true)
		if err != nil {
			return err
		}
		if failed, err = apply(t, batch); err != nil {
			return errors.Join(err, t.Rollback())
		}
		if err := t.Commit(); err != nil {
			return writeError{err}
		}
		return nil
	})
	if errors.As(err, new(fault)) {
		// bbolt's state in memory is unknown now, and it may hold its locks.
		s.broken.Store(&err)
	}
	return failed, err
}

// apply runs the ops of batch in t, and returns the one that brought an error.
func apply(t *bolt.Tx, batch []*op) (failed *op, err error) {
	x, err := newTx(t)
	if err != nil {
		return nil, err
	}
	before := x.tally
	for _, o := range batch {
		if o.refused, err = o.do(x); err != nil {
			return o, err
		}
	}
	if x.tally == before {
		return nil, nil
	}
	return nil, x.about.Put(tallyKey, x.tally.encode())
}

// sweepAll removes what has expired, at once and then now and then.
func (s *Store) sweepAll() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		// An error is not lost: who uses a damaged file is told, and on a full disk the
		// next sweep tries again.
		_ = s.sweep(sweepBatch)
		select {
		case <-tick.C:
		case <-s.quit:
			return
		}
	}
}

// sweep removes what has expired, at most limit entries in a transaction, so that
// other writes get between. Nothing is written where nothing has expired.
func (s *Store) sweep(limit int) error {
	ctx, k := context.Background(), cache.Name("sweep")
	more := false
	err := s.view(ctx, "look for what has expired in", k, func(x *tx) (refused, err error) {
		more = len(x.expired(1)) > 0
		return nil, nil
	})
	for more && err == nil {
		err = s.write(ctx, "sweep", k, 0, func(x *tx) (refused, err error) {
			more, err = x.sweep(limit)
			return nil, err
		})
	}
	return err
}
