package proxy

import (
	"context"
	"errors"
	"net/http"

	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/limit"
)

// Settings are what may change while a gateway runs. A request keeps to those that it began
// with as far as its caller and its limits go; what it asks of an upstream is asked of the
// one that is in force.
type Settings struct {
	Upstreams []Upstream // the first is the default
	Auth      *auth.Authenticator
	Access    []AccessRule // none: every caller may see every repository
	Limits    *limit.Guard // nil: none
}

// Change puts s in force. A pull that is under way goes on with the registry that it began
// with. It may be called once Start has returned.
func (g *Gateway) Change(s Settings) error {
	if len(s.Upstreams) == 0 {
		return errNoUpstream
	}
	g.settings.Store(&s)
	return nil
}

var errNoUpstream = errors.New("no upstream registry is configured")

// Settings returns those that are in force, for Change.
func (g *Gateway) Settings() Settings { return *g.live() }

// live returns the settings that are in force.
func (g *Gateway) live() *Settings {
	if s := g.settings.Load(); s != nil {
		return s
	}
	return &Settings{g.Upstreams, g.Auth, g.Access, g.Limits}
}

// Admit returns who makes a request, and takes a place for it, which is given back by leave.
// The error is an *Error.
func (g *Gateway) Admit(r *http.Request) (caller auth.Caller, leave func(), err error) {
	return g.admitTo(r, nil)
}

func (g *Gateway) admitTo(r *http.Request, rt *route) (auth.Caller, func(), error) {
	s := g.live()
	caller, err := s.Auth.Caller(r)
	if err != nil {
		return caller, nil, g.unauthorized(err, rt)
	}
	leave, err := g.enter(r.Context(), caller)
	return caller, leave, err
}

// enter takes a place for a caller. The error is an *Error, or that of ctx.
func (g *Gateway) enter(ctx context.Context, caller auth.Caller) (leave func(), err error) {
	leave, err = g.live().Limits.Enter(ctx, caller.Party())
	var many *limit.TooManyError
	if errors.As(err, &many) {
		g.Metrics.limited.Inc()
		err = &Error{Status: http.StatusTooManyRequests, Code: codeTooMany, RetryAfter: many.RetryAfter, Message: many.What + "; try again later", cause: err}
	}
	return leave, err
}

// pacer returns what paces the bytes that are sent to a caller.
func (g *Gateway) pacer(caller auth.Caller) *limit.Pacer {
	return g.live().Limits.Pacer(caller.Party())
}

// pace is a Pacer for one response.
type pace struct {
	ctx   context.Context //nolint:containedctx // of the one request that it lives in
	pacer *limit.Pacer
}

// piece returns how many of n bytes are to be sent next; 0, once the client is gone.
func (p pace) piece(n int64) (int64, error) {
	if p.pacer == nil {
		return n, nil
	}
	return p.pacer.Piece(p.ctx, n)
}
