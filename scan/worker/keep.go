package worker

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// keepEvery is how soon a process is tried again that could not be started, or that ended
// before it was warm. One that can't work costs two seconds of a processor each time.
const keepEvery = 30 * time.Second

// Keep keeps the pool's processes up until ctx ends. Those that end after they were warm
// are replaced at once, with or without it; it sees to all others.
func (p *Pool) Keep(ctx context.Context) {
	t := time.NewTicker(cmp.Or(p.every, keepEvery))
	defer t.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for i := range p.size() {
			_, err := p.process(i)
			if errors.Is(err, errClosed) {
				return
			}
			if err != nil && err.Error() != said {
				said = err.Error()
				p.log().Error("a worker process can't be started; it is tried again", "error", err)
			}
		}
	}
}

// Warm returns how many processes can be asked now and, where none can, since when. That
// is zero where none ever could.
func (p *Pool) Warm() (n int, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.warmLocked(), p.cold
}

func (p *Pool) warmLocked() (n int) {
	for _, pr := range p.slots {
		if pr == nil || pr.reason() != nil {
			continue
		}
		select {
		case <-pr.warm:
			n++
		default:
		}
	}
	return n
}
