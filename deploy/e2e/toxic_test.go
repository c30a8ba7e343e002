//go:build e2e

package e2e

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/proxy/proxytest/sample"
)

// Where the line between the gateway and its upstream begins, and who spoils it.
const (
	toxicLine    = "10.231.3.1:5002"
	toxicControl = "127.0.0.1:8474"
)

// A toxic is a scene whose gateway reads its upstream, a real registry, over a line that
// toxiproxy spoils.
type toxic struct {
	*scene
	*gateway
	seed uint64
}

// TestToxic tells what becomes of pulls when the line to upstream is bad.
func TestToxic(t *testing.T) {
	need(t, "toxiproxy", "toxiproxy-server", "crane")
	s := newToxic(t)
	for _, story := range []struct {
		name string
		tell func(*testing.T)
	}{
		{"bad lines", s.badLines},
		{"gone", s.gone},
		{"killed in mid-pull", s.killedInMidPull},
		{"full disk", s.fullDisk},
		{"sent inward", s.sentInward},
		{"by way of a proxy", s.byWayOfAProxy},
	} {
		t.Run(story.name, story.tell)
	}
}

func newToxic(t *testing.T) *toxic {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{dir: tempDir(t), back: "127.0.0.1:5001", gateways: &atomic.Int32{}, front: &front{host: "upstream.test"},
		sluice: cmp.Or(os.Getenv("SLUICE_BIN"), filepath.Join(root, "bin", "sluice"))}
	s.gateways.Add(900) // ports that no other test has
	s.ca = newAuthority(t, s.dir)
	s.database = sampleDatabase(t, filepath.Join(s.dir, "db"))
	config := write(t, filepath.Join(s.dir, "registry.yml"), "version: 0.1\nlog: {accesslog: {disabled: true}, level: warn}\nstorage: {filesystem: {rootdirectory: "+filepath.Join(s.dir, "registry")+"}}\nhttp: {addr: \""+s.back+"\"}\n")
	program := "registry" // version 3, else Debian's 2.8
	if !exists(filepath.Join(root, "bin", "tools", program)) {
		program = "docker-registry"
	}
	registry := start(t, []string{"OTEL_TRACES_EXPORTER=none"}, program, "serve", config)
	registry.await(t, "up", 20*time.Second, func() bool { return answers("tcp", s.back) })
	line := start(t, nil, "toxiproxy-server", "-host", "127.0.0.1")
	line.await(t, "up", 20*time.Second, func() bool { return answers("tcp", toxicControl) })
	s.control(t, "POST", "/proxies", map[string]any{"name": "line", "listen": toxicLine, "upstream": s.back, "enabled": true})
	x := &toxic{scene: s}
	x.gateway = x.reader(t, "http://"+toxicLine)
	x.start(t)
	return x
}

// reader makes a gateway that asks for each tag anew at an address, and does not run yet.
func (x *toxic) reader(t *testing.T, url string, more ...string) *gateway {
	t.Helper()
	g := x.bareGateway(t, append(more, "gate: {tag_ttl: 0s}")...)
	g.edit(t, "https://upstream.test\", ca_file: "+x.ca.file, url+"\"")
	x.importDatabase(t, g)
	return g
}

// control tells toxiproxy what to do.
func (s *scene) control(t *testing.T, method, path string, body any) {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, "http://"+toxicControl+path, bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err) // not Fatal: it may run beside the test
		return
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 {
		t.Errorf("toxiproxy: %s %s: %s", method, path, text)
	}
}

// up makes or cuts the line.
func (s *scene) up(t *testing.T, enabled bool) {
	t.Helper()
	s.control(t, "POST", "/proxies/line", map[string]any{"enabled": enabled})
}

// spoil adds a fault to the line until heal is called.
func (s *scene) spoil(t *testing.T, kind string, attributes map[string]int) (heal func()) {
	t.Helper()
	s.control(t, "POST", "/proxies/line/toxics", map[string]any{"name": kind, "type": kind, "stream": "downstream", "attributes": attributes})
	return func() { s.control(t, "DELETE", "/proxies/line/toxics/"+kind, nil) }
}

// fresh pushes an image of three megabytes and more that nobody has seen.
func (x *toxic) fresh(t *testing.T, ref string) *image {
	t.Helper()
	x.seed++
	if ref == "" {
		ref = fmt.Sprintf("lab/fresh:%d", x.seed)
	}
	i := x.sample(t, ref, "", sample.WolfiClean, sample.Options{Filler: 4 << 20, FillerLayers: 2, Seed: x.seed})
	x.describe(t, i)
	return i
}

// An answer is what a gateway said to one request.
type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // why the body ended early
}

func ask(t *testing.T, g *gateway, path string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b, err}
}

func manifestPath(i *image) string { return "/v2/" + strings.Replace(i.ref, ":", "/manifests/", 1) }

func blobPath(i *image, d digest.Digest) string {
	return "/v2/" + i.repo() + "/blobs/" + d.String()
}

// whole pulls an image as a client would that repeats nothing and resumes nothing.
func whole(t *testing.T, g *gateway, i *image) {
	t.Helper()
	a := ask(t, g, manifestPath(i))
	if a.err != nil || a.status != http.StatusOK || digest.FromBytes(a.body) != i.manifest {
		t.Fatalf("%s: manifest: %d %v %s", i.ref, a.status, a.err, a.body)
	}
	for _, d := range i.blobs() {
		if a := ask(t, g, blobPath(i, d)); a.err != nil || digest.FromBytes(a.body) != d {
			t.Errorf("%s: blob %s: %d, %d bytes, %v", i.ref, d, a.status, len(a.body), a.err)
		}
	}
}

// badLines has clients pull unknown images over each kind of bad line. They notice
// nothing but that it takes longer.
func (x *toxic) badLines(t *testing.T) {
	slow := map[string]int{"rate": 3000} // kB/s, so that faults meet layers in their middle
	for _, tt := range []struct {
		name string
		tell func(*testing.T) (heal func())
	}{
		{"reset_peer", func(t *testing.T) func() {
			return later(500*time.Millisecond, func() {
				heal := x.spoil(t, "reset_peer", map[string]int{"timeout": 50}) // of all connections, and of new ones
				time.Sleep(time.Second)
				heal()
			})
		}},
		{"limit_data", func(t *testing.T) func() { return x.spoil(t, "limit_data", map[string]int{"bytes": 600_000}) }},
		{"slicer", func(t *testing.T) func() {
			return x.spoil(t, "slicer", map[string]int{"average_size": 700, "size_variation": 300, "delay": 20})
		}},
		{"bandwidth", func(t *testing.T) func() { return x.spoil(t, "bandwidth", map[string]int{"rate": 500}) }},
		{"latency", func(t *testing.T) func() {
			return x.spoil(t, "latency", map[string]int{"latency": 300, "jitter": 200})
		}},
		{"slow_close", func(t *testing.T) func() { return x.spoil(t, "slow_close", map[string]int{"delay": 1000}) }},
		{"timeout", func(t *testing.T) func() {
			heal := x.spoil(t, "timeout", map[string]int{"timeout": 700})
			return later(1500*time.Millisecond, heal)
		}},
		{"down", func(t *testing.T) func() {
			return later(400*time.Millisecond, func() {
				x.up(t, false)
				time.Sleep(2 * time.Second) // what a restart of whatever lies between takes
				x.up(t, true)
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := x.fresh(t, "")
			if tt.name != "bandwidth" {
				t.Cleanup(x.spoil(t, "bandwidth", slow))
			}
			t.Cleanup(tt.tell(t))
			began := time.Now()
			whole(t, x.gateway, i)
			t.Logf("%.1f s", time.Since(began).Seconds())
		})
	}
}

// later calls f after d, and returns what waits for its end.
func later(d time.Duration, f func()) (wait func()) {
	done := make(chan struct{})
	time.AfterFunc(d, func() { defer close(done); f() })
	return func() { <-done }
}

// gone cuts the line. What is known is served, and said to be old; what isn't is refused
// clearly; and once the line is back, tags are what they have become.
func (x *toxic) gone(t *testing.T) {
	warm, cold := x.fresh(t, "lab/warm:1"), x.fresh(t, "lab/cold:1")
	whole(t, x.gateway, warm)
	x.up(t, false)
	t.Cleanup(func() { x.up(t, true) })
	moved := x.fresh(t, "lab/warm:1")
	a := ask(t, x.gateway, manifestPath(warm))
	if digest.FromBytes(a.body) != warm.manifest || !strings.Contains(a.header.Get("Warning"), "can't be read") {
		t.Errorf("the tag: %d, Warning %q", a.status, a.header.Get("Warning"))
	}
	whole(t, x.gateway, warm)
	if x.metric("sluice_stale_tags_total") == 0 || !strings.Contains(x.out.String(), "tag served from memory") {
		t.Error("neither metric nor log say that the tag is old")
	}
	began := time.Now()
	a = ask(t, x.gateway, manifestPath(cold))
	if took := time.Since(began); a.status != http.StatusBadGateway || !strings.Contains(string(a.body), "try again") || a.header.Get("Content-Type") != "application/json" || took > 5*time.Second {
		t.Errorf("what isn't known: %d %s after %v", a.status, a.body, took)
	}
	if r := run(t, nil, "", "crane", "manifest", "--insecure", x.host+"/"+cold.ref); r.ok() || !strings.Contains(r.out, "can't be read") {
		t.Errorf("crane says:\n%s", r.out)
	}
	x.up(t, true)
	whole(t, x.gateway, moved)
	whole(t, x.gateway, cold)
	if w := ask(t, x.gateway, manifestPath(moved)).header.Get("Warning"); w != "" {
		t.Errorf("Warning %q although upstream is back", w)
	}
}

// killedInMidPull ends the gateway as the kernel would, with half a layer at the client.
// Its successor gives the client the other half, and nobody half a blob for a whole one.
func (x *toxic) killedInMidPull(t *testing.T) {
	i := x.fresh(t, "")
	big := i.layers[len(i.layers)-1]
	heal := x.spoil(t, "bandwidth", map[string]int{"rate": 400})
	if a := ask(t, x.gateway, manifestPath(i)); a.status != http.StatusOK {
		t.Fatalf("manifest: %d %s", a.status, a.body)
	}
	resp, err := http.Get(x.url + blobPath(i, big))
	if err != nil {
		t.Fatal(err)
	}
	half := make([]byte, 300_000)
	if _, err := io.ReadFull(resp.Body, half); err != nil {
		t.Fatal(err)
	}
	x.end(syscall.SIGKILL, 5*time.Second)
	rest, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil {
		t.Error("a body that the crash cut off came to a good end")
	}
	half = append(half, rest...)
	kept, err := filepath.Glob(filepath.Join(x.dir(), "state", "spool", "blobs", "blobs", "*", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) == 0 {
		t.Error("the spool is empty, or elsewhere")
	}
	for _, file := range kept {
		hex, _, _ := strings.Cut(filepath.Base(file), ".")
		if got := digestOf(t, file); got.Encoded() != hex {
			t.Errorf("%s holds %s", file, got)
		}
	}
	heal()
	x.start(t)
	a := ask(t, x.gateway, blobPath(i, big), "Range", fmt.Sprintf("bytes=%d-", len(half)))
	if got := digest.FromBytes(append(half, a.body...)); a.status != http.StatusPartialContent || a.err != nil || got != big {
		t.Errorf("resumed at %d: %d, %d bytes, %v: %s", len(half), a.status, len(a.body), a.err, got)
	}
	whole(t, x.gateway, i)
}

// dir is where the gateway's state lies.
func (x *toxic) dir() string { return x.gateway.dir }

// fullDisk gives a gateway less disk than its quotas promise.
func (x *toxic) fullDisk(t *testing.T) {
	disk := tempDir(t)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=6m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	g := x.reader(t, "http://"+toxicLine, "spool: {dir: "+disk+"}")
	g.t = t
	g.start(t)
	i := x.fresh(t, "")
	a := ask(t, g, manifestPath(i))
	for end := time.Now().Add(30 * time.Second); a.status == http.StatusOK && time.Now().Before(end); a = ask(t, g, manifestPath(i)) {
		time.Sleep(200 * time.Millisecond)
	}
	if a.status != http.StatusForbidden || !strings.Contains(string(a.body), "disk is full") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=200m"); err != nil {
		t.Fatal(err)
	}
	g.await(t, "whole again", time.Minute, func() bool { return ask(t, g, manifestPath(i)).status == http.StatusOK })
	whole(t, g, i)
}

// sentInward has a registry of the network send the gateway to places that only the
// gateway reaches: itself, and where clouds keep a machine's credentials.
func (x *toxic) sentInward(t *testing.T) {
	var to atomic.Value
	server(t, "10.231.3.2:5003", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, to.Load().(string)+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		http.Redirect(w, r, "http://"+toxicLine+r.URL.Path, http.StatusTemporaryRedirect)
	})
	var asked atomic.Int32
	server(t, "127.0.0.1:7999", func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	g := x.reader(t, "http://10.231.3.2:5003")
	g.t = t
	g.start(t)
	for _, place := range []string{"http://127.0.0.1:7999", "http://localhost:7999", "http://[::ffff:127.0.0.1]:7999", "http://" + g.admin, "http://169.254.169.254", "http://0.0.0.0:7999"} {
		to.Store(place)
		i := x.fresh(t, "")
		a := ask(t, g, manifestPath(i))
		for end := time.Now().Add(20 * time.Second); a.status == http.StatusOK && time.Now().Before(end); a = ask(t, g, manifestPath(i)) {
			time.Sleep(100 * time.Millisecond)
		}
		if a.status != http.StatusForbidden || !strings.Contains(string(a.body), "where it may not") {
			t.Errorf("%s: %d %s", place, a.status, a.body)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("what only the gateway reaches was asked %d times", n)
	}
	to.Store("http://" + toxicLine) // another host of the same network
	whole(t, g, x.fresh(t, ""))
}

// byWayOfAProxy has a gateway reach its upstream through the proxy that its environment
// names, whose password shows nowhere.
func (x *toxic) byWayOfAProxy(t *testing.T) {
	var passed atomic.Int32
	stop := server(t, "10.231.3.3:3128", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") == "" || r.URL.Host != toxicLine {
			http.Error(w, "not for you", http.StatusProxyAuthRequired)
			return
		}
		passed.Add(1)
		out := r.Clone(r.Context())
		out.RequestURI = ""
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})
	const password = "marker-of-the-proxys-password"
	t.Setenv("HTTP_PROXY", "http://operator:"+password+"@10.231.3.3:3128")
	t.Setenv("NO_PROXY", "127.0.0.1")
	g := x.reader(t, "http://"+toxicLine)
	g.t = t
	g.start(t)
	i := x.fresh(t, "")
	whole(t, g, i)
	if passed.Load() == 0 {
		t.Error("nothing went by way of the proxy")
	}
	stop()
	a := ask(t, g, manifestPath(i))
	if a.status != http.StatusOK || a.header.Get("Warning") == "" {
		t.Errorf("without the proxy: %d, Warning %q", a.status, a.header.Get("Warning"))
	}
	if a := ask(t, g, "/v2/lab/other/manifests/1"); a.status != http.StatusBadGateway || bytes.Contains(a.body, []byte(password)) {
		t.Errorf("without the proxy: %d %s", a.status, a.body)
	}
	if strings.Contains(g.out.String(), password) {
		t.Error("the log holds the proxy's password")
	}
}

// server serves until the test ends or stop is called.
func server(t *testing.T, addr string, h http.HandlerFunc) (stop func()) {
	t.Helper()
	srv := &http.Server{Addr: addr, Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ListenAndServe() }()
	for end := time.Now().Add(10 * time.Second); !answers("tcp", addr); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing listens at %s", addr)
		}
	}
	stop = func() { srv.Close(); <-done }
	t.Cleanup(stop)
	return stop
}
