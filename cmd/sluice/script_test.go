package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/crypto/bcrypt"

	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/proxytest/sample"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// TestMain lets the test binary be sluice itself: for scripts, and as its own worker.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "worker" {
		os.Exit(run(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "sluice-demo" { // its output is a pipe's, which no script has
		os.Exit(run([]string{"demo"}))
	}
	http.DefaultTransport.(*http.Transport).DialContext = loopbackOnly
	testscript.Main(m, map[string]func(){
		"sluice": func() { os.Exit(run(os.Args[1:])) },
		"docker": func() { os.Exit(standInDocker(os.Args[1:])) },
	})
}

// loopbackOnly is a dialer that refuses to leave the machine.
func loopbackOnly(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("a test dials %s, beyond loopback", addr)
	}
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// standInDocker pulls as docker does, where there is no docker engine.
func standInDocker(args []string) int {
	if len(args) != 2 || args[0] != "pull" {
		fmt.Fprintln(os.Stderr, "docker: only docker pull IMAGE is known here")
		return 2
	}
	if _, err := pullImage(context.Background(), args[1], nil); err != nil {
		fmt.Fprintln(os.Stderr, "Error response from daemon:", reason(err))
		return 1
	}
	fmt.Println("Status: Downloaded newer image for", args[1])
	return 0
}

// A scene is what stands around a script: a registry with images behind a pull token,
// a database mirror, and a configuration that knows both.
type scene struct {
	origin   *proxytest.Server
	mirror   string // URL
	database scan.Database
	dir      string
	user     string
	password string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{dir: t.TempDir()}
	s.user, s.password = proxytest.PullToken(time.Now().Add(20 * 24 * time.Hour))
	var err error
	if s.origin, err = proxytest.Start(proxytest.Origin{Username: s.user, Password: s.password, BlobRedirect: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.origin.Close() })
	for name, build := range map[string]func(sample.Options) (v1.Image, error){
		"web": sample.WolfiClean, "legacy": sample.WolfiVulnerable, "orders": sample.JavaApp,
	} {
		img, err := build(sample.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.origin.PushImage("acme/"+name, "1", img); err != nil {
			t.Fatal(err)
		}
		p, err := layout.Write(filepath.Join(s.dir, "oci-"+name), empty.Index)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.AppendImage(img); err != nil {
			t.Fatal(err)
		}
	}
	index, err := sample.Index(sample.Options{}, sample.WolfiClean)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.origin.PushIndex("acme/multi", "1", index); err != nil {
		t.Fatal(err)
	}
	if s.database, err = sampledb.Build(filepath.Join(s.dir, "db"), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := sampledb.Archive(filepath.Join(s.dir, "mirror"), s.database); err != nil {
		t.Fatal(err)
	}
	s.mirror = serveFiles(t, sampledb.Handler(filepath.Join(s.dir, "mirror")))
	return s
}

func serveFiles(t *testing.T, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return "http://" + l.Addr().String()
}

// freeAddr returns an address that nothing listens on. Its port is below those that the
// system hands out, so that no other program is given it before it is used.
func freeAddr() (string, error) {
	var last error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(22_000))
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return addr, l.Close()
		}
		last = err
	}
	return "", last
}

// setup gives a script a configuration and its addresses.
func (s *scene) setup(e *testscript.Env) error {
	listen, err := freeAddr()
	if err != nil {
		return err
	}
	admin, err := freeAddr()
	if err != nil {
		return err
	}
	config := fmt.Sprintf("listen: %s\nadmin_listen: %s\nstate_dir: %s/state\nupstreams:\n  - name: cgr.dev\n    url: %s\ndatabase:\n  url: %s\nscan:\n  workers: 1\ngate:\n  drain: 20s\n",
		listen, admin, e.WorkDir, s.origin.URL(), s.mirror)
	file := filepath.Join(e.WorkDir, "sluice.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	e.Setenv("SLUICE_CONFIG", file)
	e.Setenv("SLUICE_GATEWAY", "http://"+listen)
	e.Setenv("GATEWAY", listen)
	e.Setenv("ORIGIN", s.origin.Host())
	e.Setenv("ADMIN", admin)
	for _, name := range []string{"GATEWAY2", "ADMIN2", "REDIS"} { // of a second gateway, and a store for both
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		e.Setenv(name, addr)
	}
	e.Setenv("MIRROR", s.mirror)
	e.Setenv("IMAGES", s.dir)
	e.Setenv("PULL_USER", s.user)
	e.Setenv("PULL_PASSWORD", s.password)
	e.Setenv("HOME", e.WorkDir)
	e.Setenv("TMPDIR", e.WorkDir)
	return os.WriteFile(filepath.Join(e.WorkDir, "password"), []byte(s.password+"\n"), 0o600)
}

// TestScripts runs the stories in testdata/script against the real binary.
func TestScripts(t *testing.T) {
	s := newScene(t)
	kill := func(ts *testscript.TestScript, _ bool, args []string) {
		repo, tag, _ := strings.Cut(args[0], ":")
		d, ok := s.origin.Descriptor(repo, tag)
		if !ok {
			ts.Fatalf("no image %s", args[0])
		}
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(d.Digest.String()+" # withdrawn\n"), 0o600))
	}
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: s.setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":     awaitReady,
			"get":       getURL,
			"until":     until,
			"metric":    awaitMetric,
			"kill-list": kill,
			"htpasswd":  writeHtpasswd,
			"pull":      pullAs,
			"post":      postURL,
			"status":    exitStatus,
		},
	})
}

// writeHtpasswd writes a file of callers whose passwords are their names.
func writeHtpasswd(ts *testscript.TestScript, _ bool, args []string) {
	var lines []byte
	for _, name := range args[1:] {
		hash, err := bcrypt.GenerateFromPassword([]byte(name), bcrypt.MinCost)
		ts.Check(err)
		lines = fmt.Appendf(lines, "%s:%s\n", name, hash)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), lines, 0o600))
}

// pullAs asks for the manifest of an image as a caller whose password is his name, until
// it is answered with a status.
func pullAs(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: pull CALLER REPOSITORY:TAG STATUS")
	}
	repo, tag, _ := strings.Cut(args[1], ":")
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		req, err := http.NewRequest(http.MethodGet, "http://"+ts.Getenv("GATEWAY")+"/v2/"+repo+"/manifests/"+tag, nil)
		ts.Check(err)
		req.SetBasicAuth(args[0], args[0])
		resp, err := http.DefaultClient.Do(req)
		ts.Check(err)
		resp.Body.Close()
		if last = resp.Status; strings.HasPrefix(last, args[2]) {
			return
		}
	}
	ts.Fatalf("%s pulls %s: %s, want %s", args[0], args[1], last, args[2])
}

// postURL prints the status of a POST without a body.
func postURL(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: post URL")
	}
	resp, err := http.Post(args[0], "application/json", nil)
	ts.Check(err)
	resp.Body.Close()
	fmt.Fprintln(ts.Stdout(), resp.Status)
}

// awaitReady waits until the gateway of the script is ready, or, negated, until it
// only lacks something beside its worker.
func awaitReady(ts *testscript.TestScript, neg bool, _ []string) {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		resp, err := http.Get("http://" + ts.Getenv("ADMIN") + "/readyz")
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && (resp.StatusCode == http.StatusOK) != neg && strings.Contains(string(body), `"name":"worker","ok":true`) {
			return
		}
	}
	ts.Fatalf("the gateway is not ready")
}

// getURL prints status and body of a URL to stdout, for stdout to be matched.
func getURL(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: get URL")
	}
	resp, err := http.Get(args[0])
	ts.Check(err)
	defer resp.Body.Close()
	var b strings.Builder
	ts.Check(resp.Header.Write(&b))
	fmt.Fprintf(ts.Stdout(), "%s\n%s\n", resp.Status, b.String())
	buf := make([]byte, 256<<10)
	n, _ := io.ReadFull(resp.Body, buf)
	fmt.Fprintf(ts.Stdout(), "%s\n", buf[:n])
}

// until repeats a command until it succeeds, or fails where "!" stands before it: what
// a running gateway follows takes effect a moment later.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) > 0 && args[0] == "!" {
		neg, args = true, args[1:]
	}
	if len(args) == 0 {
		ts.Fatalf("usage: until [!] command")
	}
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); (err != nil) == neg {
			return
		}
	}
	ts.Fatalf("%v: still %v", args, err)
}
