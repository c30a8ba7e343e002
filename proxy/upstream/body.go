package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// leastPace is how many bytes a body must bring in the idle timeout, 1 kB/s at its
// default. A modem is faster, and sixteen layers that share a line of 1 Mbit/s are seven
// times as fast; who sends a byte now and then would else hold a pull's place for ever.
const leastPace = 64 << 10

// send is one round trip. The answer's body has the idle timeout.
func (r *Registry) send(ctx context.Context, req *http.Request) (*http.Response, error) {
	if _, err := r.Base(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	b := &idleBody{idle: orDefault(r.IdleTimeout, 60*time.Second), cancel: cancel, ctx: ctx}
	header := orDefault(r.HeaderTimeout, 30*time.Second)
	b.timer = time.AfterFunc(header, func() { cancel(&stalled{what: "no answer", after: header}) })
	resp, err := r.transport.RoundTrip(req.WithContext(ctx))
	stopped := b.timer.Stop()
	if err != nil {
		cancel(nil)
		return nil, b.reason(err)
	}
	if !stopped {
		resp.Body.Close()
		return nil, b.reason(context.Canceled)
	}
	b.timer = time.AfterFunc(b.idle, func() { cancel(&stalled{what: "no byte", after: b.idle}) })
	b.timer.Stop()
	b.ReadCloser, resp.Body = resp.Body, b
	if resp.Request == nil {
		resp.Request = req
	}
	return resp, nil
}

// An idleBody is a body that must keep a least pace: leastPace in each idle timeout that
// its reader has waited for it.
type idleBody struct {
	io.ReadCloser
	idle   time.Duration
	waited time.Duration // since leastPace was last reached
	got    int           // bytes since then
	timer  *time.Timer
	ctx    context.Context //nolint:containedctx // the request's own, for the cause of its end
	cancel context.CancelCauseFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	began := time.Now()
	b.timer.Reset(max(b.idle-b.waited, time.Millisecond))
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	b.waited += time.Since(began)
	b.got += n
	if err != nil && err != io.EOF {
		err = b.reason(err)
	}
	if b.got >= leastPace {
		b.waited, b.got = 0, 0
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	b.cancel(nil)
	return b.ReadCloser.Close()
}

// reason returns why the request ended: the timeout that we set, or err.
func (b *idleBody) reason(err error) error {
	var s *stalled
	switch {
	case !errors.As(context.Cause(b.ctx), &s):
		return err
	case b.got > 0:
		return &stalled{what: fmt.Sprintf("only %d bytes", b.got), after: s.after}
	}
	return s
}

// stalled is the error for a registry that is silent, or next to.
type stalled struct {
	what  string
	after time.Duration
}

func (s *stalled) Error() string { return fmt.Sprintf("%s in %v", s.what, s.after) }
func (s *stalled) Timeout() bool { return true }

// drain reads what little is left of a body that nobody needs and closes it, so that
// its connection can be used again.
func drain(resp *http.Response) {
	readBriefly(resp, 4<<10)
	resp.Body.Close()
}

// readBriefly returns at most n bytes of a body, those that come within 2 s.
func readBriefly(resp *http.Response, n int64) []byte {
	t := time.AfterFunc(2*time.Second, func() { resp.Body.Close() })
	defer t.Stop()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, n))
	return b
}
