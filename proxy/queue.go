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
// those that only a HEAD began come last, and take no more than a quarter of the places
// to run, never the last one, and half of those to wait. No upstream takes all the places
// where there are several, since a slow one gives them back late. Of several callers who
// wait, the one goes first of whose pulls the fewest run, so that one who asks for fifty
// images doesn't have another wait for all of them; none takes more than half of the places
// to wait.
type queue struct {
	Running int // pulls at once
	Each    int // of one upstream at once
	Waiting int // pulls that may wait

	mu      sync.Mutex // guards what follows and all tickets; one is in waiting, or running, or neither
	running int
	low     int            // of running, those that only a HEAD began
	of      map[string]int // of running, by upstream
	by      map[string]int // of running, by caller; only those above 0
	waiting []*ticket
}

type ticket struct {
	upstream string
	caller   string
	low      bool
	running  bool
	run      chan struct{} // closed when it may run
}

// enter queues a pull; wait on the ticket before running.
func (q *queue) enter(upstream, caller string, low bool) (*ticket, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := &ticket{upstream: upstream, caller: caller, low: low, run: make(chan struct{})}
	if q.free(t) {
		q.start(t)
		return t, nil
	}
	lows, own := q.count(caller)
	if len(q.waiting) >= q.Waiting || low && lows >= q.Waiting/2 || own >= max(1, q.Waiting/2) {
		return nil, errQueueFull
	}
	q.waiting = append(q.waiting, t)
	return t, nil
}

// free reports whether t may run besides those that do. It is called with mu held, as are
// start and stop.
func (q *queue) free(t *ticket) bool {
	if q.of[t.upstream] >= q.Each {
		return false
	}
	if t.low {
		return q.low < max(1, q.Running/4) && q.running < max(1, q.Running-1)
	}
	return q.running < q.Running
}

func (q *queue) start(t *ticket) {
	t.running = true
	q.running++
	if q.of == nil {
		q.of, q.by = map[string]int{}, map[string]int{}
	}
	q.of[t.upstream]++
	q.by[t.caller]++
	if t.low {
		q.low++
	}
	close(t.run)
}

func (q *queue) stop(t *ticket) {
	t.running = false
	q.running--
	q.of[t.upstream]--
	if q.by[t.caller]--; q.by[t.caller] == 0 {
		delete(q.by, t.caller)
	}
	if t.low {
		q.low--
	}
	q.fill()
}

// count counts those that wait: that only a HEAD began, and of a caller. It is called with mu
// held.
func (q *queue) count(caller string) (lows, own int) {
	for _, t := range q.waiting {
		if t.low {
			lows++
		}
		if t.caller == caller {
			own++
		}
	}
	return lows, own
}

// hurry says that somebody waits for t now.
func (q *queue) hurry(t *ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !t.low {
		return
	}
	t.low = false
	if t.running {
		q.low--
	}
	q.fill()
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
		q.stop(t)
	}
	return ctx.Err()
}

// leave ends the run of t and lets the next one go.
func (q *queue) leave(t *ticket) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stop(t)
}

// fill gives free places to those who wait. It is called with mu held.
func (q *queue) fill() {
	for _, low := range []bool{false, true} {
		for {
			i := q.next(low)
			if i < 0 {
				break
			}
			q.start(q.waiting[i])
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
	}
}

// next returns who goes next, -1 for nobody. It is called with mu held.
func (q *queue) next(low bool) int {
	best := -1
	for i, t := range q.waiting {
		if t.low == low && q.free(t) && (best < 0 || q.by[t.caller] < q.by[q.waiting[best].caller]) {
			best = i
		}
	}
	return best
}

// before returns how many came before t and are to run, false where t doesn't wait. Of other
// callers some may pass it.
func (q *queue) before(t *ticket) (n int, waits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, t)
	if i < 0 {
		return 0, false
	}
	for j, other := range q.waiting {
		if !other.low && (t.low || j < i) || other.low && t.low && j < i {
			n++
		}
	}
	return n, true
}

func (q *queue) length() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, len(q.waiting)
}
