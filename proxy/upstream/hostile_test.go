package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A registry that sends a byte now and then never falls silent. It is given up all the
// same, as one that stalls: else a few such layers would hold every place there is.
func TestTrickle(t *testing.T) {
	for _, tls := range []bool{false, true} {
		s, r := start(t, proxytest.Origin{TLS: tls})
		r.IdleTimeout = 100 * time.Millisecond
		want := content(200 << 10)
		desc := putBlob(s, want)
		s.Inject(1, blobs, s.Drip(1, 10*time.Millisecond))
		got, err := readBlob(t.Context(), r, desc)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("trickled once: %d bytes, %v", len(got), err)
		}
		defer s.Inject(0, nil, s.Drip(1, 10*time.Millisecond))()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := readBlob(ctx, r, desc); err == nil || !strings.Contains(err.Error(), "bytes in 100ms") || !Unavailable(err) {
			t.Errorf("trickled for ever: %v after %v", err, time.Since(began))
		}
		if _, err := r.Tags(ctx, repo, 0, ""); !Unavailable(err) {
			t.Errorf("tags: %v", err)
		}
	}
}

// A slow line is no trickle: what brings 64 KiB in the idle timeout goes on.
func TestSlowLine(t *testing.T) {
	s, r := start(t, proxytest.Origin{Bandwidth: 512 << 10})
	r.IdleTimeout = time.Second // 512 KiB at that speed
	want := content(1 << 20)
	desc := putBlob(s, want)
	got, err := readBlob(t.Context(), r, desc)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := s.Count(proxytest.Request{Kind: proxytest.KindBlob}); n != 1 {
		t.Errorf("%d requests for a blob that came without a break", n)
	}
}

// A part of a blob in answer to a request for all of it says nothing of its length.
func TestPartOfWhatWasNotDivided(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	want := content(1000)
	desc := putBlob(s, want[:900])
	desc.Size = 1000 // the manifest lies, and so does the registry
	s.Inject(0, blobs, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		w.Header().Set("Content-Range", "bytes 0-999/*")
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(http.StatusPartialContent)
		w.Write(want)
	})
	body, err := r.Blob(t.Context(), repo, desc)
	if err == nil {
		body.Close()
		t.Error("206 was taken for an answer to a request without a Range")
	}
}

// Some registries send on who asks for a manifest too. What stands there has the say.
func TestRegistryElsewhere(t *testing.T) {
	there, _ := start(t, proxytest.Origin{})
	here, r := start(t, proxytest.Origin{})
	d := there.PutManifest(repo, "latest", "", []byte(plainManifest))
	here.Inject(0, nil, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		proxytest.Redirect(there.URL()+q.URL.RequestURI())(w, q, next)
	})
	if got, err := r.Resolve(t.Context(), repo, "latest"); err != nil || got.Digest != d {
		t.Errorf("got %v, %v", got.Digest, err)
	}
	if _, err := r.Resolve(t.Context(), repo, "gone"); !NotFound(err) || Unavailable(err) {
		t.Errorf("a tag that isn't there: %v", err)
	}
	there.Inject(0, nil, proxytest.Status(403, "DENIED"))
	if _, err := r.Resolve(t.Context(), repo, "latest"); !Denied(err) || Unavailable(err) {
		t.Errorf("a refusal: %v", err)
	}
}

// What is handed to clients as it came must come from the registry itself: a redirect
// would have the gateway read out what only it can reach.
func TestHistoryFromElsewhere(t *testing.T) {
	secret := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"AccessKeyId":"ASIA","SecretAccessKey":"marker-of-a-secret","Token":"x"}`)
	}))
	defer secret.Close()
	s, r := start(t, proxytest.Origin{})
	s.Inject(0, nil, proxytest.Redirect(secret.URL))
	if b, err := r.TagHistory(t.Context(), repo, "latest", nil); err == nil {
		t.Errorf("the registry had the gateway read %s", b)
	}
}

// A registry that has had enough says when to come back, and is left alone till then.
func TestTooManyRequests(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	s.PutManifest(repo, "latest", "", []byte(plainManifest))
	remove := s.Inject(0, proxytest.Request{Method: http.MethodGet, Kind: proxytest.KindManifest}.Matches, proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "7"))
	for i := range 5 {
		_, err := r.Manifest(t.Context(), repo, "latest")
		if !hasStatus(err, 429) || !Unavailable(err) || retryAfterOf(err) < time.Second || retryAfterOf(err) > 7*time.Second {
			t.Errorf("try %d: %v, Retry-After %v", i, err, retryAfterOf(err))
		}
	}
	if n := s.Count(proxytest.Request{Kind: proxytest.KindManifest}); n != 1 {
		t.Errorf("the registry was asked %d times while it wanted none", n)
	}
	if _, err := r.Resolve(t.Context(), repo, "latest"); err != nil {
		t.Errorf("what it doesn't count: %v", err)
	}
	remove()
	r.pauses.mu.Lock()
	for k, p := range r.pauses.kept { // time passes
		p.until = time.Now()
		r.pauses.kept[k] = p
	}
	r.pauses.mu.Unlock()
	if _, err := r.Manifest(t.Context(), repo, "latest"); err != nil {
		t.Errorf("later: %v", err)
	}
}

// All pages of referrers together are bounded as one is.
func TestEndlessReferrers(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	var pages atomic.Int32
	filler := strings.Repeat("x", 3<<20)
	s.Inject(0, nil, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		n := pages.Add(1)
		w.Header().Set("Link", fmt.Sprintf(`<%s?p=%d>; rel="next"`, q.URL.Path, n))
		fmt.Fprintf(w, `{"manifests":[{"annotations":{"a":"%s"}}]}`, filler)
	})
	if _, err := r.Referrers(t.Context(), repo, digest.FromString("x"), ""); !errors.Is(err, ErrContent) {
		t.Errorf("got %v", err)
	}
	if n := pages.Load(); n > 8 {
		t.Errorf("%d pages of 3 MiB were read", n)
	}
}

// A redirect leads no nearer to the gateway than the registry itself is, and nowhere to
// where machines keep their credentials.
func TestRedirectsLeadOutward(t *testing.T) {
	for _, tt := range []struct {
		from, to string
		ok       bool
	}{
		{"151.101.1.1", "52.216.8.8", true},
		{"151.101.1.1", "10.1.2.3", false},
		{"151.101.1.1", "100.64.0.1", false},
		{"151.101.1.1", "127.0.0.1", false},
		{"151.101.1.1", "::1", false},
		{"151.101.1.1", "::ffff:127.0.0.1", false},
		{"151.101.1.1", "64:ff9b::7f00:1", false},
		{"151.101.1.1", "64:ff9b::808:808", true},
		{"151.101.1.1", "fd12::1", false},
		{"2a04:4e42::1", "2600:9000::1", true},
		{"10.1.2.3", "52.216.8.8", true},
		{"10.1.2.3", "192.168.1.1", true},
		{"10.1.2.3", "127.0.0.1", false},
		{"127.0.0.1", "127.0.0.2", true},
		{"127.0.0.1", "10.1.2.3", true},
		{"127.0.0.1", "169.254.169.254", false},
		{"127.0.0.1", "::ffff:169.254.169.254", false},
		{"10.1.2.3", "fd00:ec2::254", false},
		{"10.1.2.3", "100.100.100.200", false},
		{"127.0.0.1", "168.63.129.16", false},
		{"127.0.0.1", "fe80::1", false},
		{"127.0.0.1", "0.0.0.0", false},
		{"127.0.0.1", "::", false},
		{"127.0.0.1", "224.0.0.1", false},
	} {
		err := outward(distanceOf(netip.MustParseAddr(tt.from)), netip.MustParseAddr(tt.to))
		if (err == nil) != tt.ok {
			t.Errorf("from %s to %s: %v", tt.from, tt.to, err)
		}
	}
}

// The rule is kept where connections are made, whatever a name resolves to: here by a
// registry that is taken for a public one after its first answer.
func TestRedirectToTheGatewayItself(t *testing.T) {
	admin := newCollector(t, false)
	u, err := url.Parse(admin.URL)
	if err != nil {
		t.Fatal(err)
	}
	s, r := start(t, guarded)
	desc := putBlob(s, content(1000))
	for _, to := range []string{admin.URL, "http://localhost:" + u.Port(), "http://LOCALHOST:" + u.Port(), "http://169.254.169.254/latest/meta-data/"} {
		inside := func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			r.distance.Store(int32(public))
			proxytest.Redirect(to)(w, q, next)
		}
		remove := s.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, inside)
		_, err := readBlob(t.Context(), r, desc)
		if err == nil || !strings.Contains(err.Error(), "redirect_hosts") {
			t.Errorf("%s: %v", to, err)
		}
		remove()
		anonymous := client(t, s, Credentials{})
		remove = s.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			anonymous.distance.Store(int32(public))
			proxytest.Challenge(to)(w, q, next)
		})
		if _, err := anonymous.Resolve(t.Context(), repo, "latest"); err == nil || !strings.Contains(err.Error(), "redirect_hosts") {
			t.Errorf("realm %s: %v", to, err)
		}
		remove()
	}
	if _, n := admin.credentials(); n > 0 {
		t.Errorf("what only the gateway can reach was asked %d times", n)
	}
	// The operator may know better.
	r.RedirectHosts = []string{u.Host}
	s.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		r.distance.Store(int32(public))
		proxytest.Redirect(admin.URL)(w, q, next)
	})
	readBlob(t.Context(), r, desc)
	if _, n := admin.credentials(); n == 0 {
		t.Error("a host that is listed was not asked")
	}
}

// Headers without end, and preliminary answers without end, are answers that can't be
// read.
func TestHeadersWithoutEnd(t *testing.T) {
	for _, tls := range []bool{false, true} {
		s, r := start(t, proxytest.Origin{TLS: tls})
		s.PutManifest(repo, "latest", "", []byte(plainManifest))
		remove := s.Inject(0, nil, proxytest.SetHeader("X-Filler", strings.Repeat("x", 300_000)))
		if _, err := r.Manifest(t.Context(), repo, "latest"); !Unavailable(err) {
			t.Errorf("300 kB of headers, TLS %t: %v", tls, err)
		}
		remove()
		var sent atomic.Int32
		s.Inject(0, nil, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			for sent.Add(1) < 100_000 && q.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
			panic(http.ErrAbortHandler)
		})
		if _, err := r.Manifest(t.Context(), repo, "latest"); !Unavailable(err) || sent.Load() >= 100_000 {
			t.Errorf("%d preliminary answers, TLS %t: %v", sent.Load(), tls, err)
		}
	}
}
