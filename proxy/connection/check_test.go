package connection

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
)

const repo = "example.com/python"

// states lists a result's steps as "name state".
func states(r Result) []string {
	var s []string
	for _, step := range r.Steps {
		s = append(s, step.Name+" "+string(step.State))
	}
	return s
}

func detail(r Result, name string) string {
	for _, step := range r.Steps {
		if step.Name == name {
			return step.Detail
		}
	}
	return ""
}

// probe starts an origin with an image in it, breaks it, and tests a connection to it.
func probe(t *testing.T, o proxytest.Origin, c upstream.Credentials, reference string, spoil func(*proxytest.Server, *upstream.Registry)) Result {
	t.Helper()
	s, err := proxytest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PushImage(repo, "latest", img); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	r := &upstream.Registry{Name: "cgr.dev", URL: strings.Replace(s.URL(), "127.0.0.1", "localhost", 1), RootCAs: s.Certificates(), Backoff: time.Millisecond,
		Log: slog.New(slog.NewTextHandler(&logged, nil))}
	if spoil != nil {
		spoil(s, r)
	}
	var told []Step
	result := Test(t.Context(), r, c, reference, func(s Step) { told = append(told, s) })
	if diff := cmp.Diff(result.Steps, told); diff != "" {
		t.Errorf("the steps that were reported differ: %s", diff)
	}
	b, err := json.Marshal(result)
	if err != nil || c.Password != "" && strings.Contains(string(b)+logged.String(), c.Password) {
		t.Errorf("the password shows in %s %s, %v", b, logged.String(), err)
	}
	return result
}

func TestTest(t *testing.T) {
	user, pass := proxytest.PullToken(time.Now().Add(300 * 24 * time.Hour))
	good := upstream.Credentials{Username: user, Password: pass}
	guarded := proxytest.Origin{Username: user, Password: pass, TLS: true, BlobRedirect: true, Entitled: func(n string) bool { return n != "other.com/x" }}
	plain := guarded
	plain.TLS = false
	inject := func(kind string, f proxytest.Fault) func(*proxytest.Server, *upstream.Registry) {
		return func(s *proxytest.Server, _ *upstream.Registry) { s.Inject(0, proxytest.Request{Kind: kind}.Matches, f) }
	}
	for _, tt := range []struct {
		what      string
		origin    proxytest.Origin
		creds     upstream.Credentials
		reference string
		spoil     func(*proxytest.Server, *upstream.Registry)
		states    string // of token name connect challenge login manifest blob
		step      string // whose detail says
		says      string
	}{
		{"all is well", guarded, good, repo, nil, "ok ok ok ok ok ok ok", StepBlob, "blobs come from https://localhost:"},
		{"by tag", guarded, good, repo + ":latest", nil, "ok ok ok ok ok ok ok", StepPull, repo + ":latest is sha256:"},
		{"no repository", guarded, good, "", nil, "ok ok ok ok ok skip skip", StepEndpoint, "gets a token, good for"},
		{"plain HTTP", plain, good, repo, nil, "ok ok warn ok ok ok ok", StepConnect, "without TLS"},
		{"wrong password", guarded, upstream.Credentials{Username: user, Password: "wrong-one"}, repo, nil, "warn ok ok ok fail skip skip", StepEndpoint, "wrong, expired or revoked"},
		{"not entitled", guarded, good, "other.com/x", nil, "ok ok ok ok fail skip skip", StepEndpoint, "may not read other.com/x"},
		{"no such tag", guarded, good, repo + ":none", nil, "ok ok ok ok ok fail skip", StepPull, "check its spelling"},
		{"anonymous, private", guarded, upstream.Credentials{}, repo, nil, "skip ok ok ok fail skip skip", StepEndpoint, "set a pull token"},
		{"anonymous, open", proxytest.Origin{TLS: true}, upstream.Credentials{}, repo, nil, "skip ok ok ok skip ok ok", StepIdentify, "no credentials are asked for"},
		{"the manifest is refused", guarded, good, repo, inject(proxytest.KindManifest, proxytest.Status(403, "DENIED")), "ok ok ok ok ok fail skip", StepPull, "entitlement"},
		{"token endpoint down", guarded, good, repo, inject(proxytest.KindToken, proxytest.Status(503, "")), "ok ok ok ok fail skip skip", StepEndpoint, "problem of its own"},
		{"blob storage refuses", guarded, good, repo, inject(proxytest.KindStorage, proxytest.Status(403, "")), "ok ok ok ok ok ok fail", StepBlob, "allow this machine to reach"},
		{"no registry", guarded, good, repo, inject(proxytest.KindPing, proxytest.Status(404, "")), "ok ok fail skip skip skip skip", StepConnect, "does not look like a container registry"},
		{"realm elsewhere", guarded, good, repo, inject(proxytest.KindPing, proxytest.Challenge("https://127.0.0.1:1/token")), "ok ok ok warn fail skip skip", StepIdentify, "realm_hosts"},
		{"realm over http", guarded, good, repo, inject(proxytest.KindPing, proxytest.Challenge("http://127.0.0.1:1/token")), "ok ok ok fail skip skip skip", StepIdentify, "not https"},
		{"unknown authority", guarded, good, repo, func(_ *proxytest.Server, r *upstream.Registry) { r.RootCAs = nil }, "ok ok fail skip skip skip skip", StepConnect, "set the upstream's ca_file"},
		{"no TLS there", plain, good, repo, func(_ *proxytest.Server, r *upstream.Registry) { r.URL = strings.Replace(r.URL, "http:", "https:", 1) }, "ok ok fail skip skip skip skip", StepConnect, "does not speak TLS"},
		{"nobody there", guarded, good, repo, func(s *proxytest.Server, _ *upstream.Registry) { s.Close() }, "ok ok fail skip skip skip skip", StepConnect, "connection refused"},
		{"an address", guarded, good, repo, func(s *proxytest.Server, r *upstream.Registry) { r.URL = s.URL() }, "ok skip ok ok ok ok ok", StepName, "is an address"},
		{"no such name", guarded, good, repo, func(_ *proxytest.Server, r *upstream.Registry) { r.URL = "https://no-such-host.invalid" }, "ok fail skip skip skip skip skip", StepName, "does not resolve"},
		{"no URL", guarded, good, repo, func(_ *proxytest.Server, r *upstream.Registry) { r.URL = "cgr.dev" }, "ok fail skip skip skip skip skip", StepName, "https://HOST"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if strings.Contains(tt.what, "no such name") {
				if _, err := net.DefaultResolver.LookupHost(t.Context(), "no-such-host.invalid"); err == nil {
					t.Skip("this machine resolves no-such-host.invalid")
				}
			}
			r := probe(t, tt.origin, tt.creds, tt.reference, tt.spoil)
			names := []string{StepToken, StepName, StepConnect, StepIdentify, StepEndpoint, StepPull, StepBlob}
			var want []string
			for i, s := range strings.Fields(tt.states) {
				want = append(want, names[i]+" "+s)
			}
			if diff := cmp.Diff(want, states(r)); diff != "" {
				t.Errorf("%s\n%+v", diff, r.Steps)
			}
			if d := detail(r, tt.step); !strings.Contains(d, tt.says) {
				t.Errorf("%s says %q, want %q", tt.step, d, tt.says)
			}
			if r.OK == strings.Contains(tt.states, "fail") {
				t.Errorf("OK is %t", r.OK)
			}
		})
	}
}

func TestTestExpiry(t *testing.T) {
	for _, tt := range []struct {
		left  time.Duration
		state State
		says  string
	}{
		{300*24*time.Hour + time.Minute, OK, "in 300 days"},
		{5*24*time.Hour + time.Minute, Warn, "in 5 days; make a new one soon"},
		{-time.Hour, Fail, "chainctl auth pull-token create"},
	} {
		user, pass := proxytest.PullToken(time.Now().Add(tt.left))
		// What a token says of itself ends nothing: the registry has the last word.
		r := probe(t, proxytest.Origin{Username: user, Password: pass, TLS: true}, upstream.Credentials{Username: user, Password: pass}, repo, nil)
		if s := r.Steps[0]; s.State != tt.state || !strings.Contains(s.Detail, tt.says) || !strings.Contains(s.Detail, user[:40]) {
			t.Errorf("%v left: %+v", tt.left, s)
		}
		if last := r.Steps[len(r.Steps)-1]; last.State != OK || r.OK != (tt.state != Fail) {
			t.Errorf("%v left: OK %t, %+v", tt.left, r.OK, last)
		}
	}
}

func TestTestEndsWithItsContext(t *testing.T) {
	s, err := proxytest.Start(proxytest.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s.Inject(0, nil, func(_ http.ResponseWriter, q *http.Request, _ http.Handler) { cancel(); <-q.Context().Done() })
	r := Test(ctx, &upstream.Registry{Name: "x", URL: s.URL()}, upstream.Credentials{}, repo, nil)
	if r.OK {
		t.Errorf("a test that was cancelled is fine: %+v", r.Steps)
	}
}

func TestCertificateEndsSoon(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(100 * time.Hour)}
	if endsSoon(c, begin.Add(89*time.Hour)) || !endsSoon(c, begin.Add(91*time.Hour)) {
		t.Error("a certificate should be renewed in the last tenth of its life")
	}
}

func TestSplitReference(t *testing.T) {
	for in, want := range map[string][2]string{
		"a/b": {"a/b", "latest"}, "a/b:1": {"a/b", "1"}, "a/b@sha256:00": {"a/b", "sha256:00"}, "a:5000/b": {"a:5000/b", "latest"}, "": {"", "latest"},
	} {
		if repo, ref := splitReference(in); repo != want[0] || ref != want[1] {
			t.Errorf("%s: %s, %s", in, repo, ref)
		}
	}
}
