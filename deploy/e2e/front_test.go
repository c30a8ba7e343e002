//go:build e2e

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A front stands before docker-registry as cgr.dev stands before its own: it demands a
// token for each repository, gives one to whoever knows the pull token, and sends who
// asks for a blob to another host. It counts what it is asked.
type front struct {
	back  *url.URL
	host  string // of the registry
	blobs string // host of its blobs

	mu       sync.Mutex          // guards everything below
	accounts map[string]string   // user name → password
	tokens   map[string]string   // token → repository
	tickets  map[string]struct{} // for blobs
	calls    []call
	leaks    int // requests to the blob host with an Authorization header
	limit    *rate.Limiter
}

// A call is one request that the registry or its blob host was to answer, refused
// ones and those for tokens left out.
type call struct {
	kind string // manifests, blobs, tags, referrers
	path string
}

// newFront starts the front of a number, with a certificate from the tests' authority.
func newFront(t *testing.T, ca *authority, back string, n int) *front {
	t.Helper()
	f := &front{tokens: map[string]string{}, tickets: map[string]struct{}{}, limit: rate.NewLimiter(rate.Inf, 1<<20)}
	f.host, f.blobs = frontHosts(n)
	hostIP, blobsIP := frontAddrs(n)
	var err error
	if f.back, err = url.Parse(back); err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(f.back); r.Out.Header.Del("Authorization") },
		ErrorLog: log.New(io.Discard, "", 0),
	}
	serve := func(addr string, h http.HandlerFunc) {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: h, TLSConfig: ca.config(t, f.host, f.blobs), ErrorLog: log.New(io.Discard, "", 0)}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.ServeTLS(l, "", "") }()
		t.Cleanup(func() { srv.Close(); <-done })
	}
	serve(hostIP+":443", func(w http.ResponseWriter, r *http.Request) { f.registry(w, r, proxy) })
	serve(blobsIP+":443", func(w http.ResponseWriter, r *http.Request) { f.blob(w, r, proxy) })
	return f
}

func secret() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// newToken makes the only pull token that is good from now on.
func (f *front) newToken() (username, password string) {
	username, password = proxytest.PullToken(time.Now().Add(20 * 24 * time.Hour))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accounts = map[string]string{username: password}
	clear(f.tokens)
	return username, password
}

// addToken makes one more pull token that is good.
func (f *front) addToken() (username, password string) {
	username, password = proxytest.PullToken(time.Now().Add(20 * 24 * time.Hour))
	f.mu.Lock()
	defer f.mu.Unlock()
	f.accounts[username] = password
	return username, password
}

// revoke makes a pull token useless, and every token that was given for any.
func (f *front) revoke(username string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.accounts, username)
	clear(f.tokens)
}

func (f *front) registry(w http.ResponseWriter, r *http.Request, proxy http.Handler) {
	if r.URL.Path == "/token" {
		f.giveToken(w, r)
		return
	}
	repo, kind := split(r.URL.Path)
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	f.mu.Lock()
	granted, known := f.tokens[token]
	f.mu.Unlock()
	switch {
	case !known:
		challenge := `Bearer realm="https://` + f.host + `/token",service="` + f.host + `"`
		if repo != "" {
			challenge += `,scope="repository:` + repo + `:pull"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	case repo != "" && granted != repo:
		refuse(w, http.StatusForbidden, "DENIED", "a token for "+granted+" is not good for "+repo)
	case kind == "blobs":
		f.note(call{kind, r.URL.Path})
		ticket := secret()
		f.mu.Lock()
		f.tickets[ticket] = struct{}{}
		f.mu.Unlock()
		http.Redirect(w, r, "https://"+f.blobs+r.URL.Path+"?ticket="+ticket, http.StatusTemporaryRedirect)
	default:
		f.note(call{kind, r.URL.Path})
		proxy.ServeHTTP(w, r)
	}
}

// blob serves whoever has a ticket, at the speed of the day.
func (f *front) blob(w http.ResponseWriter, r *http.Request, proxy http.Handler) {
	f.mu.Lock()
	_, ok := f.tickets[r.URL.Query().Get("ticket")]
	if r.Header.Get("Authorization") != "" {
		f.leaks++
	}
	limit := f.limit
	f.mu.Unlock()
	if !ok {
		http.Error(w, "no ticket", http.StatusForbidden)
		return
	}
	proxy.ServeHTTP(&slowWriter{w, r.Context(), limit}, r)
}

// slowly lets an image's blobs together take five seconds, so that its manifest is
// answered before the scan has ended, or ten, so that a config's headers are too, until
// the function that it returns is called.
func (f *front) slowly(i *image, m moment) (end func()) {
	seconds := int64(5)
	if m == late {
		seconds = 10
	}
	f.slow(int(i.size / seconds))
	return func() { f.slow(0) }
}

// slow limits what all blobs together get, in bytes a second; 0 is no limit.
func (f *front) slow(perSecond int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if perSecond == 0 {
		f.limit = rate.NewLimiter(rate.Inf, 1<<20)
		return
	}
	f.limit = rate.NewLimiter(rate.Limit(perSecond), 64<<10)
}

type slowWriter struct {
	http.ResponseWriter
	ctx   context.Context
	limit *rate.Limiter
}

func (w *slowWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		piece := b[:min(len(b), 32<<10)]
		if err := w.limit.WaitN(w.ctx, len(piece)); err != nil {
			return n, err
		}
		m, err := w.ResponseWriter.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

func (f *front) giveToken(w http.ResponseWriter, r *http.Request) {
	username, password, _ := r.BasicAuth()
	f.mu.Lock()
	defer f.mu.Unlock()
	if want, ok := f.accounts[username]; !ok || want != password {
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "the pull token is not known")
		return
	}
	repo := strings.TrimSuffix(strings.TrimPrefix(r.URL.Query().Get("scope"), "repository:"), ":pull")
	token := secret()
	f.tokens[token] = repo
	fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
}

// split takes a path apart: /v2/REPOSITORY/KIND/….
func split(path string) (repo, kind string) {
	rest := strings.TrimPrefix(path, "/v2/")
	for _, kind := range []string{"manifests", "blobs", "tags", "referrers"} {
		if i := strings.LastIndex(rest, "/"+kind+"/"); i > 0 {
			return rest[:i], kind
		}
	}
	return "", ""
}

func (f *front) note(c call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, c)
}

// mark is a place in the list of calls.
func (f *front) mark() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

// since returns the calls after a mark, of some kinds or of all.
func (f *front) since(mark int, kinds ...string) (calls []call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls[mark:] {
		if len(kinds) == 0 || strings.Contains(strings.Join(kinds, " "), c.kind) {
			calls = append(calls, c)
		}
	}
	return calls
}

// leaked returns how often the blob host saw a token that was not meant for it.
func (f *front) leaked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leaks
}

// twice returns the paths that were asked for more than once since a mark.
func (f *front) twice(mark int, kind string) (paths []string) {
	times := map[string]int{}
	for _, c := range f.since(mark, kind) {
		times[c.path]++
	}
	for path := range maps.Keys(times) {
		if times[path] > 1 {
			paths = append(paths, fmt.Sprintf("%s: %d times", path, times[path]))
		}
	}
	return paths
}

// A trap is where cgr.dev leads those who go past the gateway.
type trap struct {
	mu    sync.Mutex // guards count
	count int
}

// newTrap listens where a client would look for the registry itself.
func newTrap(t *testing.T) *trap {
	t.Helper()
	p := &trap{}
	for _, port := range []string{"443", "80"} {
		l, err := net.Listen("tcp", trapIP+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Close()
				p.mu.Lock()
				p.count++
				p.mu.Unlock()
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	return p
}

// knocked returns how often someone came past the gateway.
func (p *trap) knocked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
