// Package limit holds callers to what each may take of the gateway: requests, bytes, and
// places to be served at once.
//
//	request ──▶ a place? ── no ──▶ TooManyError, 429
//	              │ yes
//	              ▼
//	        requests a second ── a short wait, or TooManyError ──▶ served, its bytes paced
//
// # Why
//
// A request that is a little too early waits in place of being refused: containerd asks
// again at once, four times, and gives up, whatever Retry-After says. Bytes are never
// refused, only paced, since a body that is cut has to be sent again.
//
// What a caller has used is kept in memory and for a bounded number of callers. The rest,
// who can only be there when thousands are, share one measure.
package limit

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// patience is how long a request may wait for its turn.
	patience = 2 * time.Second
	// maxParties bounds the callers that are told apart.
	maxParties = 4096
	// most bytes that are sent in one go without a look at the rate: a quarter of a second's,
	// within these bounds.
	leastPiece, mostPiece = 16 << 10, 4 << 20
)

// Limits are what callers may take. Zero is no limit.
type Limits struct {
	Requests float64 // a second, of one caller
	Burst    int     // requests that may come at once; 0: two seconds' worth
	Bytes    int64   // of bodies a second, to one caller
	Open     int     // requests of one caller that are served at once
	OpenAll  int     // of all; of which one caller gets half at most
}

// A TooManyError is the error for a request past a limit: 429 with Retry-After.
type TooManyError struct {
	What       string // that there are too many of, for people
	RetryAfter time.Duration
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%s; try again in %s", e.What, e.RetryAfter.Round(time.Second))
}

// A Guard keeps to Limits. All its methods may be called concurrently; those of a nil Guard
// limit nothing.
type Guard struct {
	limits Limits

	mu      sync.Mutex // guards what follows, and parties' counts
	open    int
	parties map[string]*party // without a name
	named   map[string]*party
	swept   time.Time // when those who are gone were looked for

	rest, restNamed *party // of those who found no place
}

type party struct {
	requests, bytes *rate.Limiter // nil: no limit
	open            int
	seen            time.Time
}

// New returns a guard of l.
func New(l Limits) *Guard {
	return &Guard{limits: l, parties: map[string]*party{}, named: map[string]*party{}}
}

// Enter waits for a request's turn and takes a place for it, to be given back by leave. The
// error is a *TooManyError, or that of ctx.
func (g *Guard) Enter(ctx context.Context, name string) (leave func(), err error) {
	if g == nil || g.limits == (Limits{}) {
		return func() {}, nil
	}
	p, err := g.take(name)
	if err != nil {
		return nil, err
	}
	leave = sync.OnceFunc(func() { g.giveBack(p) })
	if err := turn(ctx, p.requests); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

func turn(ctx context.Context, l *rate.Limiter) error {
	if l == nil {
		return nil
	}
	r := l.Reserve()
	wait := r.Delay()
	if wait == 0 {
		return nil
	}
	if wait > patience {
		r.Cancel()
		return &TooManyError{"you send more requests than this gateway takes of one caller", max(time.Second, wait-patience)}
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		r.Cancel()
		return ctx.Err()
	}
}

func (g *Guard) take(name string) (*party, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.party(name)
	l := g.limits
	switch {
	case l.Open > 0 && p.open >= l.Open, l.OpenAll > 0 && p.open >= max(1, l.OpenAll/2):
		return nil, &TooManyError{"you have more requests open than this gateway serves of one caller at once", time.Second}
	case l.OpenAll > 0 && g.open >= l.OpenAll:
		return nil, &TooManyError{"this gateway serves as many requests as it can", 2 * time.Second}
	}
	p.open++
	g.open++
	p.seen = time.Now()
	return p, nil
}

func (g *Guard) giveBack(p *party) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.open--
	g.open--
	p.seen = time.Now()
}

// party returns the one of that name. g.mu is held.
// Newcomers that find no place share one, those with a name and those without apart: so
// strangers from many addresses can't crowd out those who are known.
func (g *Guard) party(name string) *party {
	parties, rest := g.named, &g.restNamed
	if strings.HasPrefix(name, "address ") {
		parties, rest = g.parties, &g.rest
	}
	if p := parties[name]; p != nil {
		return p
	}
	if len(parties) >= maxParties && time.Since(g.swept) > time.Second {
		g.swept = time.Now()
		for n, p := range parties { // whose burst is whole again
			if p.open == 0 && time.Since(p.seen) > time.Minute {
				delete(parties, n)
			}
		}
	}
	if len(parties) < maxParties {
		p := g.newParty()
		parties[name] = p
		return p
	}
	if *rest == nil {
		*rest = g.newParty()
	}
	return *rest
}

func (g *Guard) newParty() *party {
	p, l := &party{seen: time.Now()}, g.limits
	if l.Requests > 0 {
		burst := l.Burst
		if burst == 0 {
			burst = max(1, int(2*l.Requests))
		}
		p.requests = rate.NewLimiter(rate.Limit(l.Requests), burst)
	}
	if l.Bytes > 0 {
		p.bytes = rate.NewLimiter(rate.Limit(l.Bytes), g.piece())
	}
	return p
}

// piece is how many bytes may be sent at once.
func (g *Guard) piece() int {
	return int(min(max(g.limits.Bytes/4, leastPiece), mostPiece))
}

// A Pacer keeps the bytes that are sent to one caller to the rate.
type Pacer struct {
	limiter *rate.Limiter
	piece   int64
}

// Pacer returns the pacer of a caller, nil where bytes aren't limited.
func (g *Guard) Pacer(name string) *Pacer {
	if g == nil || g.limits.Bytes == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return &Pacer{g.party(name).bytes, int64(g.piece())}
}

// Piece returns how many of n bytes may be sent next, once their time has come. A nil Pacer
// returns n. The error is that of ctx.
func (p *Pacer) Piece(ctx context.Context, n int64) (int64, error) {
	if p == nil || n <= 0 {
		return n, nil
	}
	n = min(n, p.piece)
	return n, p.limiter.WaitN(ctx, int(n))
}
