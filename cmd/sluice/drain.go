package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// drainQuiet is how long no pull that was under way may have asked for anything before
// a gateway that is to stop closes its door. A pull is many requests, each begun when an
// earlier one has ended: closing the door with the first gap would cut it in its middle.
// Clients leave gaps of milliseconds, and some sleep a second before they try again.
const drainQuiet = 2 * time.Second

// maxVisitors bounds the clients that are remembered; one that finds no place is not
// waited for beyond its open responses.
const maxVisitors = 4096

// traffic knows who is being served. Once it drains, only the responses that were open
// are waited for, and the blobs that their clients go on to fetch: not who knocks since,
// be it a balancer's probe or a pull that begins. The zero value is ready.
type traffic struct {
	mu       sync.Mutex // guards what follows
	open     int        // responses that are waited for
	last     time.Time  // when one of them ended
	visitors map[string]*visitor
	draining bool
}

// A visitor is a client's address.
type visitor struct {
	open int
	last time.Time // when it was last served
}

// count lets the traffic know of the requests to next. While it drains, clients are told
// to go elsewhere with their next request.
func (t *traffic) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		end, draining := t.begin(r)
		defer end()
		if draining {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// begin notes a request. The caller calls end.
func (t *traffic) begin(r *http.Request) (end func(), draining bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.visitor(clientOf(r))
	if t.draining && (v == nil || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/")) {
		return func() {}, true
	}
	t.open++
	if v != nil {
		v.open++
	}
	return func() { t.end(v) }, t.draining
}

func (t *traffic) end(v *visitor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
	t.last = time.Now()
	if v != nil {
		v.open--
		v.last = t.last
	}
}

// visitor returns the one of that address, nil for one who came too late, or found no
// place. t.mu is held.
func (t *traffic) visitor(address string) *visitor {
	v := t.visitors[address]
	if v != nil || t.draining {
		return v
	}
	if len(t.visitors) >= maxVisitors {
		t.forget()
	}
	if len(t.visitors) >= maxVisitors {
		return nil
	}
	if t.visitors == nil {
		t.visitors = map[string]*visitor{}
	}
	v = &visitor{}
	t.visitors[address] = v
	return v
}

// forget drops the visitors who have gone. t.mu is held.
func (t *traffic) forget() {
	for address, v := range t.visitors {
		if v.open == 0 && time.Since(v.last) >= drainQuiet {
			delete(t.visitors, address)
		}
	}
}

func clientOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

// left returns how long it takes at least until nobody is waited for; 0 if it is so.
func (t *traffic) left() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open > 0 {
		return drainQuiet
	}
	return max(0, drainQuiet-time.Since(t.last))
}

// drain waits until those are served who were being served when it was called, or ctx
// ends.
func (t *traffic) drain(ctx context.Context) {
	t.mu.Lock()
	t.forget()
	t.draining = true
	t.mu.Unlock()
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
