package proxytest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// client answers with the status, the headers and the body, or the error that broke it.
type client struct {
	t         *testing.T
	transport *http.Transport
}

func newClient(t *testing.T, s *proxytest.Server) *client {
	tr := s.Transport()
	t.Cleanup(tr.CloseIdleConnections)
	return &client{t, tr}
}

type answer struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func (c *client) get(url string, headers ...string) answer {
	return c.do(http.MethodGet, url, headers...)
}

func (c *client) do(method, url string, headers ...string) answer {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.transport.RoundTrip(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

func (a answer) code() string {
	var e struct{ Errors []struct{ Code string } }
	if json.Unmarshal(a.body, &e) != nil || len(e.Errors) == 0 {
		return ""
	}
	return e.Errors[0].Code
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestPullWithTokenAcrossHosts(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", tls), func(t *testing.T) {
			user, password := proxytest.PullToken(time.Now().Add(time.Hour))
			s := start(t, proxytest.Origin{Username: user, Password: password, BlobRedirect: true, TLS: tls})
			img, err := random.Image(100_000, 3)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.PushImage("acme/web", "1", img); err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference(s.Host()+"/acme/web:1", name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			tr := s.Transport()
			defer tr.CloseIdleConnections()
			got, err := remote.Image(ref, remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithTransport(tr))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Image(got); err != nil {
				t.Error(err)
			}
			if leaks := s.Leaks(); len(leaks) > 0 {
				t.Errorf("credentials on the blob host: %v", leaks)
			}
			if n := s.Count(proxytest.Request{Kind: proxytest.KindStorage, Status: 200}); n < 4 {
				t.Errorf("%d requests on the blob host, want one for the config and one for each layer", n)
			}
			if n := s.TokensIssued(); n != 1 {
				t.Errorf("%d tokens, want 1", n)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	s := start(t, proxytest.Origin{
		Username: "u", Password: "p", TokenTTL: time.Minute,
		Public:   func(repo string) bool { return strings.HasPrefix(repo, "chainguard/") },
		Entitled: func(repo string) bool { return !strings.HasPrefix(repo, "other/") },
	})
	c := newClient(t, s)
	s.PutManifest("acme/a", "1", "", []byte(`{"schemaVersion":2}`))
	s.PutManifest("acme/b", "1", "", []byte(`{"schemaVersion":2}`))
	s.PutManifest("chainguard/c", "1", "", []byte(`{"schemaVersion":2}`))

	a := c.get(s.URL() + "/v2/acme/a/manifests/1")
	want := fmt.Sprintf(`Bearer realm="%s/token",service="%s",scope="repository:acme/a:pull"`, s.URL(), s.Host())
	if a.status != 401 || a.header.Get("WWW-Authenticate") != want {
		t.Errorf("without a token: %d, %q, want %q", a.status, a.header.Get("WWW-Authenticate"), want)
	}

	const good, wrong = "Basic dTpw", "Basic dTpx"
	tests := []struct {
		name, scope, basic string
		want               int
	}{
		{"the pull token", "repository:acme/a:pull", good, 200},
		{"a wrong password", "repository:acme/a:pull", wrong, 401},
		{"nobody", "repository:acme/a:pull", "", 401},
		{"nobody, public", "repository:chainguard/c:pull", "", 200},
		{"another's repository", "repository:other/x:pull", good, 403},
		{"no scope", "", good, 200},
	}
	tokens := map[string]string{}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			headers := []string{"Authorization", tt.basic}
			if tt.basic == "" {
				headers = nil
			}
			a := c.get(s.URL()+"/token?service=x&scope="+tt.scope, headers...)
			if a.status != tt.want {
				t.Fatalf("%d %s, want %d", a.status, a.body, tt.want)
			}
			if a.status != 200 {
				return
			}
			var body struct {
				Token     string
				ExpiresIn int `json:"expires_in"`
			}
			if err := json.Unmarshal(a.body, &body); err != nil || body.Token == "" || body.ExpiresIn != 60 {
				t.Errorf("%v, %s", err, a.body)
			}
			tokens[tt.scope] = "Bearer " + body.Token
		})
	}

	pulls := []struct {
		name, repo, token string
		want              int
	}{
		{"its own repository", "acme/a", tokens["repository:acme/a:pull"], 200},
		{"another repository", "acme/b", tokens["repository:acme/a:pull"], 403},
		{"no scope", "acme/a", tokens[""], 403},
		{"public", "chainguard/c", tokens["repository:chainguard/c:pull"], 200},
		{"made up", "acme/a", "Bearer abc", 401},
	}
	for _, tt := range pulls {
		if a := c.get(s.URL()+"/v2/"+tt.repo+"/manifests/1", "Authorization", tt.token); a.status != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, a.status, a.body, tt.want)
		}
	}
	if a := c.do(http.MethodDelete, s.URL()+"/v2/acme/a/manifests/1", "Authorization", tokens["repository:acme/a:pull"]); a.status != 403 {
		t.Errorf("delete with a token to pull: %d", a.status)
	}
	s.RevokeTokens()
	if a := c.get(s.URL()+"/v2/acme/a/manifests/1", "Authorization", tokens["repository:acme/a:pull"]); a.status != 401 {
		t.Errorf("revoked: %d", a.status)
	}
	s.SetCredentials(map[string]string{"u": "q"})
	if a := c.get(s.URL()+"/token?scope=repository:acme/a:pull", "Authorization", good); a.status != 401 {
		t.Errorf("old pull token: %d", a.status)
	}
	if a := c.get(s.URL()+"/token?scope=repository:acme/a:pull", "Authorization", wrong); a.status != 200 {
		t.Errorf("new pull token: %d", a.status)
	}
}

func TestTokenExpires(t *testing.T) {
	s := start(t, proxytest.Origin{Username: "u", Password: "p", TokenTTL: time.Nanosecond})
	c := newClient(t, s)
	a := c.get(s.URL()+"/token?scope=repository:a:pull", "Authorization", "Basic dTpw")
	var body struct{ Token string }
	if err := json.Unmarshal(a.body, &body); err != nil {
		t.Fatal(err)
	}
	if a := c.get(s.URL()+"/v2/", "Authorization", "Bearer "+body.Token); a.status != 401 || body.Token == "" {
		t.Errorf("%d with the expired token %q", a.status, body.Token)
	}
}

func TestRedirectExpiresAndTakesNoCredentials(t *testing.T) {
	s := start(t, proxytest.Origin{BlobRedirect: true, RedirectTTL: time.Hour})
	late := start(t, proxytest.Origin{BlobRedirect: true, RedirectTTL: -time.Second})
	c := newClient(t, s)
	d := s.PutBlob("a/b", noise(1000))
	late.PutBlob("a/b", noise(1000))
	place := c.get(s.URL() + "/v2/a/b/blobs/" + d.String())
	to := place.header.Get("Location")
	if place.status != 307 || !strings.HasPrefix(to, "http://"+s.BlobHost()+"/") || strings.Contains(to, "127.0.0.1") {
		t.Fatalf("%d to %q", place.status, to)
	}
	if a := c.get(to); a.status != 200 || !bytes.Equal(a.body, noise(1000)) {
		t.Errorf("%d, %d bytes", a.status, len(a.body))
	}
	if a := c.get(to, "Range", "bytes=-10"); a.status != 206 || !bytes.Equal(a.body, noise(1000)[990:]) {
		t.Errorf("range: %d, %d bytes", a.status, len(a.body))
	}
	if a := c.get(strings.Replace(to, "signature=", "signature=0", 1)); a.status != 403 {
		t.Errorf("wrong signature: %d", a.status)
	}
	if a := c.get(late.URL() + "/v2/a/b/blobs/" + d.String()); c.get(a.header.Get("Location")).status != 403 {
		t.Error("expired, and answered")
	}
	if a := c.get(to, "Authorization", "Bearer x"); a.status != 400 || len(s.Leaks()) != 1 {
		t.Errorf("credentials: %d, %d leaks", a.status, len(s.Leaks()))
	}
}

func TestTagsPage(t *testing.T) {
	s := start(t, proxytest.Origin{PageSize: 3})
	c := newClient(t, s)
	for _, tag := range []string{"b", "A", "c", "1", "a", "D"} {
		s.PutManifest("a/b", tag, "", []byte(`{"schemaVersion":2}`))
	}
	tests := []struct{ query, want, link string }{
		{"", "1 A a", `</v2/a/b/tags/list?last=a&n=3>; rel="next"`},
		{"?n=2", "1 A", `</v2/a/b/tags/list?last=A&n=2>; rel="next"`},
		{"?n=2&last=A", "a b", `</v2/a/b/tags/list?last=b&n=2>; rel="next"`},
		{"?n=9&last=a", "b c D", ""},
		{"?last=bb", "c D", ""},
		{"?n=0", "", ""},
	}
	for _, tt := range tests {
		a := c.get(s.URL() + "/v2/a/b/tags/list" + tt.query)
		var body struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(a.body, &body); err != nil || body.Name != "a/b" {
			t.Errorf("%q: %v, %s", tt.query, err, a.body)
		}
		if got := strings.Join(body.Tags, " "); got != tt.want || a.header.Get("Link") != tt.link {
			t.Errorf("%q: %q, Link %q, want %q, %q", tt.query, got, a.header.Get("Link"), tt.want, tt.link)
		}
	}
	if a := c.get(s.URL() + "/v2/no/such/tags/list"); a.status != 404 || a.code() != "NAME_UNKNOWN" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestHeadersAndErrors(t *testing.T) {
	s := start(t, proxytest.Origin{Warning: "old \"tags\"", NoReferrers: true})
	c := newClient(t, s)
	d := s.PutManifest("a/b", "1", "application/vnd.docker.distribution.manifest.v2+json", []byte(`{"schemaVersion":2}`))
	url := s.URL() + "/v2/a/b/"
	a := c.get(url + "manifests/1")
	for k, want := range map[string]string{
		"Content-Type": "application/vnd.docker.distribution.manifest.v2+json", "Docker-Content-Digest": d.String(),
		"Etag": `"` + d.String() + `"`, "Content-Length": "19", "Warning": `299 - "old \"tags\""`,
	} {
		if got := a.header.Get(k); got != want {
			t.Errorf("%s %q, want %q", k, got, want)
		}
	}
	tests := []struct {
		name, method, url, header, value string
		want                             int
		code                             string
	}{
		{"not modified", "GET", url + "manifests/1", "If-None-Match", `"` + d.String() + `"`, 304, ""},
		{"by digest", "HEAD", url + "manifests/" + d.String(), "", "", 200, ""},
		{"no tag", "GET", url + "manifests/2", "", "", 404, "MANIFEST_UNKNOWN"},
		{"no blob", "GET", url + "blobs/" + d.String(), "", "", 404, "BLOB_UNKNOWN"},
		{"no digest", "GET", url + "blobs/latest", "", "", 400, "DIGEST_INVALID"},
		{"no name", "GET", s.URL() + "/v2/A/b/manifests/1", "", "", 400, "NAME_INVALID"},
		{"no referrers", "GET", url + "referrers/" + d.String(), "", "", 404, "NOT_FOUND"},
		{"nowhere", "GET", s.URL() + "/v3/", "", "", 404, "NOT_FOUND"},
		{"no method", "POST", url + "manifests/1", "", "", 405, "UNSUPPORTED"},
		{"a name with the word in it", "GET", s.URL() + "/v2/a/blobs/b/manifests/1", "", "", 404, "MANIFEST_UNKNOWN"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.header != "" {
				headers = []string{tt.header, tt.value}
			}
			if a := c.do(tt.method, tt.url, headers...); a.status != tt.want || a.code() != tt.code {
				t.Errorf("%d %s, want %d %s", a.status, a.body, tt.want, tt.code)
			}
		})
	}
	a = c.get(url + "_chainguard/history/1")
	var body struct {
		History []struct {
			UpdateTimestamp time.Time
			Digest          digest.Digest
		}
	}
	if err := json.Unmarshal(a.body, &body); err != nil || len(body.History) != 1 || body.History[0].Digest != d {
		t.Errorf("history: %v, %s", err, a.body)
	}
}

func TestCounts(t *testing.T) {
	s := start(t, proxytest.Origin{})
	c := newClient(t, s)
	d := s.PutBlob("a/b", noise(1000))
	url := s.URL() + "/v2/a/b/blobs/" + d.String()
	c.do(http.MethodHead, url)
	c.get(url)
	c.get(url, "Range", "bytes=900-")
	c.get(s.URL() + "/v2/")
	if times, n := s.Served(d); times != 2 || n != 1100 {
		t.Errorf("served %d times, %d bytes, want 2 and 1100", times, n)
	}
	if n := s.Count(proxytest.Request{Kind: proxytest.KindBlob}); n != 3 {
		t.Errorf("%d requests of blobs, want 3", n)
	}
	if n := s.Count(proxytest.Request{Reference: d.String(), Status: 206}); n != 1 {
		t.Errorf("%d ranges, want 1", n)
	}
	if list := s.Requests(); len(list) != 4 || list[2].Range != "bytes=900-" || list[3].Kind != proxytest.KindPing {
		t.Errorf("%+v", list)
	}
	s.ResetCounts()
	if len(s.Requests()) != 0 || s.Count(proxytest.Request{}) != 0 {
		t.Error("counts are still there")
	}
}

// Four streams share what one alone gets, and none is starved.
func TestLinkIsShared(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second")
	}
	const bandwidth, size, streams = 25_000_000, 3_000_000, 4
	s := start(t, proxytest.Origin{Bandwidth: bandwidth, BlobRedirect: true})
	d := s.PutBlob("a/b", noise(size))
	ends := make([]time.Duration, streams)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range streams {
		wg.Go(func() {
			r, err := http.Get(s.URL() + "/v2/a/b/blobs/" + d.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Body.Close()
			if n, err := io.Copy(io.Discard, r.Body); err != nil || n != size {
				t.Errorf("%d bytes, %v", n, err)
			}
			ends[i] = time.Since(began)
		})
	}
	wg.Wait()
	took := time.Since(began)
	ideal := time.Duration(float64(streams*size) / bandwidth * float64(time.Second))
	t.Logf("%v, ideally %v; streams %v", took, ideal, ends)
	// Never faster; how much slower is the machine's affair.
	if took < ideal*94/100 {
		t.Errorf("%v for what takes %v on the link", took, ideal)
	}
	for i, end := range ends {
		if end < took/3 { // one after the other, the first would end after a quarter
			t.Errorf("stream %d ended after %v of %v: the others waited for it", i, end, took)
		}
	}
}

func TestDelay(t *testing.T) {
	const delay = 50 * time.Millisecond
	s := start(t, proxytest.Origin{Delay: delay})
	c := newClient(t, s)
	began := time.Now()
	if a := c.get(s.URL() + "/v2/"); a.status != 200 || time.Since(began) < delay {
		t.Errorf("%d after %v", a.status, time.Since(began))
	}
}
