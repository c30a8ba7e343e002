package proxy

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// errQueueFull says that more pulls wait than the gateway is willing to hold.
var errQueueFull = errors.New("too many images wait to be scanned")

// A queue lets a bounded number of pulls run. Those that somebody waits for go first;
// those that only a HEAD began come last, and take neither the last place to run nor
// more than half of those to wait.
type queue struct {
	Running int // pulls at once
	Waiting int // pulls that may wait

	mu      sync.Mutex // guards what follows; a ticket is in waiting or was let go, never both
	running int
	waiting []*ticket
}

type ticket struct {
	low bool
	run chan struct{} // closed when it may run
}

// enter queues a pull; wait on the ticket before running.
func (q *queue) enter(low bool) (*ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &ticket{low: low, run: make(chan struct{})}
	if q.running < q.places(low) {
		q.running++
		close(t.run)
		return t, nil
	}
	if len(q.waiting) >= q.Waiting || low && q.lows() >= q.Waiting/2 {
		return nil, errQueueFull
	}
	q.waiting = append(q.waiting, t)
	return t, nil
}

// places returns how many pulls may run before a new one must wait.
func (q *queue) places(low bool) int {
	if low {
		return max(1, q.Running-1)
	}
	return q.Running
}

// lows counts those that wait and that only a HEAD began. It is called with mu held.
func (q *queue) lows() (n int) {
	for _, t := range q.waiting {
		if t.low {
			n++
		}
	}
	return n
}

// hurry says that somebody waits for t now.
func (q *queue) hurry(t *ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.low {
		t.low = false
		q.fill()
	}
}

// wait blocks until t may run; then leave must be called. On an error t is out.
func (q *queue) wait(ctx context.Context, t *ticket) error {
	select {
	case <-t.run:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, t); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else {
		q.running--
		q.fill()
	}
	return ctx.Err()
}

// leave ends a run and lets the next one go.
func (q *queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	q.fill()
}

// fill gives free places to those who wait. It is called with mu held.
func (q *queue) fill() {
	for _, low := range []bool{false, true} {
		for q.running < q.places(low) {
			i := slices.IndexFunc(q.waiting, func(t *ticket) bool { return t.low == low })
			if i < 0 {
				break
			}
			q.running++
			close(q.waiting[i].run)
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
	}
}

func (q *queue) length() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, len(q.waiting)
}
