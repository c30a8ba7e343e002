//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// A dbMirror serves builds of the database over TLS, by the name localhost and with a
// certificate of the scene's authority. It can be made to send half of each archive and
// then nothing.
type dbMirror struct {
	url, dir string

	mu      sync.Mutex // guards both below
	stalls  bool
	arrived chan struct{} // closed when half an archive is sent
}

func (s *scene) newMirror(t *testing.T) *dbMirror {
	t.Helper()
	m := &dbMirror{dir: tempDir(t)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: m}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(tls.NewListener(l, s.ca.config(t, "localhost"))) }()
	t.Cleanup(func() { srv.Close(); <-done })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	m.url = "https://localhost:" + port
	return m
}

func (m *dbMirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	stalls, arrived := m.stalls, m.arrived
	m.mu.Unlock()
	if !stalls || strings.HasSuffix(r.URL.Path, ".json") {
		sampledb.Handler(m.dir).ServeHTTP(w, r)
		return
	}
	b, err := os.ReadFile(filepath.Join(m.dir, r.URL.Path))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Write(b[:len(b)/2])
	w.(http.Flusher).Flush()
	close(arrived)
	<-r.Context().Done()
}

// stall has the next archive end in its middle, and returns what is closed then.
func (m *dbMirror) stall() (arrived chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stalls, m.arrived = true, make(chan struct{})
	return m.arrived
}

func (m *dbMirror) heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stalls = false
}

// publish makes a build of this age the newest one.
func (m *dbMirror) publish(t *testing.T, age time.Duration) {
	t.Helper()
	db, err := sampledb.Build(filepath.Join(tempDir(t), "db"), time.Now().Add(-age))
	if err != nil {
		t.Fatal(err)
	}
	if err := sampledb.Archive(m.dir, db); err != nil {
		t.Fatal(err)
	}
}

// databaseLife: kill -9 in the middle of the gateway's first download and of an update
// beside it, a mirror that comes and goes; whatever was good goes on serving.
func (s *scene) databaseLife(t *testing.T) {
	m := s.newMirror(t)
	m.publish(t, 48*time.Hour)
	g := s.bareGateway(t)
	g.edit(t, "database: {update_every: 0s, max_age: 0s}", "database: {update_every: 1m, max_age: 120h, url: \""+m.url+"\", ca_file: "+s.ca.file+"}")
	g.connect(t)
	folder := filepath.Join(g.dir, "state", "db")
	half := m.stall()
	await := func(t *testing.T, what string, done <-chan struct{}) {
		t.Helper()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("not seen: %s", what)
		}
	}

	g.launch(t)
	await(t, "half of the first download", half)
	if body := g.get("/readyz"); g.status("/readyz") != 503 || !strings.Contains(body, "no vulnerability database") {
		t.Errorf("ready in its first download: %s", body)
	}
	g.end(syscall.SIGKILL, 10*time.Second)
	if left, _ := filepath.Glob(filepath.Join(folder, "staging-*")); len(left) != 1 {
		t.Errorf("the story needs a gateway killed in mid-download, which leaves %v", left)
	}
	m.heal()
	g.start(t)
	if left, _ := filepath.Glob(filepath.Join(folder, "staging-*")); len(left) != 0 {
		t.Errorf("left by the killed gateway: %v", left)
	}
	c := s.craneClient(t, g)
	s.allowed(t, c, s.small)
	s.denied(t, c, s.bad, "after a kill in its first download", sometime)
	before := g.checksum(t)

	m.publish(t, time.Hour)
	half = m.stall()
	p := start(t, nil, s.sluice, "--config", g.config, "db", "update")
	await(t, "half of an update", half)
	g.wants(t, 0, "", []string{"db", "status"}, "usable")
	p.end(syscall.SIGKILL, 10*time.Second)
	if now := g.checksum(t); now != before || g.status("/readyz") != 200 {
		t.Errorf("after a kill in mid-update: %s was %s, readyz %s", now, before, g.get("/readyz"))
	}
	s.denied(t, c, s.bad, "after a kill in mid-update", known)

	m.heal()
	g.wants(t, 0, "", []string{"db", "update"}, "updated, usable")
	after := g.checksum(t)
	g.await(t, "using the new database", 30*time.Second, func() bool {
		return strings.Contains(g.sluice(t, "", "verdict", s.small.ref, "-o", "json").out, after) &&
			strings.Contains(g.sluice(t, "", "verdict", s.bad.ref, "-o", "json").out, after)
	})
	if after == before {
		t.Errorf("the update changed nothing: %s", after)
	}
	if g.metric("sluice_database_usable") != 1 || time.Since(time.Unix(int64(g.metric("sluice_database_built_timestamp_seconds")), 0)) > 2*time.Hour {
		t.Errorf("metrics:\n%s", g.get("/metrics"))
	}
	s.denied(t, c, s.bad, "by the new database", known)
	g.stop(t)
	if left, _ := filepath.Glob(filepath.Join(folder, "staging-*")); len(left) != 0 {
		t.Errorf("left at the end: %v", left)
	}
}

// checksum returns that of the active database.
func (g *gateway) checksum(t *testing.T) string {
	t.Helper()
	var s struct{ Checksum string }
	if r := g.sluice(t, "", "db", "status", "-o", "json"); json.Unmarshal([]byte(r.out), &s) != nil || s.Checksum == "" {
		t.Fatalf("sluice db status: %s", r.out)
	}
	return s.Checksum
}
