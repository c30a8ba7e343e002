package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// A gateway that stops waits for the pulls that are under way, request after request,
// and for nobody who knocks meanwhile.
func TestDrain(t *testing.T) {
	ask := func(t *traffic, from, method, path string, took time.Duration) *httptest.ResponseRecorder {
		r, w := httptest.NewRequest(method, path, nil), httptest.NewRecorder()
		r.RemoteAddr = from + ":4711"
		t.count(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { time.Sleep(took) })).ServeHTTP(w, r)
		return w
	}
	const manifest, blob = "/v2/acme/web/manifests/1", "/v2/acme/web/blobs/sha256:aa"
	for name, tt := range map[string]struct {
		before func(*traffic)
		during func(*traffic)
		want   time.Duration
	}{
		"nobody is there": {func(*traffic) {}, func(*traffic) {}, 0},
		"nobody has been there for a while": {func(tr *traffic) { ask(tr, "10.0.0.1", "GET", blob, 0); time.Sleep(drainQuiet) },
			func(tr *traffic) { ask(tr, "10.0.0.1", "GET", blob, time.Minute) }, 0},
		"a response is open": {func(tr *traffic) { go ask(tr, "10.0.0.1", "GET", blob, 30*time.Second) }, func(*traffic) {}, 30*time.Second + drainQuiet},
		"a pull goes on": {func(tr *traffic) { ask(tr, "10.0.0.1", "GET", manifest, 0) }, func(tr *traffic) {
			for range 5 {
				ask(tr, "10.0.0.1", "GET", blob, 2*time.Second)
				time.Sleep(time.Second)
			}
		}, 4*3*time.Second + 2*time.Second + drainQuiet},
		"others begin": {func(tr *traffic) { ask(tr, "10.0.0.1", "GET", blob, 0) }, func(tr *traffic) {
			for range 20 {
				ask(tr, "10.0.0.2", "GET", manifest, time.Second)
				ask(tr, "10.0.0.2", "GET", blob, time.Second)
			}
		}, drainQuiet},
		"somebody knocks": {func(tr *traffic) { ask(tr, "10.0.0.1", "GET", manifest, 0) }, func(tr *traffic) {
			for range 20 {
				ask(tr, "10.0.0.1", "GET", "/v2/", time.Second)
				ask(tr, "10.0.0.1", "HEAD", manifest, time.Second)
				ask(tr, "10.0.0.1", "GET", manifest, time.Second)
			}
		}, drainQuiet},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := &traffic{}
				tt.before(tr)
				synctest.Wait()
				began, over := time.Now(), make(chan time.Time, 1)
				go func() { tr.drain(context.Background()); over <- time.Now() }()
				synctest.Wait()
				tt.during(tr)
				if took := (<-over).Sub(began); took != tt.want {
					t.Errorf("it took %s, want %s", took, tt.want)
				}
				if w := ask(tr, "10.0.0.1", "GET", manifest, 0); w.Header().Get("Connection") != "close" {
					t.Error("a client may keep its connection to a gateway that ends")
				}
			})
		})
	}
}
