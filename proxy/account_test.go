package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy"
)

// accessLog is a log that may be read while it is written.
type accessLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *accessLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *accessLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// requests returns the access lines.
func (l *accessLog) requests(t *testing.T) (rs []map[string]any) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(l.String()), "\n") {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		if r["msg"] == "request" {
			rs = append(rs, r)
		}
	}
	return rs
}

// TestAccessLine has one line for each request, which says who asked for what, what became
// of it, and what it waited for.
func TestAccessLine(t *testing.T) {
	log := &accessLog{}
	l := newLab(t, known("alice", "bob"), func(l *lab, _ *policy.Config) {
		l.gateway.Log = slog.New(slog.NewJSONHandler(log, nil))
		l.gateway.AccessLog = true
	})
	img := l.push("acme/web", "1", 100_000)
	l.engine.condemn(l.push("acme/bad", "1", 100_000).digest)
	as := func(name, path string) reply { return l.get("GET", path, 10*time.Second, "Authorization", basic(name)) }
	l.eventually("the image is decided", func() bool { return as("alice", "/v2/acme/web/manifests/1").status == 200 })
	blob := as("alice", "/v2/acme/web/blobs/"+img.layers[0].Digest.String())
	// Its first manifest may be older than its verdict, which a blob waits for.
	as("alice", "/v2/acme/web/manifests/1")
	l.eventually("the bad image is denied", func() bool { return as("bob", "/v2/acme/bad/manifests/1").status == 403 })
	l.get("GET", "/v2/", 10*time.Second, "Authorization", "Basic c2VjcmV0")
	as("alice", "/v2/acme/web/x?token=secret")

	for _, want := range []map[string]any{
		{"caller": "alice", "image": "cgr.test/acme/web:1", "resource": "manifest", "status": 200., "decision": "allow", "verdict": "complete", "address": "127.0.0.1"},
		{"caller": "alice", "image": "cgr.test/acme/web@" + img.layers[0].Digest.String(), "resource": "blob", "bytes": float64(len(blob.body)), "decision": "allow"},
		{"caller": "bob", "image": "cgr.test/acme/bad:1", "status": 403., "decision": "deny"},
		{"caller": "", "path": "/v2/", "status": 401.},
		{"caller": "alice", "path": "/v2/acme/web/x", "status": 404.},
	} {
		l.eventually(fmt.Sprint("a line with ", want), func() bool {
			for _, r := range log.requests(t) {
				same := true
				for k, v := range want {
					same = same && r[k] == v
				}
				if same && (want["decision"] == nil || r["decision_id"] != nil) {
					return true
				}
			}
			return false
		})
	}
	// A line comes after the answer, so that the next request's may be before it.
	if !slices.ContainsFunc(log.requests(t), func(r map[string]any) bool {
		up, _ := r["upstream"].(float64)
		return r["resource"] == "manifest" && r["caller"] == "alice" && 0 < up && up <= r["took"].(float64)
	}) {
		t.Error("no request for the manifest has waited for upstream")
	}
	if s := log.String(); strings.Contains(s, "secret") || strings.Contains(s, "c2VjcmV0") {
		t.Error("a secret stands in the log")
	}
}
