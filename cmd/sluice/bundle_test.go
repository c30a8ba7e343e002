package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// bundleOf is a bundle of one policy.
func bundleOf(t *testing.T, revision, rego string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"p.rego": rego, ".manifest": `{"revision": "` + revision + `"}`} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

const sober = `package sluice.policies.sober
violations contains {"policy": "sober", "message": "no"} if input.request.caller == "nobody"
`

// A bundleHost keeps a bundle where a gateway finds it.
type bundleHost struct {
	source string
	put    func(b []byte)
	close  func()
}

// bundleHosts are the kinds of them: a registry with a pull token, and a web server.
func bundleHosts(t *testing.T, c *configs.Config) map[string]bundleHost {
	t.Helper()
	user, password := proxytest.PullToken(time.Now().Add(24 * time.Hour))
	origin, err := proxytest.Start(proxytest.Origin{Username: user, Password: password, BlobRedirect: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	c.Upstreams = []configs.Upstream{{Name: "cgr.dev", URL: origin.URL()}}
	env, secret := connection.EnvNames("cgr.dev")
	t.Setenv(env, user)
	t.Setenv(secret, password)
	var body atomic.Pointer[[]byte]
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(*body.Load()) }))
	t.Cleanup(web.Close)
	return map[string]bundleHost{
		"registry": {"oci://cgr.dev/acme/policies:v1", func(b []byte) {
			img, err := mutate.AppendLayers(empty.Image, static.NewLayer(b, types.OCILayer))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := origin.PushImage("acme/policies", "v1", img); err != nil {
				t.Fatal(err)
			}
		}, func() { origin.Close() }},
		"server": {web.URL + "/policies.tar.gz?signature=hunter2", func(b []byte) { body.Store(&b) }, web.Close},
	}
}

// TestBundles: a gateway decides by the newest good bundle of a registry or a server, says
// what is wrong with a newer one, and starts with the last good one while there is none to
// be had.
func TestBundles(t *testing.T) {
	c := configs.Default()
	c.StateDir = t.TempDir()
	c.Database.UpdateEvery = 0
	hosts := bundleHosts(t, &c)
	for name, host := range hosts {
		t.Run(name, func(t *testing.T) {
			c := c
			c.StateDir = filepath.Join(c.StateDir, name)
			c.Policy.Bundle.Source = host.source
			host.put(bundleOf(t, "one", sober))
			c, err := c.Resolve(func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			c.Policy.Bundle.Every = 20 * time.Millisecond
			h, stop := bundleHouse(t, c)
			set := func() (s struct {
				Source, Revision string
				Bundle           string   `json:"bundle_revision"`
				LastError        string   `json:"last_error"`
				Upstreams        []string `json:"upstreams"`
				Listings         []struct{ Package string }
			}) {
				t.Helper()
				w := httptest.NewRecorder()
				h.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/api/v1/policies", nil))
				var all map[string][]json.RawMessage
				if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil || len(all["sets"]) != 1 {
					t.Fatalf("%v: %s", err, w.Body)
				}
				if err := json.Unmarshal(all["sets"][0], &s); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(w.Body.String(), "hunter2") {
					t.Errorf("a secret is told: %s", w.Body)
				}
				return s
			}
			if s := set(); s.Bundle != "one" || s.LastError != "" || len(s.Upstreams) != 1 || s.Listings[1].Package != "sober" {
				t.Errorf("%+v", s)
			}
			host.put(bundleOf(t, "two", sober))
			waitFor(t, "the newer bundle decides", func() bool { return set().Bundle == "two" })
			host.put(bundleOf(t, "three", strings.Replace(sober, "input.request.caller", "input.request.calller", 1)))
			waitFor(t, "that it is bad is told", func() bool { return strings.Contains(set().LastError, "p.rego:2") })
			if s := set(); s.Bundle != "two" {
				t.Errorf("%+v", s)
			}
			if d := policiesCheck(h.policies[""].Status()).Detail; !strings.Contains(d, "p.rego:2") {
				t.Errorf("readiness: %s", d)
			}
			host.close()
			stop()
			h, stop = bundleHouse(t, c)
			defer stop()
			if s := set(); s.Bundle != "two" || s.LastError == "" {
				t.Errorf("a start while there is none to be had: %+v", s)
			}
		})
	}
}

// bundleHouse builds a gateway that follows its policies until stop.
func bundleHouse(t *testing.T, c configs.Config) (h *house, stop func()) {
	t.Helper()
	h, err := build(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.bundle.mirror.Run(ctx) })
	wg.Go(func() { _ = h.policies[""].Run(ctx) })
	return h, sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
}

// waitFor waits for what others bring about.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}
