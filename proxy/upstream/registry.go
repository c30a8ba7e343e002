package upstream

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	_ "crypto/sha256" // the digest algorithms that registries use
	_ "crypto/sha512"

	"golang.org/x/time/rate"
)

// A Registry is a registry that is read from. The fields are its configuration and
// may not change once a method was called; only Name is required. All methods may
// be called concurrently. A Registry must not be copied; see With.
type Registry struct {
	// Name is the registry's host as image references spell it: cgr.dev.
	Name string
	// URL is where it is asked. Default "", which is https://NAME. Everything is
	// read over http where it says http://, credentials included.
	URL string
	// Credentials returns what to identify with, at every request, so that a changed
	// pull token is used at once; it should be quick. Zero credentials, or a nil
	// func, are anonymous.
	Credentials func(context.Context) (Credentials, error)
	// Refused, if not nil, is told of credentials that the token endpoint, or with Basic the
	// registry, has refused, by 401 or else 403. It reports whether Credentials returns others
	// now, with which the request is made once more. try asks for the same with others, and
	// returns nil where these are good for it.
	Refused func(ctx context.Context, c Credentials, unauthorized bool, try func(context.Context, Credentials) error) bool
	// RealmHosts are hosts ("auth.example.com" or "auth.example.com:8443"), beside the
	// registry's own, whose token endpoint may be given the credentials.
	RealmHosts []string
	// RedirectHosts are hosts, spelt likewise, that the registry may redirect to wherever
	// they lie. Others may lie no nearer to this program than the registry does: one that
	// is public can't send it into a private network, and none to a metadata service.
	RedirectHosts []string
	// RootCAs are the authorities that certificates may come from. Default nil, the
	// system's. Ignored where Transport is set.
	RootCAs *x509.CertPool
	// Transport sends single requests. Default nil: NewTransport(RootCAs). Any other does
	// not tell what names resolve to: only addresses in URLs are held against RedirectHosts.
	Transport http.RoundTripper
	// HeaderTimeout bounds the wait for an answer's headers. Default 0, 30 s.
	HeaderTimeout time.Duration
	// IdleTimeout bounds the wait for the next bytes of a body. Default 0, 60 s.
	IdleTimeout time.Duration
	// Observe, if not nil, is told of each request: what it was for (ping, token, manifest,
	// blob, tags, referrers, history), the answer's status, 0 for none, and how long its
	// headers took. It must not block.
	Observe func(op string, status int, took time.Duration)
	// Limit is how often the registry is asked; what comes too early waits. Default nil, as
	// often as need be.
	Limit *rate.Limiter
	// UserAgent names this program to the registry. Default "", "sluice".
	UserAgent string
	// Log gets what was overcome and so is not returned: resumed bodies, tokens asked
	// for without credentials. Default nil, nothing.
	Log *slog.Logger

	// Backoff is the wait before the first repetition of a request, doubled for each
	// further one, with jitter. Default 0, 100 ms.
	Backoff time.Duration

	setup     sync.Once // guards base, baseErr, transport
	base      *url.URL
	baseErr   error
	transport http.RoundTripper

	challenge atomic.Pointer[challenge] // the last one that the registry gave
	tokens    tokens
	pauses    pauses
	warnOnce  sync.Once    // for a token endpoint that isn't listed
	distance  atomic.Int32 // of the registry's own address when it was last connected to; a distance
}

// With returns a Registry with r's configuration and the given credentials, which
// shares nothing else with r: no kept token, no remembered refusal.
func (r *Registry) With(c Credentials) *Registry {
	n := &Registry{
		Name: r.Name, URL: r.URL, RealmHosts: r.RealmHosts, RedirectHosts: r.RedirectHosts, RootCAs: r.RootCAs, Transport: r.Transport,
		HeaderTimeout: r.HeaderTimeout, IdleTimeout: r.IdleTimeout, UserAgent: r.UserAgent, Log: r.Log, Backoff: r.Backoff, Limit: r.Limit,
	}
	n.Credentials = func(context.Context) (Credentials, error) { return c, nil }
	return n
}

// Base returns the address that the registry is asked at, without a final slash.
func (r *Registry) Base() (*url.URL, error) {
	r.setup.Do(func() {
		r.base, r.baseErr = parseBase(r.Name, r.URL)
		r.transport = r.Transport
		if r.transport == nil {
			r.transport = NewTransport(r.RootCAs)
		}
	})
	if r.baseErr != nil {
		return nil, r.baseErr
	}
	u := *r.base
	return &u, nil
}

func parseBase(name, raw string) (*url.URL, error) {
	if raw == "" {
		raw = "https://" + name
		if name == "docker.io" { // its registry has always lived elsewhere
			raw = "https://registry-1.docker.io"
		}
	}
	u, err := url.Parse(raw)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("upstream %s: its url is not of the form https://HOST", name)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %s: its url holds a user, a query or a fragment; leave only https://HOST (credentials: sluice connection set)", name)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

func (r *Registry) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

func (r *Registry) credentials(ctx context.Context) (Credentials, error) {
	if r.Credentials == nil {
		return Credentials{}, nil
	}
	c, err := r.Credentials(ctx)
	if err != nil {
		return Credentials{}, fmt.Errorf("credentials for %s: %w", r.Name, err)
	}
	return c, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// sameOrigin reports whether two URLs have the same scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && hostPort(a) == hostPort(b)
}

// hostPort returns u's host and port in one spelling, the scheme's default port included.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), port)
}
