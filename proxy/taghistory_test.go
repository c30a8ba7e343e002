package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// Chainguard's tag history comes through as its registry wrote it; nothing else of a
// client's query goes there, and a path that looks like it doesn't.
func TestTagHistory(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Upstreams[0].Deny = []string{"secret/**"} })
	l.push("acme/app", "one", 1000)
	l.push("acme/app", "one", 1001)
	l.push("secret/app", "one", 1000)
	const path = "/v2/acme/app/_chainguard/history/one"
	var mu sync.Mutex // guards asked
	var asked []string
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindHistory}.Matches, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		asked = append(asked, r.URL.RawQuery)
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	plain := []string{"Content-Type: application/json", "Docker-Content-Digest:"}
	l.check(exchange{what: "the history", path: path, status: 200, want: plain})
	l.check(exchange{what: "with a start, and for an upstream by name", path: "/v2/acme/app/_chainguard/history/one?start=2026-01-01T00%3A00%3A00Z&ns=cgr.test&x=y", status: 200, want: plain})
	var doc struct {
		History []struct{ Digest, UpdateTimestamp string }
	}
	if r := l.ask("GET", path); json.Unmarshal(r.body, &doc) != nil || len(doc.History) != 2 || doc.History[0].Digest == doc.History[1].Digest {
		t.Errorf("%d %s", r.status, r.body)
	}
	mu.Lock()
	slices.Sort(asked)
	if got := slices.Compact(asked); !slices.Equal(got, []string{"", "start=2026-01-01T00%3A00%3A00Z"}) {
		t.Errorf("upstream was asked with %q", got)
	}
	mu.Unlock()
	for _, tt := range []exchange{
		{what: "no such tag", path: "/v2/acme/app/_chainguard/history/none", status: 404, says: "MANIFEST_UNKNOWN"},
		{what: "not a tag", path: "/v2/acme/app/_chainguard/history/.x", status: 404, says: "not a valid tag"},
		{what: "a way out", path: "/v2/acme/app/_chainguard/history/x%2F..%2F..%2Fmanifests%2Fone", status: 404, says: "not a valid tag"},
		{what: "no name", path: "/v2/_chainguard/history/one", status: 404, says: "no such path"},
		{what: "a name that is none", path: "/v2/a/_chainguard/history/b/_chainguard/history/one", status: 400, says: "NAME_INVALID"},
		{what: "another thing of Chainguard's", path: "/v2/acme/app/_chainguard/secrets/one", status: 404, says: "no such path"},
		{what: "two starts", path: path + "?start=a&start=b", status: 400, says: "start must be one"},
		{what: "an end without end", path: path + "?end=" + strings.Repeat("9", 100), status: 400, says: "end must be one"},
		{what: "a repository that is not let through", path: "/v2/secret/app/_chainguard/history/one", status: 403, says: "upstreams.deny"},
		{what: "a write", method: "PUT", path: path, status: 405, says: "UNSUPPORTED"},
	} {
		l.check(tt)
	}
}

// A registry that answers something else than JSON, or without end, is not passed on.
func TestTagHistoryThatIsNone(t *testing.T) {
	t.Parallel()
	for what, answer := range map[string]string{"a page for people": "<html>", "too much": `"` + strings.Repeat("x", 5<<20) + `"`} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindHistory}.Matches, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				fmt.Fprint(w, answer)
			})
			l.check(exchange{what: what, path: "/v2/acme/app/_chainguard/history/one", status: 502, says: "something else"})
		})
	}
}
