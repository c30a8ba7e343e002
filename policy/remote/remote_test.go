package remote_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy/remote"
)

// A host serves one file over TLS to who has the token.
type host struct {
	*httptest.Server
	body    atomic.Pointer[string]
	handler atomic.Pointer[http.HandlerFunc] // in place of it
	asked   atomic.Int64
	sent    atomic.Int64 // bodies
}

const token = "t0ken-nobody-may-see"

func newHost(t *testing.T, body string) *host {
	h := &host{}
	h.body.Store(&body)
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := h.handler.Load(); f != nil {
			(*f)(w, r)
			return
		}
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.asked.Add(1)
		text := *h.body.Load()
		w.Header().Set("ETag", `"`+text+`"`)
		if r.Header.Get("If-None-Match") == `"`+text+`"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.sent.Add(1)
		w.Write([]byte(text))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *host) is(body string) { h.body.Store(&body) }

// web returns how a gateway asks it.
func (h *host) web(t *testing.T) remote.Web {
	t.Helper()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	put(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})))
	put(t, filepath.Join(dir, "token"), token+"\n")
	return remote.Web{URL: h.URL + "/b.tar.gz?signature=hunter2", CAFile: ca, TokenFile: filepath.Join(dir, "token"), Max: 1 << 20}
}

func put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, m *remote.Mirror) string {
	t.Helper()
	b, err := os.ReadFile(m.File)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mirror returns a mirror of h whose Check refuses what begins with "bad".
func mirror(t *testing.T, h *host, file string) *remote.Mirror {
	t.Helper()
	return &remote.Mirror{
		From: h.URL, Fetch: h.web(t).Fetch, File: file, Every: 5 * time.Millisecond,
		Check: func(_ context.Context, b []byte) error {
			if strings.HasPrefix(string(b), "bad") {
				return errors.New("policies: x.rego:1: it is bad")
			}
			return nil
		},
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// TestMirror is the life of a bundle on a server: there, changed, broken, mended, gone; and
// what a gateway that starts then begins with.
func TestMirror(t *testing.T) {
	h := newHost(t, "one")
	m := mirror(t, h, filepath.Join(t.TempDir(), "policies", "b.tar.gz"))
	if err := m.Open(t.Context()); err != nil || content(t, m) != "one" {
		t.Fatalf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	h.is("two")
	eventually(t, "the change arrives", func() bool { return content(t, m) == "two" })
	h.is("bad")
	eventually(t, "the bad one is told of", func() bool { return m.Behind() != nil })
	if err := m.Behind().Error(); !strings.Contains(err, "x.rego:1") || content(t, m) != "two" {
		t.Errorf("%s, and the file holds %q", err, content(t, m))
	}
	later := mirror(t, h, m.File)
	if err := later.Open(t.Context()); err != nil || later.Behind() == nil || content(t, later) != "two" {
		t.Errorf("a start while it is bad: %v, %v", err, later.Behind())
	}
	h.is("three")
	eventually(t, "the mended one arrives", func() bool { return m.Behind() == nil && content(t, m) == "three" })
	sent, asked := h.sent.Load(), h.asked.Load()
	eventually(t, "it is asked again", func() bool { return h.asked.Load() > asked+2 })
	h.Close()
	eventually(t, "that the server is gone is told of", func() bool { return m.Behind() != nil })
	if h.sent.Load() != sent {
		t.Error("what had not changed was sent again")
	}
	later = mirror(t, h, m.File)
	if err := later.Open(t.Context()); err != nil || content(t, later) != "three" {
		t.Errorf("a start while the server is gone: %v", err)
	}
	put(t, m.File, "bad, by a key that was changed meanwhile")
	if err := later.Open(t.Context()); err == nil || !strings.Contains(err.Error(), "kept can't be used") {
		t.Errorf("a start with a bad one kept: %v", err)
	}
	if err := mirror(t, h, filepath.Join(t.TempDir(), "none")).Open(t.Context()); err == nil || !strings.Contains(err.Error(), "no earlier one is kept") {
		t.Errorf("a first start while the server is gone: %v", err)
	}
}

// TestServers: whatever a server does, it ends in an error that says it, without secrets.
func TestServers(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("theirs")) }))
	defer other.Close()
	stalled := make(chan struct{})
	defer close(stalled)
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		change func(w *remote.Web)
		want   string
	}{
		"an error":        {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, want: "500"},
		"nothing there":   {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }, want: "404"},
		"not modified":    {answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }, want: "304"},
		"another token":   {change: func(w *remote.Web) { w.TokenFile = "" }, want: "401 Unauthorized; put a bearer token"},
		"no token":        {change: func(w *remote.Web) { w.TokenFile = "/nowhere/token" }, want: "/nowhere/token"},
		"two lines":       {change: func(w *remote.Web) { w.TokenFile = w.CAFile }, want: "more than one line"},
		"not trusted":     {change: func(w *remote.Web) { w.CAFile = "" }, want: "certificate"},
		"no authorities":  {change: func(w *remote.Web) { w.CAFile = w.TokenFile }, want: "no PEM certificate"},
		"too large":       {change: func(w *remote.Web) { w.Max = 2 }, want: "larger than"},
		"to another host": {answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) }, want: "redirects to " + other.URL},
		"in circles":      {answer: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.String(), http.StatusFound) }, want: "more than 5 redirects"},
		"cut off": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("some"))
		}, want: "unexpected EOF"},
		"stalled": {answer: func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-stalled:
			case <-r.Context().Done():
			}
		}, want: "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "one")
			if tt.answer != nil {
				h.handler.Store(&tt.answer)
			}
			w := h.web(t)
			if tt.change != nil {
				tt.change(&w)
			}
			wait := time.Minute
			if name == "stalled" {
				wait = 100 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			b, _, err := w.Fetch(ctx, "")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("%q, %v, want %q", b, err, tt.want)
			}
			for _, secret := range []string{token, "hunter2"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v tells %s", err, secret)
				}
			}
		})
	}
}
