package main

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// drainQuiet is how long no request may have been open before a gateway that is to
// stop closes its door. A pull is many requests, each begun when an earlier one has
// ended: closing the door with the first gap would cut it in its middle. Clients leave
// gaps of milliseconds, and some sleep a second before they try again.
const drainQuiet = 2 * time.Second

// traffic knows whether anyone is being served. The zero value is ready.
type traffic struct {
	mu   sync.Mutex // guards open and last
	open int
	last time.Time // when a request ended
}

// count lets the traffic know of the requests to next.
func (t *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.note(1)
		defer t.note(-1)
		next.ServeHTTP(w, r)
	})
}

func (t *traffic) note(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open += n
	t.last = time.Now()
}

// left returns how long it takes at least until the traffic is quiet; 0 if it is.
func (t *traffic) left() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open > 0 {
		return drainQuiet
	}
	return max(0, drainQuiet-time.Since(t.last))
}

// quiet waits until the traffic is, or ctx ends.
func (t *traffic) quiet(ctx context.Context) {
	for left := t.left(); left > 0; left = t.left() {
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
