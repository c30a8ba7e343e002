//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// A gateway is a sluice with a configuration and a state folder, running or not.
type gateway struct {
	s      *scene
	t      *testing.T // at whose end it is ended
	dir    string     // its state lies in dir/state
	config string     // file
	url    string     // where clients reach it
	host   string     // the same without a scheme
	admin  string
	more   []string // lines of configuration
	*process
}

// Who may pull through a gateway with TLS.
const (
	callerName     = "ci"
	callerPassword = "pass of the ci caller"
)

// newGateway makes a gateway that has a database and knows the pull token, and does
// not run yet. It listens on loopback, for everyone.
func (s *scene) newGateway(t *testing.T, more ...string) *gateway {
	t.Helper()
	g := s.bareGateway(t, more...)
	s.importDatabase(t, g)
	g.connect(t)
	return g
}

// bareGateway makes a gateway without database and pull token.
func (s *scene) bareGateway(t *testing.T, more ...string) *gateway {
	t.Helper()
	port := 8000 + 2*int(s.gateways.Add(1))
	g := &gateway{s: s, t: t, dir: tempDir(t), more: more, host: fmt.Sprintf("127.0.0.1:%d", port), admin: fmt.Sprintf("127.0.0.1:%d", port+1)}
	g.url = "http://" + g.host
	g.configure(t, "listen: "+g.host)
	return g
}

// tlsGateway makes a gateway that is cgr.dev and gate.test, and knows its callers.
func (s *scene) tlsGateway(t *testing.T) *gateway {
	t.Helper()
	g := s.newGateway(t)
	g.overTLS(t)
	return g
}

// overTLS makes a gateway that does not run yet that one.
func (g *gateway) overTLS(t *testing.T) {
	t.Helper()
	s := g.s
	cert, key := s.ca.issue(t, "cgr.dev", "gate.test")
	hash, err := bcrypt.GenerateFromPassword([]byte(callerPassword), 5)
	if err != nil {
		t.Fatal(err)
	}
	g.host, g.url = "gate.test", "https://gate.test"
	g.configure(t, "listen: "+gatewayIP+":443",
		"tls: {cert_file: "+write(t, filepath.Join(g.dir, "tls.crt"), string(cert))+", key_file: "+write(t, filepath.Join(g.dir, "tls.key"), string(key))+"}",
		"auth: {htpasswd_file: "+write(t, filepath.Join(g.dir, "htpasswd"), callerName+":"+string(hash)+"\n")+"}")
}

// edit changes a line of the configuration.
func (g *gateway) edit(t *testing.T, from, to string) {
	t.Helper()
	text := read(t, g.config)
	if !strings.Contains(text, from) {
		t.Fatalf("%s is not in %s", from, g.config)
	}
	write(t, g.config, strings.Replace(text, from, to, 1))
}

// configure writes the configuration: what all gateways share, and some lines.
func (g *gateway) configure(t *testing.T, lines ...string) {
	t.Helper()
	g.config = write(t, filepath.Join(g.dir, "sluice.yaml"), strings.Join(append(append(lines, g.more...),
		"admin_listen: "+g.admin,
		"state_dir: "+filepath.Join(g.dir, "state"),
		"upstreams: [{name: cgr.dev, url: \"https://"+g.s.front.host+"\", ca_file: "+g.s.ca.file+", realm_hosts: []}]",
		"database: {update_every: 0s, max_age: 0s}", // a build of any age is good enough here
	), "\n")+"\n")
}

func (s *scene) importDatabase(t *testing.T, g *gateway) {
	t.Helper()
	if r := g.sluice(t, "", "db", "import", s.database); !r.ok() {
		t.Fatalf("sluice db import: exit status %d\n%s", r.status, r.out)
	}
}

// connect sets the scene's pull token.
func (g *gateway) connect(t *testing.T) {
	t.Helper()
	r := g.sluice(t, g.s.password, "connection", "set", "cgr.dev", "--username", g.s.username, "--password-stdin", "--repository", g.s.small.ref)
	if !r.ok() {
		t.Fatalf("sluice connection set: exit status %d\n%s", r.status, r.out)
	}
}

// sluice runs a command with the gateway's configuration.
func (g *gateway) sluice(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return run(t, []string{"SLUICE_GATEWAY=" + g.url}, stdin, append([]string{g.s.sluice, "--config", g.config}, args...)...)
}

// start runs the gateway until it is ready.
func (g *gateway) start(t *testing.T) {
	t.Helper()
	g.launch(t)
	g.await(t, "ready", time.Minute, func() bool { return g.status("/readyz") == http.StatusOK })
}

// launch runs the gateway until it answers.
func (g *gateway) launch(t *testing.T) {
	t.Helper()
	g.process = start(g.t, nil, g.s.sluice, "serve", "--config", g.config)
	g.await(t, "up", time.Minute, func() bool { return g.status("/healthz") == http.StatusOK })
}

// stop ends the gateway as an operator would, and wants it to end well.
func (g *gateway) stop(t *testing.T) {
	t.Helper()
	if err := g.end(syscall.SIGTERM, 30*time.Second); err != nil {
		t.Errorf("the gateway did not end well on SIGTERM: %v\n%s", err, last(g.out.String(), 10))
	}
}

// get reads from the operators' listener; "" where nothing answers.
func (g *gateway) get(path string) string {
	resp, err := http.Get("http://" + g.admin + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

func (g *gateway) status(path string) int {
	resp, err := http.Get("http://" + g.admin + path)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// metric returns the sum of a metric over all its labels, or one series of it.
func (g *gateway) metric(name string) (sum float64) {
	for line := range strings.Lines(g.get("/metrics")) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if base, _, _ := strings.Cut(series, "{"); base == name || series == name {
			v, _ := strconv.ParseFloat(value, 64)
			sum += v
		}
	}
	return sum
}

// scans returns how many images the gateway has scanned since it started.
func (g *gateway) scans() int { return int(g.metric("sluice_scans_total")) }

// guide writes what `sluice client-config` prints for a client to where it says.
func (g *gateway) guide(t *testing.T, client string, args ...string) {
	t.Helper()
	g.guideIn(t, strings.NewReplacer(), client, args...)
}

// guideIn is guide with the files in other places.
func (g *gateway) guideIn(t *testing.T, places *strings.Replacer, client string, args ...string) {
	t.Helper()
	r := g.sluice(t, "", append([]string{"client-config", client, "--gateway", g.url, "-o", "json"}, args...)...)
	var guide struct {
		Files []struct{ Path, Text string }
	}
	if err := json.Unmarshal([]byte(r.out), &guide); err != nil || !r.ok() {
		t.Fatalf("sluice client-config %s: exit status %d, %v\n%s", client, r.status, err, r.out)
	}
	for _, f := range guide.Files {
		write(t, places.Replace(f.Path), f.Text)
	}
}

// copyFile copies a small file.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(b))
}
