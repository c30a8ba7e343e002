package upstream

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A collector is a host that notes what it is sent, and gives tokens to anybody.
type collector struct {
	*httptest.Server
	mu   sync.Mutex // guards sent
	sent []http.Header
}

func newCollector(t *testing.T, secure bool) *collector {
	c := &collector{}
	h := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c.mu.Lock()
		c.sent = append(c.sent, q.Header.Clone())
		c.mu.Unlock()
		w.Write([]byte(`{"token":"token-of-the-collector"}`))
	})
	if secure {
		c.Server = httptest.NewTLSServer(h)
	} else {
		c.Server = httptest.NewServer(h)
	}
	t.Cleanup(c.Close)
	return c
}

func (c *collector) credentials() (n int, requests int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.sent {
		if h.Get("Authorization") != "" {
			n++
		}
	}
	return n, len(c.sent)
}

func TestRealmOnAnotherHost(t *testing.T) {
	for _, tt := range []struct {
		what          string
		tls           bool // of the registry
		realmTLS      bool
		list          func(host string) []string
		asked, getsIt bool
	}{
		{"another host", true, true, nil, true, false},
		{"another host, listed", true, true, func(h string) []string { return []string{"x.example", strings.ToUpper(h)} }, true, true},
		{"another port of a listed host", true, true, func(h string) []string { return []string{"127.0.0.1"} }, true, false},
		{"http realm of an https registry", true, false, nil, false, false},
		{"http realm of an https registry, listed", true, false, func(h string) []string { return []string{h} }, false, false},
		{"http registry, https realm", false, true, nil, true, false},
		{"http registry, http realm, listed", false, false, func(h string) []string { return []string{h} }, true, true},
		{"the same port by another name", false, false, nil, true, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			o := guarded
			o.TLS = tt.tls
			s, r := start(t, o)
			evil := newCollector(t, tt.realmTLS)
			if evil.Certificate() != nil {
				if r.RootCAs == nil {
					r.RootCAs = evil.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
				} else {
					r.RootCAs.AddCert(evil.Certificate())
				}
			}
			host := strings.TrimPrefix(strings.TrimPrefix(evil.URL, "https://"), "http://")
			if tt.list != nil {
				r.RealmHosts = tt.list(host)
			}
			s.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, proxytest.Challenge(evil.URL+"/token"))
			_, err := r.Manifest(t.Context(), repo, "latest")
			if err == nil {
				t.Fatal("a manifest came from nowhere")
			}
			got, requests := evil.credentials()
			if (requests > 0) != tt.asked || (got > 0) != tt.getsIt {
				t.Errorf("the realm's host got %d requests, %d with credentials; error: %v", requests, got, err)
			}
		})
	}
}

func TestWellKnownRealm(t *testing.T) {
	for _, tt := range []struct {
		registry, realm string
		want            bool
	}{
		{"https://registry-1.docker.io", "https://auth.docker.io/token", true},
		{"https://cgr.dev", "https://auth.docker.io/token", false},
		{"https://registry-1.docker.io", "https://auth.docker.io.evil.example/token", false},
		{"https://cgr.dev", "https://cgr.dev/token", true},
		{"https://cgr.dev", "https://CGR.dev.:443/token", true},
		{"https://cgr.dev", "https://cgr.dev:8443/token", false},
		{"https://cgr.dev", "https://evil.cgr.dev/token", false},
		{"https://cgr.dev", "https://cgr.dev@evil.example/token", false},
		{"https://cgr.dev", "//cgr.dev/token", false},
		{"https://cgr.dev", "token", false},
		{"https://cgr.dev", "file:///etc/passwd", false},
		{"https://cgr.dev", "ftp://cgr.dev/token", false},
		{"https://cgr.dev", "https:///token", false},
		{"https://cgr.dev", "https://user:password@cgr.dev/token", false},
	} {
		r := &Registry{Name: "x", URL: tt.registry}
		_, trusted, err := r.realm(&challenge{params: map[string]string{"realm": tt.realm}})
		if (trusted && err == nil) != tt.want {
			t.Errorf("%s with realm %s: trusted %t, %v", tt.registry, tt.realm, trusted, err)
		}
		u, _ := url.Parse(tt.realm)
		if valid := u.Scheme == "https" && u.Host != "" && u.User == nil; valid != (err == nil) {
			t.Errorf("%s with realm %s: %v", tt.registry, tt.realm, err)
		}
	}
	if u, err := (&Registry{Name: "docker.io"}).Base(); err != nil || u.String() != "https://registry-1.docker.io" {
		t.Errorf("docker.io is asked at %v, %v", u, err)
	}
}

func TestTokenEndpointRedirectGetsNoCredentials(t *testing.T) {
	s, r := start(t, guarded)
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	evil := newCollector(t, false)
	s.Inject(0, proxytest.Request{Kind: proxytest.KindToken}.Matches, proxytest.Redirect(evil.URL))
	if _, err := r.Manifest(t.Context(), repo, "latest"); !Denied(err) {
		t.Errorf("got %v, want a denial", err)
	}
	if n, requests := evil.credentials(); n != 0 || requests == 0 {
		t.Errorf("%d of %d requests carried credentials", n, requests)
	}
	// To its own host neither: a login that needs a redirect is not one of ours.
	s2, r2 := start(t, guarded)
	s2.PutManifest(repo, "latest", "", []byte(plainManifest))
	s2.Inject(1, proxytest.Request{Kind: proxytest.KindToken}.Matches, proxytest.Redirect(""))
	if _, err := r2.Manifest(t.Context(), repo, "latest"); !Denied(err) {
		t.Errorf("got %v, want a denial", err)
	}
}

func TestRedirects(t *testing.T) {
	s, r := start(t, guarded)
	evil := newCollector(t, false)
	desc := putBlob(s, content(1000))
	for _, tt := range []struct {
		what, to, want string
	}{
		{"to another host", evil.URL + "/x?signature=secretsignature", "not 1000"},
		{"a loop", "", "more than 5 redirects"},
		{"nowhere", "http://%zz?signature=secretsignature", "nowhere"},
		{"another scheme", "ftp://x.example/?signature=secretsignature", "nowhere"},
	} {
		remove := s.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
			w.Header().Set("Location", tt.to)
			if tt.to == "" {
				w.Header().Set("Location", q.URL.RequestURI())
			}
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		_, err := readBlob(t.Context(), r, desc)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secretsignature") {
			t.Errorf("%s: got %v, want %q", tt.what, err, tt.want)
		}
		remove()
	}
	if n, requests := evil.credentials(); n != 0 || requests == 0 {
		t.Errorf("%d of %d redirected requests carried credentials", n, requests)
	}
}

func TestRedirectDoesNotDowngrade(t *testing.T) {
	o := guarded
	o.TLS = true
	s, r := start(t, o)
	evil := newCollector(t, false)
	desc := putBlob(s, content(1000))
	s.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, proxytest.Redirect(evil.URL))
	if _, err := readBlob(t.Context(), r, desc); err == nil || !strings.Contains(err.Error(), "from https to http://") {
		t.Errorf("got %v", err)
	}
	if _, requests := evil.credentials(); requests != 0 {
		t.Error("the redirect was followed")
	}
}

// TestRedirectToAnotherNameOfThisHost is the case in which http.Client would send
// Authorization along: another port of the same address, a subdomain.
func TestRedirectToAnotherNameOfThisHost(t *testing.T) {
	s, r := start(t, guarded)
	desc := putBlob(s, content(1000))
	other := newCollector(t, false) // another port of 127.0.0.1
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	sameByName := "http://" + net.JoinHostPort("localhost", u.Port())
	for _, to := range []string{other.URL, sameByName + "/v2/other"} {
		var leaked error
		s.Inject(1, proxytest.Request{Kind: proxytest.KindBlob}.Matches, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			s.Inject(1, nil, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				if strings.HasPrefix(q.Host, "localhost") && q.Header.Get("Authorization") != "" {
					leaked = errors.New("Authorization went to " + q.Host)
				}
				next.ServeHTTP(w, q)
			})
			proxytest.Redirect(to)(w, q, next)
		})
		if _, err := readBlob(t.Context(), r, desc); err == nil {
			t.Errorf("redirect to %s: content came from nowhere", to)
		}
		if n, _ := other.credentials(); n != 0 || leaked != nil {
			t.Errorf("redirect to %s: %d requests with credentials, %v", to, n, leaked)
		}
	}
}
