package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/redis"
	"github.com/sluicegate/sluice/policy"
)

// A serverProgram is one that a test runs.
type serverProgram struct {
	addr string
	kill func()
}

// runServer starts a program that listens at addr, and ends it with the test.
func runServer(t *testing.T, name, addr string, args ...string) *serverProgram {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = filepath.Abs(filepath.Join("..", "bin", "tools", name)); err == nil {
			_, err = os.Stat(path)
		}
	}
	if err != nil {
		t.Skipf("no %s in PATH or bin/tools: make e2e installs it", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = t.TempDir()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &serverProgram{addr: addr, kill: sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })}
	t.Cleanup(p.kill)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen on %s", name, addr)
		}
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startRedis starts a redis-server, at addr or anywhere.
func startRedis(t *testing.T, addr string, args ...string) *serverProgram {
	t.Helper()
	if addr == "" {
		addr = freeAddr(t)
	}
	_, port, _ := net.SplitHostPort(addr)
	return runServer(t, "redis-server", addr, append([]string{"--bind", "127.0.0.1", "--port", port, "--save", ""}, args...)...)
}

// tell has redis-cli send a command to p, and returns the answer.
func (p *serverProgram) tell(t *testing.T, args ...string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(p.addr)
	out, err := exec.Command("redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %s: %v: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

// A line is toxiproxy before a server.
type line struct {
	*testing.T
	addr, control string
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l := &line{t, freeAddr(t), freeAddr(t)}
	_, port, _ := net.SplitHostPort(l.control)
	runServer(t, "toxiproxy-server", l.control, "-host", "127.0.0.1", "-port", port)
	l.send("POST", "/proxies", map[string]any{"name": "line", "listen": l.addr, "upstream": to, "enabled": true})
	return l
}

func (l *line) send(method, path string, body any) {
	l.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		l.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+l.control+path, bytes.NewReader(b))
	if err != nil {
		l.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		l.Fatalf("toxiproxy: %s %s: %s", method, path, text)
	}
}

func (l *line) up(enabled bool) { l.send("POST", "/proxies/line", map[string]any{"enabled": enabled}) }
func (l *line) upstream(addr string) {
	l.send("POST", "/proxies/line", map[string]any{"upstream": addr})
}

// slow delays every answer until the test heals it.
func (l *line) slow(by time.Duration) (heal func()) {
	l.send("POST", "/proxies/line/toxics", map[string]any{"name": "slow", "type": "latency", "stream": "downstream", "attributes": map[string]int{"latency": int(by / time.Millisecond)}})
	return func() { l.send("DELETE", "/proxies/line/toxics/slow", nil) }
}

// A sharedLab is a lab whose Store is a Redis at the other end of a line, with an image that
// is allowed and one that is denied, both pulled.
type sharedLab struct {
	*lab
	redis     *serverProgram
	line      *line
	local     *cache.Local
	log       *bytes.Buffer
	good, bad *image
}

func newSharedLab(t *testing.T, args ...string) *sharedLab {
	t.Helper()
	s := &sharedLab{redis: startRedis(t, "", args...), log: new(bytes.Buffer)}
	s.line = newLine(t, s.redis.addr)
	s.lab = newLab(t, func(l *lab, _ *policy.Config) { s.local = shareStore(l, s.line.addr, s.log); l.gateway.Replica = "one" })
	s.good, s.bad = s.push("acme/app", "good", 200_000), s.push("acme/app", "bad", 200_000)
	s.engine.condemn(s.bad.digest)
	s.scanned(s.bad)
	s.scanned(s.good)
	s.eventually("all that decides is in memory", func() bool { // news of what was written drop copies, some late
		asked := s.local.Stats().Asked
		s.want(403, "CVE-2021-44228", "GET", manifestPath("acme/app", "bad"))
		s.warm()
		return s.local.Stats().Asked == asked
	})
	return s
}

// shareStore gives a lab that has not started a Redis for its Store.
func shareStore(l *lab, addr string, w io.Writer) *cache.Local {
	l.Helper()
	store, err := redis.Open(l.Context(), redis.Config{URL: "redis://" + addr})
	if err != nil {
		l.Fatal(err)
	}
	local := cache.NewLocal(store, cache.LocalConfig{Fixed: []cache.Kind{"manifest", "config", "sbom", "verdict"}, Never: []cache.Kind{"waivers", "waiversat"},
		Log: slog.New(slog.NewTextHandler(&lockedWriter{w: w}, nil))})
	l.Cleanup(func() { _ = local.Close() })
	l.gateway.Store, l.gateway.Scanner.Store = local, local
	return local
}

type lockedWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (w *lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(b)
}

// warm pulls what is allowed, whole.
func (s *sharedLab) warm() time.Duration {
	s.Helper()
	began := time.Now()
	for _, path := range s.paths(s.good) {
		s.want(200, "", "GET", path)
	}
	return time.Since(began)
}

// paths are all that a client asks for to have an image.
func (s *sharedLab) paths(img *image) []string {
	all := []string{manifestPath(img.repo, img.digest.String()), blobPath(img.repo, img.config)}
	for _, d := range img.layers {
		all = append(all, blobPath(img.repo, d))
	}
	return all
}

// kept checks that nothing lets an image through that is not allowed: what is denied is no
// pull that ends well, whatever it is answered with.
func (s *sharedLab) kept(imgs ...*image) {
	s.Helper()
	for _, img := range imgs {
		whole := 0
		for _, path := range s.paths(img)[1:] {
			if r := s.get("GET", path, time.Second); r.status == 200 && r.err == nil {
				whole++
			}
		}
		if whole > 0 {
			s.Errorf("%d blobs of an image that is not allowed came whole", whole)
		}
	}
}

// again waits until everything is as it was, from upstream if need be.
func (s *sharedLab) again() {
	s.Helper()
	s.eventually("what is allowed to be served", func() bool {
		for _, path := range s.paths(s.good) {
			if r := s.get("GET", path, patience); r.status != 200 || r.err != nil {
				return false
			}
		}
		return true
	})
	s.eventually("what is denied to be denied by its findings", func() bool {
		s.kept(s.bad)
		return strings.Contains(s.get("GET", manifestPath("acme/app", "bad"), patience).message(), "CVE-2021-44228")
	})
	s.kept(s.bad)
}

// TestRedisInTrouble tells what becomes of pulls while the shared Store is in trouble: those
// that can be decided by what is in memory go on, the others are refused in time, and
// nothing that was denied is let through, then or after.
func TestRedisInTrouble(t *testing.T) {
	for _, story := range []struct {
		name string
		args []string
		tell func(*sharedLab)
	}{
		{"gone and back", nil, func(s *sharedLab) {
			unknown := s.push("acme/app", "unknown", 200_000)
			for range 2 {
				s.line.up(false)
				s.eventually("the outage to be known", func() bool { return s.local.Stats().Down != nil })
				for range 5 {
					if took := s.warm(); took > 10*time.Second {
						s.Errorf("a warm pull took %v", took)
					}
					s.want(403, "CVE-2021-44228", "GET", manifestPath("acme/app", "bad"))
					s.want(503, "store", "GET", manifestPath("acme/app", "unknown"))
					s.kept(s.bad, unknown)
				}
				s.line.up(true)
				s.eventually("the store to be back", func() bool { return s.local.Stats().Down == nil })
			}
			if down, up := strings.Count(s.log.String(), "level=ERROR"), strings.Count(s.log.String(), "level=INFO"); down != 2 || up != 2 {
				s.Errorf("two outages made %d and %d lines:\n%s", down, up, s.log)
			}
			s.scanned(unknown)
		}},
		{"gone in mid-pull", nil, func(s *sharedLab) {
			for _, condemned := range []bool{true, false} {
				img := s.push("acme/app", fmt.Sprint("mid-pull-", condemned), 300_000)
				if condemned {
					s.engine.condemn(img.digest)
				}
				s.engine.hold()
				s.want(200, "", "GET", manifestPath("acme/app", img.digest.String()))
				s.line.up(false)
				s.eventually("the outage to be known", func() bool { return s.local.Stats().Down != nil })
				s.engine.release()
				s.kept(img)
				s.warm()
				s.line.up(true)
				s.eventually("its decision", func() bool {
					r := s.get("GET", blobPath("acme/app", img.config), patience)
					return condemned && strings.Contains(r.message(), "CVE") || !condemned && r.status == 200 && r.err == nil
				})
			}
		}},
		{"two seconds a command", nil, func(s *sharedLab) {
			heal := s.line.slow(2 * time.Second)
			time.Sleep(2 * cache.Staleness) // copies are not good any more
			if took := s.warm(); took > 10*time.Second {
				s.Errorf("a warm pull took %v", took)
			}
			s.want(403, "CVE-2021-44228", "GET", manifestPath("acme/app", "bad"))
			s.kept(s.bad)
			heal()
		}},
		{"full", []string{"--maxmemory-policy", "noeviction"}, func(s *sharedLab) {
			s.redis.tell(s.T, "CONFIG", "SET", "maxmemory", "1")
			unknown := s.push("acme/app", "unknown", 200_000)
			s.warm()
			s.want(503, "store", "GET", manifestPath("acme/app", "unknown"))
			s.kept(s.bad, unknown)
			s.redis.tell(s.T, "CONFIG", "SET", "maxmemory", "0")
			s.scanned(unknown)
		}},
		{"evicts all that may be forgotten", nil, func(s *sharedLab) {
			for k := range strings.Lines(s.redis.tell(s.T, "--scan")) {
				if k = strings.TrimSpace(k); s.redis.tell(s.T, "TTL", k) != "-1" {
					s.redis.tell(s.T, "DEL", k)
				}
			}
			time.Sleep(2 * cache.Staleness)
		}},
		{"flushed", nil, func(s *sharedLab) {
			s.redis.tell(s.T, "FLUSHALL")
			s.kept(s.bad)
			time.Sleep(2 * cache.Staleness)
		}},
		{"another password", nil, func(s *sharedLab) {
			s.redis.tell(s.T, "CONFIG", "SET", "requirepass", "other")
			s.redis.tell(s.T, "-a", "other", "--no-auth-warning", "CLIENT", "KILL", "TYPE", "normal")
			s.redis.tell(s.T, "-a", "other", "--no-auth-warning", "CLIENT", "KILL", "TYPE", "pubsub")
			s.eventually("the outage to be known", func() bool { return s.local.Stats().Down != nil })
			s.warm()
			s.kept(s.bad)
			s.eventually("the reason to be known", func() bool {
				return strings.Contains(fmt.Sprint(s.local.Stats().Down), "refuses the user name or password")
			})
			s.redis.tell(s.T, "-a", "other", "--no-auth-warning", "CONFIG", "SET", "requirepass", "")
		}},
		{"garbage at every key", nil, func(s *sharedLab) { s.spoil("SET", "garbage") }},
		{"another type at every key", nil, func(s *sharedLab) { s.spoil("RPUSH", "a list") }},
		{"fails over to a replica that lags", nil, func(s *sharedLab) {
			lagging := startRedis(s.T, "") // it has nothing of what was written
			s.line.upstream(lagging.addr)
			s.line.up(false)
			s.line.up(true)
			s.kept(s.bad)
			s.eventually("the store to be back", func() bool { return s.local.Stats().Down == nil })
		}},
		{"killed and started empty", nil, func(s *sharedLab) {
			s.redis.kill()
			s.eventually("the outage to be known", func() bool { return s.local.Stats().Down != nil })
			s.warm()
			s.kept(s.bad)
			startRedis(s.T, s.redis.addr)
			s.eventually("the store to be back", func() bool { return s.local.Stats().Down == nil })
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			t.Parallel()
			s := newSharedLab(t, story.args...)
			story.tell(s)
			s.again()
		})
	}
}

// spoil puts something else at every key, as somebody may who shares the server, and takes
// it away when it was looked at.
func (s *sharedLab) spoil(command, value string) {
	s.Helper()
	keys := strings.Fields(s.redis.tell(s.T, "--scan"))
	for _, k := range keys {
		s.redis.tell(s.T, "DEL", k)
		s.redis.tell(s.T, command, k, value)
	}
	time.Sleep(2 * cache.Staleness)
	for range 3 {
		s.kept(s.bad)
		s.get("GET", manifestPath("acme/app", "good"), patience)
	}
	for _, k := range keys {
		s.redis.tell(s.T, "DEL", k)
	}
}
