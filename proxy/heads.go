package proxy

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

const (
	// maxHeads bounds the HEADs that ask upstream for something at once: enough for a
	// fleet of nodes, few enough that bots that resolve thousands of tags take neither all
	// connections nor upstream's patience from pulls.
	maxHeads = 64
	// maxHeadsEach bounds those of one caller at one address.
	maxHeadsEach = maxHeads / 4
	// headPatience is how long a HEAD waits for a place when what is remembered would do.
	headPatience = time.Second
)

// heads hands out the places of the HEADs that ask upstream for something. A place that
// gets free goes to whoever has the fewest, and among those to who has waited longest. The
// zero value is ready.
type heads struct {
	mu      sync.Mutex     // guards what follows; nobody waits who could have a place
	taken   map[string]int // by asker; none is zero
	total   int            // the sum of taken
	waiting []*place
}

// A place is that of one request, which has it from the first take until leave. One that
// is nil is for requests that need none. It is not for concurrent use.
type place struct {
	heads *heads
	asker string
	had   bool
	given chan struct{} // closed when it may be had
}

// take waits until the place is had, at most so long. waited says that it was not had at
// once, so that what was remembered before may be out of date.
func (p *place) take(ctx context.Context, patience time.Duration) (waited bool, err error) {
	if p == nil || p.had {
		return false, nil
	}
	if p.had = p.heads.enter(p); p.had {
		return false, nil
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.given:
		p.had = true
		return true, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-t.C:
		err = context.DeadlineExceeded
	}
	p.heads.withdraw(p)
	return true, &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 5 * time.Second, cause: err,
		Message: fmt.Sprintf("this gateway asks the upstream registry for no more than %d HEAD requests at once, and for %d of one client; this one's turn did not come in time; try again", maxHeads, maxHeadsEach)}
}

// leave gives the place back, if it was had.
func (p *place) leave() {
	if p == nil || !p.had {
		return
	}
	p.had = false
	p.heads.mu.Lock()
	defer p.heads.mu.Unlock()
	p.heads.free(p)
}

// enter gives p its place, or has it wait.
func (h *heads) enter(p *place) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.total < maxHeads && h.taken[p.asker] < maxHeadsEach {
		h.give(p)
		return true
	}
	p.given = make(chan struct{})
	h.waiting = append(h.waiting, p)
	return false
}

// withdraw ends the wait of p.
func (h *heads) withdraw(p *place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.waiting, p); i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
		return
	}
	h.free(p) // it was given just now
}

// give and free are called with mu held.
func (h *heads) give(p *place) {
	if h.taken == nil {
		h.taken = map[string]int{}
	}
	h.taken[p.asker]++
	h.total++
}

func (h *heads) free(p *place) {
	h.total--
	if h.taken[p.asker]--; h.taken[p.asker] == 0 {
		delete(h.taken, p.asker)
	}
	next := -1
	for i, w := range h.waiting {
		if n := h.taken[w.asker]; n < maxHeadsEach && (next < 0 || n < h.taken[h.waiting[next].asker]) {
			next = i
		}
	}
	if next < 0 {
		return
	}
	w := h.waiting[next]
	h.waiting = slices.Delete(h.waiting, next, next+1)
	h.give(w)
	close(w.given)
}
