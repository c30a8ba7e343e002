package proxytest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Origin configures a registry. The zero value is one on plain HTTP that anybody
// may read and write, as fast as the machine allows.
type Origin struct {
	// Addr is where the registry listens, "127.0.0.1:0" where it is empty. The blob
	// host takes a free port of 127.0.0.1.
	Addr string

	// Username and Password are the pull token. Where both are empty no request
	// needs a token. See Server.SetCredentials for more than one.
	Username, Password string
	// Public names the repositories for which /token gives anybody a token to pull.
	// Where it is nil there are none. Used only with credentials.
	Public func(repository string) bool
	// Entitled names the repositories that the pull token may use; for others /token
	// answers 403. Where it is nil it may use all.
	Entitled func(repository string) bool
	// TokenTTL is how long a token from /token is good for, 5 minutes where it is 0.
	TokenTTL time.Duration
	// Service is the challenge's service, the registry's host where it is empty.
	Service string
	// Realm is the challenge's realm, /token of the registry itself where it is empty.
	Realm string

	// BlobRedirect has a GET of a blob answered by a 307 to the blob host, with a
	// signed query that expires after RedirectTTL (10 minutes where that is 0).
	BlobRedirect bool
	RedirectTTL  time.Duration

	// Bandwidth is what all response bodies share, in bytes a second; 0 is unshaped.
	Bandwidth int64
	// Delay is the round trip that each request waits for before it is answered.
	Delay time.Duration

	// TLS serves HTTPS and HTTP/2, with a certificate that Server.Certificates trusts,
	// for 127.0.0.1, localhost and Names.
	TLS   bool
	Names []string

	// Warning is sent as the text of a Warning header (code 299) with each answer
	// about a repository; empty for none.
	Warning string
	// PageSize bounds the tags in one answer; 0 is no bound but the client's own.
	PageSize int
	// NoReferrers answers the referrers API with 404, as registries before 1.1 do.
	NoReferrers bool
}

// Server is a running origin. Its methods may be called concurrently.
type Server struct {
	origin   Origin
	registry *store
	tokens   *tokens
	link     *link
	journal  *journal
	faults   *faults

	scheme   string
	addr     string // host:port of the registry
	blobAddr string // host:port of the blob host
	signKey  []byte // of redirects
	roots    *x509.CertPool

	servers []*http.Server
	closing chan struct{} // closed by Close, ends stalls and waits

	mu      sync.Mutex // guards closed, and keeps running from growing once it is set
	closed  bool
	running sync.WaitGroup // listeners and handlers
}

// Start starts the origin and its blob host. The caller closes it.
func Start(o Origin) (*Server, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s := &Server{
		origin:   o,
		registry: newStore(),
		tokens:   newTokens(o),
		link:     &link{bandwidth: o.Bandwidth},
		journal:  newJournal(),
		faults:   &faults{},
		scheme:   "http",
		signKey:  randomBytes(32),
		closing:  make(chan struct{}),
	}
	var config *tls.Config
	if o.TLS {
		cert, roots, err := selfSigned(o.Names)
		if err != nil {
			return nil, fmt.Errorf("origin certificate: %w", err)
		}
		s.scheme, s.roots = "https", roots
		config = &tls.Config{Certificates: []tls.Certificate{cert}}
	}
	registry, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("origin on %s: %w", o.Addr, err)
	}
	blobs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		registry.Close()
		return nil, fmt.Errorf("blob host: %w", err)
	}
	s.addr = registry.Addr().String()
	_, port, err := net.SplitHostPort(blobs.Addr().String())
	if err != nil {
		return nil, errors.Join(err, registry.Close(), blobs.Close())
	}
	// The same machine under another name, so that a client sees another host.
	s.blobAddr = net.JoinHostPort("localhost", port)
	s.serve(registry, config, s.handler(s.route, s.serveRegistry))
	s.serve(blobs, config, s.handler(s.routeStorage, s.serveStorage))
	return s, nil
}

func (s *Server) serve(l net.Listener, config *tls.Config, h http.Handler) {
	srv := &http.Server{
		Handler:           h,
		TLSConfig:         config.Clone(),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	s.servers = append(s.servers, srv)
	s.running.Go(func() {
		if config != nil {
			srv.ServeTLS(l, "", "")
			return
		}
		srv.Serve(l)
	})
}

// URL returns the registry's address as a URL, without a slash at its end.
func (s *Server) URL() string { return s.scheme + "://" + s.addr }

// Host returns the registry's host and port, as it stands in an image reference.
func (s *Server) Host() string { return s.addr }

// BlobHost returns the blob host's name and port.
func (s *Server) BlobHost() string { return s.blobAddr }

// Certificates returns the pool that trusts the origin's certificate, nil without TLS.
func (s *Server) Certificates() *x509.CertPool { return s.roots }

// Transport returns a new transport that trusts the origin's certificate. The
// caller closes its idle connections.
func (s *Server) Transport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.Proxy = nil
	if s.roots != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: s.roots}
	}
	return t
}

// Close ends all connections at once and waits for their handlers.
func (s *Server) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	close(s.closing)
	var errs []error
	for _, srv := range s.servers {
		errs = append(errs, srv.Close())
	}
	s.running.Wait()
	return errors.Join(errs...)
}

// enter admits a handler, which calls s.running.Done at its end, or returns false
// when the server is closed.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.running.Add(1)
	}
	return !s.closed
}

// handler is the way of every request: journal, delay, fault, answer.
func (s *Server) handler(route func(*http.Request) Request, answer func(http.ResponseWriter, *http.Request, Request) error) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			panic(http.ErrAbortHandler)
		}
		defer s.running.Done()
		q := route(r)
		w := &lineWriter{ResponseWriter: rw, ctx: r.Context(), server: s, request: s.journal.begin(q)}
		done := false
		defer func() {
			if !done && !w.wrote { // cut off
				s.journal.answer(w.request, 0)
			}
		}()
		if s.origin.Delay > 0 && !s.wait(r.Context(), s.origin.Delay) {
			panic(http.ErrAbortHandler)
		}
		next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := answer(w, r, q); err != nil {
				writeError(w, err)
			}
		})
		if fault := s.faults.find(q); fault != nil {
			fault(w, r, next)
		} else {
			next.ServeHTTP(w, r)
		}
		done = true
		if !w.wrote {
			w.WriteHeader(http.StatusOK)
		}
	})
}

// wait blocks for d and returns false if the request or the server ended before.
func (s *Server) wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.closing:
	}
	return false
}
