//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/crypto/bcrypt"
)

const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

// cluster is an issuer of service account tokens whose keys lie in a file.
type cluster struct {
	key  jose.JSONWebKey
	file string
}

func newCluster(t *testing.T, dir string) *cluster {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{key: jose.JSONWebKey{Key: k, KeyID: "1", Algorithm: "ES256", Use: "sig"}}
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{c.key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	c.file = write(t, filepath.Join(dir, "jwks.json"), string(b))
	return c
}

func (c *cluster) token(t *testing.T, audience string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(map[string]any{"iss": clusterIssuer, "aud": []string{audience}, "sub": "system:serviceaccount:prod:web", "exp": time.Now().Add(time.Hour).Unix()}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// logins has docker log in and pull as each kind of caller: by name and password, by a
// service account's token, by a client certificate; through /token. Who may not see a
// repository is told so.
func (s *scene) logins(t *testing.T) {
	need(t, "docker", "docker", "dockerd", "containerd", "runc")
	g := s.newGateway(t)
	c := newCluster(t, g.dir)
	cert, key := s.ca.issue(t, "gate.test")
	var users strings.Builder
	for _, n := range []string{callerName, "stranger"} {
		hash, err := bcrypt.GenerateFromPassword([]byte(callerPassword), 5)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&users, "%s:%s\n", n, hash)
	}
	g.host, g.url = "gate.test", "https://gate.test"
	g.configure(t, "listen: "+gatewayIP+":443",
		"tls: {cert_file: "+write(t, filepath.Join(g.dir, "tls.crt"), string(cert))+", key_file: "+write(t, filepath.Join(g.dir, "tls.key"), string(key))+", client_ca_file: "+s.ca.file+"}",
		"auth:", "  htpasswd_file: "+write(t, filepath.Join(g.dir, "htpasswd"), users.String()), "  token_url: https://gate.test/token",
		"  oidc: [{name: k8s, issuer: \""+clusterIssuer+"\", audience: gate.test, keys_file: "+c.file+"}]",
		"  access:", "    - {callers: ["+callerName+", \"cert:node-1\", \"k8s:system:serviceaccount:prod:*\"], repositories: [\"cgr.dev/**\"]}")
	g.start(t)
	e := s.startEngine(t, gatewayIP)
	certs := "/etc/docker/certs.d/gate.test"
	copyFile(t, s.ca.file, filepath.Join(certs, "ca.crt"))
	t.Cleanup(func() { os.RemoveAll(certs) })
	image := "gate.test/" + s.small.ref
	pull := func(t *testing.T) result {
		e.docker(t, "", "image", "rm", "--force", image)
		return e.docker(t, "", "pull", image)
	}
	login := func(t *testing.T, name, password string) result {
		e.docker(t, "", "logout", "gate.test")
		return e.docker(t, password, "login", "gate.test", "--username", name, "--password-stdin")
	}
	if r := pull(t); r.ok() {
		t.Errorf("docker pulled without a login:\n%s", r.out)
	}
	for _, wrong := range [][2]string{{callerName, "wrong"}, {"anything", c.token(t, "vault")}, {"nobody", callerPassword}} {
		if r := login(t, wrong[0], wrong[1]); r.ok() {
			t.Errorf("docker login as %s went well:\n%s", wrong[0], r.out)
		}
	}
	for _, who := range []struct{ kind, name, password string }{
		{"password", callerName, callerPassword}, {"service account", "anything", c.token(t, "gate.test")},
	} {
		t.Run(who.kind, func(t *testing.T) {
			if r := login(t, who.name, who.password); !r.ok() {
				t.Fatalf("docker login: %s", r.out)
			}
			if r := pull(t); !r.ok() {
				t.Errorf("docker pull: %s", r.out)
			}
		})
	}
	t.Run("client certificate", func(t *testing.T) {
		e.docker(t, "", "logout", "gate.test")
		if r := pull(t); r.ok() {
			t.Errorf("docker pulled after its logout:\n%s", r.out)
		}
		cert, key := s.ca.issue(t, "node-1")
		write(t, filepath.Join(certs, "client.cert"), string(cert))
		write(t, filepath.Join(certs, "client.key"), string(key))
		if r := pull(t); !r.ok() {
			t.Errorf("docker pull: %s", r.out)
		}
		os.Remove(filepath.Join(certs, "client.cert"))
		os.Remove(filepath.Join(certs, "client.key"))
	})
	t.Run("access", func(t *testing.T) {
		if r := login(t, "stranger", callerPassword); !r.ok() {
			t.Fatalf("docker login: %s", r.out)
		}
		if r := pull(t); r.ok() || !strings.Contains(r.out, "is not open to stranger") {
			t.Errorf("docker pulled what it may not see, or is not told so:\n%s", r.out)
		}
	})
	for _, line := range []string{`caller=` + callerName, `caller=k8s:system:serviceaccount:prod:web`, `caller=cert:node-1`} {
		if !strings.Contains(g.out.String(), line) {
			t.Errorf("no access line has %s", line)
		}
	}
	if strings.Contains(g.out.String(), callerPassword) || strings.Contains(g.out.String(), c.token(t, "gate.test")[:40]) {
		t.Error("a secret stands in the log")
	}
}

// load pulls a small image again and again from several clients until it is stopped, each
// time asking upstream which digest the tag has.
type load struct {
	wg     sync.WaitGroup
	stop   chan struct{}
	pulls  atomic.Int64
	failed atomic.Int64
}

func startLoad(t *testing.T, g *gateway, i *image, clients int) *load {
	l := &load{stop: make(chan struct{})}
	for n := range clients {
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				l.pulls.Add(1)
				dir := filepath.Join(g.dir, fmt.Sprintf("load-%d.tar", n))
				if r := run(t, nil, "", "crane", "pull", "--insecure", g.host+"/"+i.ref, dir); !r.ok() {
					l.failed.Add(1)
					t.Errorf("a pull failed: %s", r.out)
				}
			}
		})
	}
	return l
}

// end stops the load, and wants it to have been one, without a failure.
func (l *load) end(t *testing.T, least int64) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	if l.pulls.Load() < least || l.failed.Load() > 0 {
		t.Errorf("%d of %d pulls failed, want none of at least %d", l.failed.Load(), l.pulls.Load(), least)
	}
}

// rotation changes the pull token under load, in each way that there is: by setting another,
// by a next one that takes its place when the registry revokes the current, and by a mounted
// file. No pull fails.
func (s *scene) rotation(t *testing.T) {
	need(t, "crane", "crane")
	s = s.apart(t, 3)
	g := s.newGateway(t, "gate: {tag_ttl: 0s}")
	g.start(t)
	if r := s.craneClient(t, g).pull(t, s.small); !r.ok() {
		t.Fatal(r.out)
	}
	set := func(user, password string, more ...string) {
		t.Helper()
		args := append([]string{"connection", "set", "cgr.dev", "--username", user, "--password-stdin", "--repository", s.small.ref}, more...)
		if r := g.sluice(t, password, args...); !r.ok() {
			t.Fatalf("sluice connection set: %s", r.out)
		}
	}
	first := s.username
	l := startLoad(t, g, s.small, 3)
	time.Sleep(2 * time.Second)

	user, password := s.front.addToken()
	set(user, password)
	time.Sleep(2 * time.Second) // until all gateways have it
	s.front.revoke(first)
	time.Sleep(2 * time.Second)

	next, password := s.front.addToken()
	set(next, password, "--next")
	s.front.revoke(user)
	time.Sleep(3 * time.Second)
	g.wants(t, 0, "", []string{"connection", "list"}, next)
	g.wants(t, 0, "", []string{"audit"}, "connection.promote")

	l.end(t, 20)
	if strings.Contains(g.out.String(), password) {
		t.Error("a password stands in the log")
	}
}

// reload changes the configuration under load and in the middle of a slow pull, puts a bad
// file there for a while, and sends the signal: no pull fails.
func (s *scene) reload(t *testing.T) {
	need(t, "crane", "crane")
	s = s.apart(t, 3)
	g := s.newGateway(t, "log: {level: info}")
	g.start(t)
	c := s.craneClient(t, g)
	if r := c.pull(t, s.small); !r.ok() {
		t.Fatal(r.out)
	}
	s.front.slow(8 << 20)
	defer s.front.slow(0)
	mark := s.front.mark()
	slow := make(chan result, 1)
	go func() { slow <- c.pull(t, s.big) }()
	g.await(t, "fetching", 20*time.Second, func() bool { return len(s.front.since(mark, "blobs")) > 0 })
	l := startLoad(t, g, s.small, 2)

	good := read(t, g.config)
	g.edit(t, "log: {level: info}", "log: {level: debug}\nlimits: {requests: 500, open: 100}\nauth: {access: [{repositories: [\"cgr.dev/**\"]}]}")
	g.await(t, "reloaded by itself", 20*time.Second, func() bool { return strings.Contains(g.out.String(), "configuration was read again") })
	write(t, g.config, good+"nonsense: true\n")
	g.cmd.Process.Signal(syscall.SIGHUP)
	g.await(t, "refusing the bad file", 20*time.Second, func() bool { return strings.Contains(g.out.String(), "there is no key nonsense") })
	for n := range 5 {
		write(t, g.config, strings.Replace(good, "{name: cgr.dev,", fmt.Sprintf("{name: cgr.dev, requests: %d,", 1000+n), 1))
		if r := g.sluice(t, "", "reload"); !r.ok() || !strings.Contains(r.out, "upstreams") {
			t.Errorf("sluice reload: %s", r.out)
		}
	}
	s.front.slow(0)
	if r := <-slow; !r.ok() {
		t.Errorf("the pull that was under way: %s", last(r.out, 5))
	} else if err := c.arrived(t, s.big); err != nil {
		t.Error(err)
	}
	l.end(t, 5)
	g.wants(t, 0, "", []string{"audit"}, "configuration.reload")
}
