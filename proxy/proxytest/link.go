package proxytest

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// Responses take turns on the link in chunks. A chunk is 1.3 ms at 200 Mbit/s: long
// enough that waking up for each costs little, short enough that many responses
// share fairly.
const chunk = 32 << 10

// lag is how far behind its schedule the link may fall and still catch up: what
// timers oversleep must not become lost bandwidth.
const lag = 20 * time.Millisecond

// link is the one line that all bodies pass, in the order in which they ask.
type link struct {
	bandwidth int64 // bytes a second, 0 for no bound

	mu   sync.Mutex // guards free
	free time.Time  // when the chunks that were taken will have passed
}

// take books n bytes and returns how long to wait until they have passed.
func (l *link) take(n int) time.Duration {
	if l.bandwidth <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.free) > lag { // it was idle: what was not asked for is gone
		l.free = now
	}
	l.free = l.free.Add(time.Duration(int64(n) * int64(time.Second) / l.bandwidth))
	return l.free.Sub(now)
}

// lineWriter is a response on the link. It tells the journal what it sends.
type lineWriter struct {
	http.ResponseWriter
	ctx     context.Context
	server  *Server
	request *Request
	wrote   bool // the header
}

// Unwrap serves http.ResponseController.
func (w *lineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *lineWriter) WriteHeader(status int) {
	if !w.wrote && status >= 200 {
		w.wrote = true
		w.server.journal.answer(w.request, status)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *lineWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	written := 0
	for written < len(p) {
		part := p[written:min(written+chunk, len(p))]
		// Below a millisecond a timer is no better than none: the wait is made up for
		// with a later chunk.
		if d := w.server.link.take(len(part)); d > time.Millisecond && !w.server.wait(w.ctx, d) {
			return written, http.ErrAbortHandler
		}
		w.server.journal.send(w.request, len(part))
		n, err := w.ResponseWriter.Write(part)
		written += n
		if err != nil {
			w.server.journal.send(w.request, n-len(part))
			return written, err
		}
	}
	return written, nil
}
