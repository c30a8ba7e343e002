package scan

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/opencontainers/go-digest"
)

// flights lets those who ask for the same digest at a time share one answer. The work
// runs in a context of its own, which ends when the last of them has left.
type flights struct {
	mu sync.Mutex // guards the map and the users of each flight
	at map[digest.Digest]*flight
	wg sync.WaitGroup
}

type flight struct {
	users   int
	cancel  context.CancelFunc
	done    chan struct{} // closed when verdict and err are set
	verdict *Verdict
	err     error
}

func (f *flights) do(ctx context.Context, d digest.Digest, work func(context.Context) (*Verdict, error)) (*Verdict, error) {
	f.mu.Lock()
	fl, ok := f.at[d]
	if !ok {
		fl = f.begin(ctx, d, work)
	}
	fl.users++
	f.mu.Unlock()

	select {
	case <-fl.done:
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.users--
	if fl.users == 0 {
		fl.cancel()
		if f.at[d] == fl { // nobody may join one that was given up
			delete(f.at, d)
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return fl.verdict, fl.err
}

// begin starts a flight. f.mu is held.
func (f *flights) begin(ctx context.Context, d digest.Digest, work func(context.Context) (*Verdict, error)) *flight {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight{cancel: cancel, done: make(chan struct{})}
	if f.at == nil {
		f.at = map[digest.Digest]*flight{}
	}
	f.at[d] = fl
	f.wg.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				fl.verdict, fl.err = nil, fmt.Errorf("panic while an image was matched: %v\n%s", r, debug.Stack())
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.at[d] == fl {
				delete(f.at, d)
			}
			close(fl.done)
		}()
		fl.verdict, fl.err = work(ctx)
	})
	return fl
}

func (f *flights) wait() { f.wg.Wait() }
