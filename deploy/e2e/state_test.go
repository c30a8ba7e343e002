//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sharing returns the configuration of gateways that share a Redis.
func (s *scene) sharing(t *testing.T, addr string) []string {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	return []string{
		"store: redis://" + addr + "/0",
		"seal_key_file: " + write(t, filepath.Join(tempDir(t), "seal.key"), base64.StdEncoding.EncodeToString(key)+"\n"),
		"gate: {tag_ttl: 10m}",
	}
}

// redis has two gateways share a Redis. The second never saw an image, and knows.
func (s *scene) redis(t *testing.T) {
	need(t, "redis", "redis-server")
	const addr = "127.0.0.1:6399"
	redis := startRedis(t, addr)
	shared := s.sharing(t, addr)
	first := s.newGateway(t, shared...)
	first.start(t)
	c := s.craneClient(t, first)
	s.denied(t, c, s.bad, "first pull, Redis", known)
	s.allowed(t, c, s.big)

	second := s.bareGateway(t, shared...)
	s.importDatabase(t, second)
	second.start(t)
	s.elsewhere(t, second)
	t.Run("restarted", func(t *testing.T) {
		first.stop(t)
		first.start(t)
		s.knownToCrane(t, first, s.craneClient(t, first))
	})
	t.Run("token for both", func(t *testing.T) {
		s.username, s.password = s.front.newToken()
		first.connect(t)
		for _, g := range []*gateway{first, second} {
			g.wants(t, 0, "", []string{"connection", "test", "cgr.dev", "--repository", s.small.ref}, "ok +login")
		}
		s.allowed(t, s.craneClient(t, second), s.small)
	})
	t.Run("gone", func(t *testing.T) {
		redis.end(syscall.SIGKILL, 5*time.Second)
		if body := first.get("/readyz"); !strings.Contains(body, `"ready":false`) || !strings.Contains(body, addr) {
			t.Errorf("ready without its store: %s", body)
		}
		c := s.craneClient(t, first)
		if r := c.pull(t, s.bad); r.ok() || c.arrived(t, s.bad) == nil {
			t.Errorf("a denied image came while the store was down:\n%s", r.out)
		} else {
			t.Logf("crane, store down: %s", last(r.out, 1))
		}
		startRedis(t, addr)
		first.await(t, "ready again", 30*time.Second, func() bool { return first.status("/readyz") == 200 })
	})
}

func startRedis(t *testing.T, addr string) *process {
	t.Helper()
	_, port, _ := strings.Cut(addr, ":")
	p := start(t, nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", tempDir(t))
	p.await(t, "up", 10*time.Second, func() bool { return answers("tcp", addr) })
	return p
}

// elsewhere asks a gateway for what another one has scanned.
func (s *scene) elsewhere(t *testing.T, g *gateway) {
	mark := s.front.mark()
	t.Run("verdict elsewhere", func(t *testing.T) {
		g.wants(t, 1, "", []string{"verdict", s.bad.ref}, "^DENIED", s.bad.kev, "complete")
		g.wants(t, 0, "", []string{"verdict", s.big.ref}, "^ALLOWED", "complete")
		g.wants(t, 0, "", []string{"connection", "list"}, "cgr.dev +store")
		if calls := s.front.since(mark, "blobs"); len(calls) > 0 {
			t.Errorf("a verdict that is known fetched layers: %v", calls)
		}
	})
	t.Run("pull elsewhere", func(t *testing.T) {
		c := s.craneClient(t, g)
		s.denied(t, c, s.bad, "known to another gateway", known)
		if calls := s.front.since(mark, "blobs"); len(calls) > 0 {
			t.Errorf("an image that is known to be denied was fetched: %v", calls)
		}
		s.allowed(t, c, s.big)
		if again := s.front.twice(mark, "blobs"); len(again) > 0 {
			t.Errorf("fetched from upstream more than once: %v", again)
		}
		if n := g.scans(); n > 0 {
			t.Errorf("%d scans of what another gateway has scanned", n)
		}
	})
}

// knownToCrane pulls what is known: nothing is fetched, nothing scanned.
func (s *scene) knownToCrane(t *testing.T, g *gateway, c *client) {
	t.Helper()
	mark := s.front.mark()
	s.denied(t, c, s.bad, "known", known)
	s.allowed(t, c, s.big)
	if calls := s.front.since(mark, "blobs"); len(calls) > 0 {
		t.Errorf("upstream was asked again: %v", calls)
	}
	if n := g.scans(); n > 0 {
		t.Errorf("%d scans since the start", n)
	}
}

// drain ends a gateway while a client pulls. The pull is to be finished first.
func (s *scene) drain(t *testing.T) {
	for _, open := range []func(*testing.T, *gateway) *client{
		s.craneClient, s.skopeoClient,
	} {
		g := s.newGateway(t)
		g.start(t)
		c := open(t, g)
		t.Run(c.name, func(t *testing.T) {
			s.front.slow(8 << 20)
			defer s.front.slow(0)
			mark := s.front.mark()
			done := make(chan result, 1)
			go func() { done <- c.pull(t, s.big) }()
			g.await(t, "fetching", 20*time.Second, func() bool { return len(s.front.since(mark, "blobs")) > 0 })
			time.Sleep(3 * time.Second) // past the wait of the manifest, into the layers
			g.stop(t)
			if r := <-done; !r.ok() {
				t.Errorf("%s: a pull in flight did not survive SIGTERM: exit status %d\n%s", c.name, r.status, last(r.out, 5))
			} else if err := c.arrived(t, s.big); err != nil {
				t.Error(err)
			}
		})
	}
}

// killed ends a gateway in the middle of a pull as the kernel would.
func (s *scene) killed(t *testing.T) {
	g := s.newGateway(t)
	g.start(t)
	c := s.craneClient(t, g)
	s.front.slow(8 << 20)
	defer s.front.slow(0)
	mark := s.front.mark()
	done := make(chan result, 1)
	go func() { done <- c.pull(t, s.badBig) }()
	g.await(t, "fetching", 20*time.Second, func() bool { return len(s.front.since(mark, "blobs")) > 0 })
	time.Sleep(3 * time.Second)
	g.end(syscall.SIGKILL, 5*time.Second)
	if r := <-done; r.ok() || c.arrived(t, s.badBig) == nil {
		t.Errorf("a denied image arrived by way of a crash:\n%s", r.out)
	}
	s.front.slow(0)
	g.start(t)
	s.denied(t, c, s.badBig, "after a crash", sometime)
	s.allowed(t, c, s.big)
	s.allowed(t, c, s.small)
}

// callers has every client log in over TLS, and none without.
func (s *scene) callers(t *testing.T) {
	g := s.tlsGateway(t)
	g.start(t)
	copyFile(t, s.ca.file, "/etc/containers/certs.d/gate.test/ca.crt")
	podman := []string{"podman", "login", "--username", callerName, "--password-stdin", "gate.test"}
	crane := []string{"crane", "auth", "login", "--username", callerName, "--password-stdin", "gate.test"}
	for _, c := range []struct {
		open  func(*testing.T, *gateway) *client
		login []string
		named func(*testing.T, *gateway) *client // where the name is given at each pull
	}{
		{open: s.containerdClient,
			named: func(t *testing.T, g *gateway) *client {
				return s.containerd16(t, g, "--user", callerName+":"+callerPassword)
			}},
		{open: s.podmanClient, login: podman},
		{open: s.skopeoClient, login: append([]string{"skopeo"}, podman[1:]...)},
		{open: s.craneClient, login: crane},
	} {
		client := c.open(t, g)
		t.Run(client.name, func(t *testing.T) {
			dir := tempDir(t)
			t.Setenv("DOCKER_CONFIG", filepath.Join(dir, "docker")) // of crane
			t.Setenv("SSL_CERT_FILE", s.ca.file)
			if client.name != "crane" { // which reads it, too
				t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(dir, "auth.json"))
			}
			if r := client.pull(t, s.small); r.ok() || client.arrived(t, s.small) == nil {
				t.Errorf("%s pulled without a name:\n%s", client.name, r.out)
			}
			if c.login != nil {
				r := run(t, nil, "wrong", c.login...)
				if client.name == "crane" { // whose login asks nobody
					r = client.pull(t, s.small)
				}
				if r.ok() {
					t.Errorf("%s came in with a wrong password:\n%s", client.name, r.out)
				}
				if r := run(t, nil, callerPassword, c.login...); !r.ok() {
					t.Errorf("%s: %s", strings.Join(c.login, " "), r.out)
				}
			}
			if c.named != nil {
				client = c.named(t, g)
			}
			s.allowed(t, client, s.small)
			s.denied(t, client, s.bad, "over TLS", known)
		})
	}
	t.Run("verdict", func(t *testing.T) {
		args := []string{"verdict", "--ca-file", s.ca.file, s.small.ref}
		g.wants(t, 3, "", args, "log in|login|password")
		t.Setenv("SLUICE_PASSWORD", callerPassword)
		g.wants(t, 0, "", append(args, "--user", callerName), "^ALLOWED")
	})
}
