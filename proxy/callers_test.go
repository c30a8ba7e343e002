package proxy_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/auth/token"
	"github.com/sluicegate/sluice/proxy/limit"
)

// withTokens has the gateway give tokens at realm.
func withTokens(realm string) change {
	return func(l *lab, _ *policy.Config) {
		l.gateway.Auth.Tokens, l.gateway.Auth.TokenLife, l.gateway.Auth.Realm = &token.Signer{Key: [32]byte{1}}, time.Minute, realm
	}
}

// TestAccess has bob ask for what only alice may see, in every way there is; the answer is
// the same for what isn't there, and upstream never hears of it.
func TestAccess(t *testing.T) {
	l := newLab(t, known("alice", "bob"), func(l *lab, _ *policy.Config) {
		l.gateway.Access = []proxy.AccessRule{
			{Callers: []string{"ali*"}, Repositories: []string{"cgr.test/acme/**"}},
			{Repositories: []string{"cgr.test/open/*"}},
		}
	})
	img := l.push("acme/web", "1", 100_000)
	l.push("open/web", "1", 100_000)
	ask := func(who, path string) reply { return l.get("GET", path, 10*time.Second, "Authorization", basic(who)) }
	if r := ask("alice", "/v2/acme/web/manifests/1"); r.status != 200 {
		t.Fatalf("alice: %d %s", r.status, r.body)
	}
	if r := ask("bob", "/v2/open/web/manifests/1"); r.status != 200 {
		t.Errorf("bob, what is open to all: %d %s", r.status, r.body)
	}
	for name, want := range map[string]bool{ // as the README has them
		"github:repo:acme/web:ref:refs/heads/main": true, "github:repo:acme/web:pull_request": true, "github:repo:other/web:ref:refs/heads/main": false,
		"k8s:system:serviceaccount:prod:web": true, "k8s:system:serviceaccount:test:web": false, "cert:spiffe://td/ns/a": true, "bob": false, "": false,
	} {
		s := l.gateway.Settings()
		s.Access = []proxy.AccessRule{{Callers: []string{"github:repo:acme/*", "k8s:system:serviceaccount:prod:*", "cert:*"}, Repositories: []string{"cgr.test/acme/**"}}}
		other := &proxy.Gateway{Upstreams: s.Upstreams, Access: s.Access}
		if got := other.May(auth.Caller{Name: name}, "cgr.test/acme/web"); got != want {
			t.Errorf("%q: %t, want %t", name, got, want)
		}
	}
	before := len(l.origin.Requests())
	for _, path := range []string{
		"/v2/acme/web/manifests/1", "/v2/acme/web/manifests/" + img.digest.String(), "/v2/acme/none/manifests/1", "/v2/cgr.test/acme/web/manifests/1",
		"/v2/acme/web/blobs/" + img.layers[0].Digest.String(), "/v2/acme/web/tags/list", "/v2/acme/web/referrers/" + img.digest.String(),
		"/v2/acme/web/_chainguard/history/1", "/v2/acme/web/manifests/1?ns=cgr.test",
	} {
		r := ask("bob", path)
		if r.status != 403 || !strings.Contains(string(r.body), `"DENIED"`) || !strings.Contains(string(r.body), "is not open to bob") {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	if n := len(l.origin.Requests()) - before; n != 0 {
		t.Errorf("upstream was asked %d times", n)
	}
	_, err := l.gateway.Answer(t.Context(), auth.Caller{Name: "bob"}, "acme/web:1", "linux/amd64", time.Now())
	var e *proxy.Error
	if !errors.As(err, &e) || e.Status != 403 {
		t.Errorf("a verdict for bob: %v", err)
	}
	if _, err := l.gateway.Answer(t.Context(), auth.Caller{Name: "alice"}, "acme/web:1", "linux/amd64", time.Now().Add(10*time.Second)); err != nil {
		t.Errorf("a verdict for alice: %v", err)
	}
}

// TestTokenEndpoint logs in as go-containerregistry does, and as a form does.
func TestTokenEndpoint(t *testing.T) {
	var l *lab
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) { l.gateway.ServeToken(w, r) })
	mux.HandleFunc("/v2/", func(w http.ResponseWriter, r *http.Request) { l.gateway.ServeHTTP(w, r) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	l = newLab(t, known("alice", "bob"), withTokens(srv.URL+"/token"))
	l.push("acme/web", "1", 100_000)

	ref, err := name.ParseReference(strings.TrimPrefix(srv.URL, "http://") + "/acme/web:1")
	if err != nil {
		t.Fatal(err)
	}
	pull := func(password string) error {
		img, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: "alice", Password: password}))
		if err == nil {
			_, err = img.RawConfigFile()
		}
		return err
	}
	if err := pull("alice"); err != nil {
		t.Error(err)
	}
	var refused *transport.Error
	if err := pull("wrong"); !errors.As(err, &refused) || refused.StatusCode != 401 {
		t.Errorf("a wrong password: %v", err)
	}

	for _, test := range []struct {
		name string
		form url.Values
		want int
	}{
		{"by form", url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {"alice"}, "service": {"sluice"}, "scope": {"repository:acme/web:pull"}}, 200},
		{"a wrong password", url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {"x"}}, 401},
		{"nobody", url.Values{}, 401},
		{"a refresh token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}, 400},
		{"endless", url.Values{"grant_type": {"password"}, "username": {strings.Repeat("x", 1<<20)}}, 400},
	} {
		resp, err := http.PostForm(srv.URL+"/token", test.form)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Token, Access string
			ExpiresIn     int `json:"expires_in"`
		}
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if resp.StatusCode != test.want || err != nil {
			t.Errorf("%s: %s, %v", test.name, resp.Status, err)
		}
		if c := resp.Header.Get("WWW-Authenticate"); (test.want == 401) != (c == `Basic realm="sluice"`) {
			t.Errorf("%s: challenge %q", test.name, c)
		}
		if test.want != 200 {
			continue
		}
		if r := l.get("GET", "/v2/acme/web/manifests/1", 10*time.Second, "Authorization", "Bearer "+got.Token); r.status != 200 || got.ExpiresIn != 60 {
			t.Errorf("%s: %d %s, good for %d s", test.name, r.status, r.body, got.ExpiresIn)
		}
	}
	r := l.get("GET", "/v2/acme/web/manifests/1", 10*time.Second)
	if want := `Bearer realm="` + srv.URL + `/token",service="sluice",scope="repository:acme/web:pull"`; r.header.Get("WWW-Authenticate") != want {
		t.Errorf("challenge %s, want %s", r.header.Get("WWW-Authenticate"), want)
	}
}

// TestCallerLimits: who asks too much is told when to come back, and no other.
func TestCallerLimits(t *testing.T) {
	l := newLab(t, known("alice", "bob"), func(l *lab, _ *policy.Config) {
		l.gateway.Limits = limit.New(limit.Limits{Requests: 1, Burst: 3})
	})
	l.push("acme/web", "1", 100_000)
	many := 0
	replies := make(chan reply)
	for range 12 {
		go func() { replies <- l.get("GET", "/v2/", 10*time.Second, "Authorization", basic("alice")) }()
	}
	for range 12 {
		if r := <-replies; r.status == 429 {
			many++
			if !strings.Contains(string(r.body), "TOOMANYREQUESTS") || r.header.Get("Retry-After") == "" {
				t.Errorf("%s, Retry-After %q", r.body, r.header.Get("Retry-After"))
			}
		}
	}
	if many < 6 || many > 8 { // three at once, two in two seconds, and what comes while they are sent
		t.Errorf("%d of twelve were refused, want 7", many)
	}
	if r := l.get("GET", "/v2/acme/web/manifests/1", 10*time.Second, "Authorization", basic("bob")); r.status != 200 {
		t.Errorf("bob: %d %s", r.status, r.body)
	}
}

// TestPace: the bytes of a blob come no faster than its caller may get them, and all of them
// come.
func TestPace(t *testing.T) {
	l := newLab(t, known("alice", "bob"), func(l *lab, _ *policy.Config) {
		l.gateway.Limits = limit.New(limit.Limits{Bytes: 2 << 20})
	})
	img := l.push("acme/web", "1", 5<<20)
	if r := l.get("GET", "/v2/acme/web/manifests/1", 20*time.Second, "Authorization", basic("alice")); r.status != 200 {
		t.Fatal(string(r.body))
	}
	start := time.Now()
	r := l.get("GET", "/v2/acme/web/blobs/"+img.layers[0].Digest.String(), 30*time.Second, "Authorization", basic("alice"))
	if took := time.Since(start); r.status != 200 || len(r.body) < 5<<20 || took < 1500*time.Millisecond {
		t.Errorf("%d, %d bytes in %s", r.status, len(r.body), took)
	}
}

// TestChange puts another upstream, other rules and other limits in force while a pull is
// under way, which goes on.
func TestChange(t *testing.T) {
	l := newLab(t, known("alice", "bob"))
	l.push("acme/web", "1", 100_000)
	l.engine.hold()
	pulled := make(chan reply, 1)
	go func() {
		pulled <- l.get("GET", "/v2/acme/web/manifests/1", 20*time.Second, "Authorization", basic("alice"))
	}()
	l.eventually("upstream is asked", func() bool { return len(l.origin.Requests()) > 0 })
	s := l.gateway.Settings()
	s.Upstreams = append(s.Upstreams, proxy.Upstream{Name: "other.test", Registry: s.Upstreams[0].Registry})
	s.Access = []proxy.AccessRule{{Callers: []string{"alice"}, Repositories: []string{"**"}}}
	if err := l.gateway.Change(s); err != nil {
		t.Fatal(err)
	}
	if r := l.get("GET", "/v2/acme/web/tags/list?ns=other.test", 10*time.Second, "Authorization", basic("alice")); r.status != 200 {
		t.Errorf("the new upstream: %d %s", r.status, r.body)
	}
	if r := l.get("GET", "/v2/acme/web/tags/list", 10*time.Second, "Authorization", basic("bob")); r.status != 403 {
		t.Errorf("bob, who may see nothing now: %d %s", r.status, r.body)
	}
	l.engine.release()
	if r := <-pulled; r.status != 200 {
		t.Errorf("the pull that was under way: %d %s", r.status, r.body)
	}
	if err := l.gateway.Change(proxy.Settings{}); err == nil {
		t.Error("a gateway without an upstream")
	}
}
