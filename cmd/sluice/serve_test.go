package main

import (
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
)

// Whatever is asked below /v2 is answered by the registry, in its JSON, and never by a
// redirect to a path that looks better.
func TestRegistryPaths(t *testing.T) {
	h := &house{gateway: &proxy.Gateway{
		Upstreams: []proxy.Upstream{{Name: "cgr.dev"}},
		Auth:      &auth.Authenticator{Anonymous: true},
		Metrics:   proxy.NewMetrics(prometheus.NewRegistry()),
		Log:       slog.New(slog.DiscardHandler),
	}}
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/v2", 200},
		{"GET", "/v2/", 200},
		{"GET", "/v2//acme/app/manifests/1", 400},
		{"GET", "/v2/acme/./app/manifests/1", 400},
		{"GET", "/v2/acme/../app/manifests/1", 400},
		{"GET", "/v2/acme/app/manifests/1/", 404},
		{"PUT", "/v2//acme/app/manifests/1", 405},
		{"DELETE", "/v2", 405},
	} {
		w := httptest.NewRecorder()
		h.handler().ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
		body := w.Body.String()
		if w.Code != tt.status || w.Header().Get("Content-Type") != "application/json" || tt.status != 200 && !strings.HasPrefix(body, `{"errors":[{"code":"`) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, body)
		}
	}
}
