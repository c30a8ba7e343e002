package api_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/api"
)

// TestWaivers is the life of a waiver, and everything that can be wrong with asking for one.
func TestWaivers(t *testing.T) {
	book := &policy.Exceptions{Store: &cache.Memory{}, Filed: func() ([]policy.Waiver, error) { return []policy.Waiver{{ID: "filed"}}, nil }}
	if err := book.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	h := (&api.Waivers{Book: book, Log: slog.New(slog.DiscardHandler)}).Handler()
	const good = `{"id": "a/b c", "owner": "anna", "reason": "why", "scope": {"advisory": "CVE-1"}, "expires": "30d"}`
	for _, tt := range []struct {
		description, method, path, body string
		code                            int
		want                            string
	}{
		{"none yet", "GET", "", "", 200, `"id": "filed"`},
		{"no JSON", "POST", "", "owner=anna", 400, "want a JSON object with owner"},
		{"a misspelt key", "POST", "", strings.Replace(good, "expires", "expire", 1), 400, `unknown field \"expire\"`},
		{"two of them", "POST", "", good + good, 400, "want a JSON object"},
		{"too large", "POST", "", `{"owner": "` + strings.Repeat("a", 1<<20), 400, "want a JSON object"},
		{"no expiry", "POST", "", strings.Replace(good, "30d", "", 1), 400, "expires is missing"},
		{"the kill list", "POST", "", strings.Replace(good, `"advisory": "CVE-1"`, `"policy": "kill_list"`, 1), 400, "kill_list can't be waived"},
		{"good", "POST", "", good, 200, `"state": "active"`},
		{"again", "POST", "", good, 409, "waiver a/b c is there already"},
		{"list", "GET", "", "", 200, `"source": "store"`},
		{"remove what is not there", "DELETE", "/none", "", 404, "there is no waiver"},
		{"remove what stands in the file", "DELETE", "/filed", "", 409, "stands in the waiver file; remove it there"},
		{"remove", "DELETE", "/a%2Fb%20c", "", 200, "{}"},
		{"remove again", "DELETE", "/a%2Fb%20c", "", 404, "there is no waiver"},
	} {
		t.Run(tt.description, func(t *testing.T) {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(tt.method, "/api/v1/waivers"+tt.path, strings.NewReader(tt.body)))
			if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, tt.code, tt.want)
			}
		})
	}
}

// lostBook is one whose store is gone.
type lostBook struct{ api.WaiverBook }

func (lostBook) List(context.Context) ([]policy.WaiverStatus, error) {
	return nil, errors.New("the store is gone")
}

func TestWaiversOfALostStore(t *testing.T) {
	w := httptest.NewRecorder()
	(&api.Waivers{Book: lostBook{}, Log: slog.New(slog.DiscardHandler)}).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/waivers", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), "the store is gone") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// TestCallersOnlyReadWaivers: who may pull may see them, and change none.
func TestCallersOnlyReadWaivers(t *testing.T) {
	h := &api.Handler{Gateway: &oracle{}, Admit: admit(true), Log: slog.New(slog.DiscardHandler),
		Waivers: func() []policy.WaiverStatus { return []policy.WaiverStatus{{Waiver: policy.Waiver{ID: "w-1"}}} }}
	for _, tt := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/api/v1/waivers", 200, `"id": "w-1"`},
		{"POST", "/api/v1/waivers", 405, "changed by `sluice waiver`"},
		{"DELETE", "/api/v1/waivers/w-1", 405, "changed by `sluice waiver`"},
		{"PUT", "/api/v1/waivers", 405, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, http.NoBody))
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, w.Body)
		}
	}
	h.Admit = admit(false)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/waivers", nil))
	if w.Code != 401 {
		t.Errorf("a stranger reads waivers: %d", w.Code)
	}
}
