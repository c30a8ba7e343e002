package upstream

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

const repo = "example.com/python"

var pullToken = Credentials{Username: "0123456789abcdef0123456789abcdef01234567/0123456789abcdef", Password: "marker-of-a-pull-token"}

// start starts an origin and a Registry that reads from it with the pull token.
func start(t *testing.T, o proxytest.Origin) (*proxytest.Server, *Registry) {
	t.Helper()
	s, err := proxytest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, client(t, s, Credentials{Username: o.Username, Password: o.Password})
}

// client returns another Registry that reads from s.
func client(t *testing.T, s *proxytest.Server, c Credentials) *Registry {
	t.Helper()
	r := (&Registry{
		Name: "cgr.dev", URL: s.URL(), RootCAs: s.Certificates(),
		Backoff: time.Millisecond, IdleTimeout: 5 * time.Second, HeaderTimeout: 5 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}).With(c)
	t.Cleanup(func() {
		if r.transport != nil {
			r.transport.(*spread).CloseIdleConnections()
		}
	})
	return r
}

// guarded is an origin that demands a token and redirects blobs.
var guarded = proxytest.Origin{Username: pullToken.Username, Password: pullToken.Password, BlobRedirect: true}

// content is n bytes that are the same in each run.
func content(n int) []byte {
	b := make([]byte, n)
	chacha := rand.NewChaCha8([32]byte{byte(n)})
	chacha.Read(b)
	return b
}

func putBlob(s *proxytest.Server, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: s.PutBlob(repo, b), Size: int64(len(b))}
}

const plainManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}`

func readBlob(ctx context.Context, r *Registry, desc ocispec.Descriptor) ([]byte, error) {
	body, err := r.Blob(ctx, repo, desc)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

func TestTokenPerRepository(t *testing.T) {
	s, r := start(t, guarded)
	for _, name := range []string{"a.io/x", "a.io/y"} {
		s.PutManifest(name, "latest", "", []byte(plainManifest))
	}
	for range 3 {
		for _, name := range []string{"a.io/x", "a.io/y"} {
			if _, err := r.Resolve(t.Context(), name, "latest"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := s.TokensIssued(); got != 2 {
		t.Errorf("%d tokens were issued for two repositories, want 2", got)
	}
	if got := s.Count(proxytest.Request{Status: http.StatusUnauthorized}); got != 1 {
		t.Errorf("%d requests were challenged, want only the first one", got)
	}
}

func TestTokenSingleFlight(t *testing.T) {
	s, r := start(t, guarded)
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.TokensIssued(); got != 1 {
		t.Errorf("%d tokens were issued for fifty requests at once, want 1", got)
	}
}

func TestTokenFlightOutlivesItsFirstCaller(t *testing.T) {
	s, r := start(t, guarded)
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	asked, answer := make(chan struct{}), make(chan struct{})
	s.Inject(1, proxytest.Request{Kind: proxytest.KindToken}.Matches, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		close(asked)
		<-answer
		next.ServeHTTP(w, q)
	})
	ctx, hangUp := context.WithCancel(t.Context())
	first, second := make(chan error), make(chan error)
	go func() { _, err := r.Manifest(ctx, repo, "latest"); first <- err }()
	<-asked
	go func() { _, err := r.Manifest(t.Context(), repo, "latest"); second <- err }()
	hangUp()
	if err := <-first; err == nil {
		t.Error("a cancelled call succeeded")
	}
	close(answer)
	if err := <-second; err != nil {
		t.Errorf("a caller failed because another hung up: %v", err)
	}
}

func TestTokenRenewedBeforeItsEnd(t *testing.T) {
	s, r := start(t, guarded)
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
		t.Fatal(err)
	}
	r.tokens.mu.Lock()
	for k, tok := range r.tokens.kept {
		if left := time.Until(tok.renew); left < 4*time.Minute || left > 5*time.Minute-20*time.Second {
			t.Errorf("a token of 5 minutes is renewed in %v", left)
		}
		tok.renew = time.Now()
		r.tokens.kept[k] = tok
	}
	r.tokens.mu.Unlock()
	if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
		t.Fatal(err)
	}
	if n, c := s.TokensIssued(), s.Count(proxytest.Request{Status: http.StatusUnauthorized}); n != 2 || c != 1 {
		t.Errorf("%d tokens and %d challenges, want a new token without a 401 in between (2, 1)", n, c)
	}
}

func TestRevokedTokenIsReplacedOnce(t *testing.T) {
	s, r := start(t, guarded)
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	for range 2 {
		if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
			t.Fatal(err)
		}
		s.RevokeTokens()
	}
	if got := s.TokensIssued(); got != 2 {
		t.Errorf("%d tokens issued, want 2", got)
	}
	// A registry that refuses every token is not asked for ever.
	s.ResetCounts()
	defer s.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, proxytest.Challenge(s.URL()+"/token"))()
	_, err := r.Manifest(t.Context(), repo, "latest")
	if !Denied(err) {
		t.Fatalf("got %v, want a denial", err)
	}
	if got := s.Count(proxytest.Request{Kind: proxytest.KindManifest}); got > 2 {
		t.Errorf("the manifest was asked for %d times", got)
	}
}

func TestRefusedCredentialsAreNotHammered(t *testing.T) {
	s, r := start(t, guarded)
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	s.SetCredentials(map[string]string{"new": "newer-password"})
	current := pullToken
	var mu sync.Mutex
	r.Credentials = func(context.Context) (Credentials, error) { mu.Lock(); defer mu.Unlock(); return current, nil }
	for range 20 {
		if _, err := r.Resolve(t.Context(), repo, "latest"); !Denied(err) || NotFound(err) || Unavailable(err) {
			t.Fatalf("got %v, want a denial", err)
		}
	}
	if got := s.Count(proxytest.Request{Kind: proxytest.KindToken}); got != 1 {
		t.Errorf("refused credentials were tried %d times, want once", got)
	}
	mu.Lock()
	current = Credentials{"new", "newer-password"}
	mu.Unlock()
	if _, err := r.Resolve(t.Context(), repo, "latest"); err != nil {
		t.Errorf("a new pull token is not used at once: %v", err)
	}
}

func TestDenials(t *testing.T) {
	o := guarded
	o.Public = func(name string) bool { return strings.HasPrefix(name, "chainguard/") }
	o.Entitled = func(name string) bool { return name != "other.com/private" }
	s, _ := start(t, o)
	for _, name := range []string{"chainguard/static", "example.com/app", "other.com/private"} {
		s.PutManifest(name, "latest", "", []byte(plainManifest))
	}
	wrong := Credentials{pullToken.Username, "wrong-password"}
	for _, tt := range []struct {
		what      string
		creds     Credentials
		name, ref string
		status    int // 0 is success
		message   string
	}{
		{"anonymous, public", Credentials{}, "chainguard/static", "latest", 0, ""},
		{"anonymous, private", Credentials{}, "example.com/app", "latest", 401, "example.com/app is not public"},
		{"pull token", pullToken, "example.com/app", "latest", 0, ""},
		{"pull token, not entitled", pullToken, "other.com/private", "latest", 403, "the pull token may not use other.com/private"},
		{"wrong password", wrong, "example.com/app", "latest", 401, "the pull token is wrong, revoked or expired"},
		{"no such tag", pullToken, "example.com/app", "none", 404, ""},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, err := client(t, s, tt.creds).Manifest(t.Context(), tt.name, tt.ref)
			if tt.status == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !hasStatus(err, tt.status) || !strings.Contains(err.Error(), tt.message) {
				t.Fatalf("got %v, want status %d and %q", err, tt.status, tt.message)
			}
			if NotFound(err) != (tt.status == 404) || Denied(err) != (tt.status != 404) || Unavailable(err) {
				t.Errorf("%v is taken for: not found %t, denied %t, unavailable %t", err, NotFound(err), Denied(err), Unavailable(err))
			}
		})
	}
}

func TestBasicRegistry(t *testing.T) {
	s, _ := start(t, proxytest.Origin{})
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	s.Inject(0, nil, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		if user, pass, _ := q.BasicAuth(); user != pullToken.Username || pass != pullToken.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, q)
	})
	r := client(t, s, pullToken)
	for range 2 {
		if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Count(proxytest.Request{Status: http.StatusUnauthorized}); got != 1 {
		t.Errorf("%d requests were challenged, want only the first one", got)
	}
	for _, c := range []Credentials{{}, {"wrong", "wrong"}} {
		s.ResetCounts()
		if _, err := client(t, s, c).Manifest(t.Context(), repo, "latest"); !Denied(err) {
			t.Errorf("%v: got %v, want a denial", c, err)
		}
		if got := s.Count(proxytest.Request{}); got > 2 {
			t.Errorf("%v: %d requests to learn of a denial", c, got)
		}
	}
}

func TestHTTP2AndIdentity(t *testing.T) {
	o := guarded
	o.TLS = true
	s, r := start(t, o)
	desc := putBlob(s, content(1<<20))
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
		t.Fatal(err)
	}
	if _, err := readBlob(t.Context(), r, desc); err != nil {
		t.Fatal(err)
	}
	for _, q := range s.Requests() {
		if q.Proto != "HTTP/2.0" || q.AcceptEncoding != "identity" || q.UserAgent != "sluice" {
			t.Errorf("%s %s: %s, Accept-Encoding %q, User-Agent %q", q.Method, q.Kind, q.Proto, q.AcceptEncoding, q.UserAgent)
		}
	}
	if leaks := s.Leaks(); len(leaks) > 0 {
		t.Errorf("credentials were sent to the blob host: %+v", leaks)
	}
}

func TestParallelBlobsUseSeveralConnections(t *testing.T) {
	o := guarded
	o.TLS = true
	s, r := start(t, o)
	desc := putBlob(s, content(1<<20))
	var open []io.Closer
	for range connections {
		body, err := r.Blob(t.Context(), repo, desc)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, body)
	}
	busy := r.transport.(*spread).busy
	for i := range busy {
		if got := busy[i].Load(); got != 1 {
			t.Errorf("transport %d carries %d blobs, want 1", i, got)
		}
	}
	for _, c := range open {
		c.Close()
	}
	for i := range busy {
		if got := busy[i].Load(); got != 0 {
			t.Errorf("transport %d still counts %d requests", i, got)
		}
	}
}

func TestRetries(t *testing.T) {
	for _, tt := range []struct {
		what     string
		fault    proxytest.Fault
		times    int
		ok       bool
		requests int
	}{
		{"503 twice", proxytest.Status(503, "UNAVAILABLE"), 2, true, 3},
		{"500 for ever", proxytest.Status(500, "UNKNOWN"), 0, false, 3},
		{"cut in the body", proxytest.Truncate(10), 2, true, 3},
		{"reset before the headers", proxytest.Reset(0), 1, true, 2},
		{"429 that says when", proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "1"), 1, true, 2},
		{"429 that wants too long a wait", proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "60"), 1, false, 1},
		{"404", proxytest.Status(404, "MANIFEST_UNKNOWN"), 1, false, 1},
		{"400", proxytest.Status(400, "UNSUPPORTED"), 1, false, 1},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			s, r := start(t, proxytest.Origin{})
			s.PutManifest(repo, "latest", "", []byte(plainManifest))
			s.Inject(tt.times, proxytest.Request{Kind: proxytest.KindManifest}.Matches, tt.fault)
			_, err := r.Manifest(t.Context(), repo, "latest")
			if (err == nil) != tt.ok {
				t.Fatalf("got %v", err)
			}
			if got := s.Count(proxytest.Request{Kind: proxytest.KindManifest}); got != tt.requests {
				t.Errorf("%d requests, want %d", got, tt.requests)
			}
			if strings.HasPrefix(tt.what, "429 that wants") && (!Unavailable(err) || retryAfterOf(err) != time.Minute) {
				t.Errorf("got %v with RetryAfter %v, want unavailable and 1m", err, retryAfterOf(err))
			}
		})
	}
}

func retryAfterOf(err error) time.Duration {
	if e, ok := err.(*Error); ok {
		return e.RetryAfter
	}
	return 0
}

func TestUnavailable(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	s.Close()
	if _, err := r.Resolve(t.Context(), repo, "latest"); !Unavailable(err) || Denied(err) || NotFound(err) {
		t.Errorf("a registry that is down: %v", err)
	}
	s2, r2 := start(t, guarded)
	s2.Inject(0, proxytest.Request{Kind: proxytest.KindToken}.Matches, proxytest.Status(503, "UNAVAILABLE"))
	if _, err := r2.Resolve(t.Context(), repo, "latest"); !Unavailable(err) || Denied(err) {
		t.Errorf("a token endpoint that is down: %v", err)
	}
	s3, r3 := start(t, guarded)
	s3.Inject(0, proxytest.Request{Kind: proxytest.KindToken}.Matches, proxytest.Status(404, "NOT_FOUND"))
	if _, err := r3.Resolve(t.Context(), repo, "latest"); NotFound(err) {
		t.Errorf("a token endpoint that isn't there is taken for a missing tag: %v", err)
	}
	s4, r4 := start(t, proxytest.Origin{})
	s4.Inject(0, nil, func(_ http.ResponseWriter, q *http.Request, _ http.Handler) { <-q.Context().Done() })
	r4.HeaderTimeout = 50 * time.Millisecond
	if _, err := r4.Resolve(t.Context(), repo, "latest"); !Unavailable(err) || !strings.Contains(err.Error(), "no answer in 50ms") {
		t.Errorf("a registry that is silent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r4.Resolve(ctx, repo, "latest"); err == nil || Unavailable(err) {
		t.Errorf("a caller that hung up: %v", err)
	}
}

func TestPing(t *testing.T) {
	o := guarded
	o.TLS = true
	s, r := start(t, o)
	if err := r.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for _, q := range s.Requests() {
		if q.Authorized || q.Kind != proxytest.KindPing {
			t.Errorf("%+v", q)
		}
	}
	under := client(t, s, pullToken)
	under.URL += "/mirror/"
	if u, err := under.Base(); err != nil || u.String() != s.URL()+"/mirror" {
		t.Errorf("base is %v, %v", u, err)
	}
	if err := under.Ping(t.Context()); !hasStatus(err, http.StatusNotFound) {
		t.Errorf("no registry there: %v", err)
	}
	remove := s.Inject(0, nil, proxytest.Status(401, "UNAUTHORIZED")) // without a challenge
	if err := r.Ping(t.Context()); !Denied(err) {
		t.Errorf("got %v, want a denial", err)
	}
	remove()
	s.Close()
	if err := r.Ping(t.Context()); !Unavailable(err) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestBadNames(t *testing.T) {
	_, r := start(t, proxytest.Origin{})
	for _, name := range []string{"../x", "a//b", "", "a/./b", "a/.."} {
		if _, err := r.Resolve(t.Context(), name, "latest"); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	if _, err := r.Manifest(t.Context(), repo, "sha384:"+strings.Repeat("0", 96)); err == nil {
		t.Error("a digest that can't be verified was accepted")
	}
	u, err := r.url(pull(opTags, "GET", "a b/c?d", "tags", "x#y%2f"))
	if err != nil || !strings.HasSuffix(u.String(), "/v2/a%20b/c%3Fd/tags/x%23y%252f") {
		t.Errorf("got %v, %v", u, err)
	}
	for _, raw := range []string{"ftp://x", "https://", "https://user:secretword@x", "https://x?q=secretword", "::"} {
		_, err := (&Registry{Name: "x", URL: raw}).Base()
		if err == nil || strings.Contains(err.Error(), "secretword") {
			t.Errorf("url %s: %v", raw, err)
		}
	}
}
