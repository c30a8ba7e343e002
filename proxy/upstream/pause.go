package upstream

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// mostPause is the longest that a registry is left alone without having been asked again:
// no header of a stranger's may silence an upstream for long.
const mostPause = time.Minute

// pauses are the requests that a registry has had enough of (429 with Retry-After), by
// operation and method: Docker's counts manifests that are fetched, and neither HEAD nor
// blobs. The zero value is empty.
type pauses struct {
	mu   sync.Mutex // guards kept, which has as many keys as there are operations
	kept map[string]pause
}

type pause struct {
	until  time.Time
	answer Error
}

// note remembers err if it asks for a pause.
func (p *pauses) note(c call, err error) {
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusTooManyRequests || e.RetryAfter == 0 || e.elsewhere || e.Op != c.op {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == nil {
		p.kept = map[string]pause{}
	}
	p.kept[c.op+" "+c.method] = pause{time.Now().Add(min(e.RetryAfter, mostPause)), *e}
}

// check returns the answer of before while the registry wants to be left alone.
func (p *pauses) check(c call) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	k, ok := p.kept[c.op+" "+c.method]
	left := time.Until(k.until)
	if !ok || left <= 0 {
		return nil
	}
	e := k.answer
	e.URL, e.Message = "", "" // of another's request, for another repository perhaps
	e.RetryAfter = max(left, e.RetryAfter-mostPause)
	return &e
}
