package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/api"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// oracle answers for one image and remembers what it was asked.
type oracle struct {
	ref, platform string
	wait          time.Duration
}

func (o *oracle) Answer(_ context.Context, _ auth.Caller, ref, platform string, deadline time.Time) (policy.Answer, error) {
	o.ref, o.platform, o.wait = ref, platform, time.Until(deadline)
	if ref != "acme/web:1" {
		return policy.Answer{}, &proxy.Error{Status: 404, Code: "MANIFEST_UNKNOWN", Message: "no such image"}
	}
	return policy.NewAnswer(policy.Input{Image: policy.Image{Reference: ref}}, policy.Decision{ID: "1", Allow: true}), nil
}

func (o *oracle) Check(ctx context.Context, caller auth.Caller, q proxy.Question, deadline time.Time) (policy.Answer, error) {
	if q.Image == "acme/broken:1" {
		return policy.Answer{}, errors.New("marker of an inner fault")
	}
	a, err := (&oracle{}).Answer(ctx, caller, q.Image, q.Platform, deadline)
	if q.Namespace == "prod" {
		a.Decision.Allow, a.Decision.Mode = false, policy.Enforce
	}
	a.Image.Platform = strings.Join([]string{q.Platform, q.Namespace, q.Action}, " ")
	return a, err
}

func (o *oracle) Explain(ctx context.Context, caller auth.Caller, ref, platform string, deadline time.Time) (policy.Explanation, error) {
	a, err := o.Answer(ctx, caller, ref, platform, deadline)
	return policy.Explain(a), err
}

// admit lets everyone in, or nobody.
func admit(anonymous bool) func(*http.Request) (auth.Caller, func(), error) {
	return func(*http.Request) (auth.Caller, func(), error) {
		if !anonymous {
			return auth.Caller{}, nil, &proxy.Error{Status: 401, Code: "UNAUTHORIZED", Challenge: `Basic realm="sluice"`, Message: "log in with: docker login"}
		}
		return auth.Caller{}, func() {}, nil
	}
}

func TestVerdict(t *testing.T) {
	for _, tt := range []struct {
		description, method, url string
		anonymous                bool
		code                     int
		want                     string
	}{
		{"an image", "GET", "/api/v1/verdict?image=acme/web:1&platform=linux/arm64&wait=3s", true, 200, `"allow": true`},
		{"an explanation", "GET", "/api/v1/explain?image=acme/web:1&platform=linux/arm64&wait=3s", true, 200, `"silent": []`},
		{"an explanation of nothing", "GET", "/api/v1/explain?image=acme/none:1", true, 404, "no such image"},
		{"an explanation for an unknown caller", "GET", "/api/v1/explain?image=acme/web:1", false, 401, "docker login"},
		{"who pulls what", "POST", "/api/v1/policies/what-if", true, 403, "sluice policy what-if"},
		{"an image that is none", "GET", "/api/v1/verdict?image=acme/none:1", true, 404, "no such image"},
		{"a wait that is none", "GET", "/api/v1/verdict?image=acme/web:1&wait=long", true, 400, "wait must be a duration"},
		{"a wait without end", "GET", "/api/v1/verdict?image=acme/web:1&wait=999h", true, 400, "wait must be a duration"},
		{"another method", "POST", "/api/v1/verdict?image=acme/web:1", true, 405, "only GET"},
		{"another path", "GET", "/api/v1/frobnicate", true, 404, "/api/v1/verdict"},
		{"an unknown caller", "GET", "/api/v1/verdict?image=acme/web:1", false, 401, "docker login"},
	} {
		t.Run(tt.description, func(t *testing.T) {
			o := &oracle{}
			h := &api.Handler{Gateway: o, Admit: admit(tt.anonymous), Log: slog.New(slog.DiscardHandler)}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.url, nil))
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if tt.code == 200 && (o.platform != "linux/arm64" || o.wait > 3*time.Second || o.wait < time.Second) {
				t.Errorf("asked for %s within %s", o.platform, o.wait)
			}
			if challenge := w.Header().Get("WWW-Authenticate"); (tt.code == 401) != (challenge != "") {
				t.Errorf("challenge %q", challenge)
			}
		})
	}
}

// A pull token goes in and never comes out.
func TestConnections(t *testing.T) {
	const secret = "marker-of-a-password"
	var logged bytes.Buffer
	vault := &connection.Vault{Store: &cache.Memory{}, Key: connection.Key{1, 2, 3}, Upstreams: []string{"cgr.dev"}, Getenv: func(string) string { return "" }}
	h := (&api.Connections{Vault: vault, Log: slog.New(slog.NewTextHandler(&logged, nil)), Registry: func(name string) *upstream.Registry {
		if name != "cgr.dev" {
			return nil
		}
		return &upstream.Registry{Name: name, URL: "http://127.0.0.1:1", Credentials: vault.For(name)}
	}}).Handler()
	call := func(method, path, body string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		b, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), secret) {
			t.Errorf("%s %s answers with the password: %s", method, path, b)
		}
		return w.Code, string(b)
	}
	token, err := json.Marshal(map[string]string{"username": "someone", "password": secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"PUT", "/api/v1/connections/ghcr.io", string(token), http.StatusNotFound, "no upstream of that name"},
		{"PUT", "/api/v1/connections/cgr.dev", `{"password":"` + secret + `"`, http.StatusBadRequest, "username and password"},
		{"PUT", "/api/v1/connections/cgr.dev", string(token), http.StatusOK, ""},
		{"GET", "/api/v1/connections", "", http.StatusOK, `"username": "someone"`},
		{"POST", "/api/v1/connections/cgr.dev/test", "", http.StatusOK, `"ok": false`},
		{"DELETE", "/api/v1/connections/cgr.dev", "", http.StatusOK, ""},
		{"GET", "/api/v1/connections", "", http.StatusOK, `"source": "none"`},
	} {
		if code, body := call(tt.method, tt.path, tt.body); code != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, code, body)
		}
	}
	if strings.Contains(logged.String(), secret) {
		t.Errorf("the password is in the log: %s", logged.String())
	}
}
