package proxy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// startRegistry starts the distribution project's registry and returns its address.
func startRegistry(t *testing.T) string {
	t.Helper()
	program, err := filepath.Abs("../bin/tools/registry")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("there is no bin/tools/registry: make e2e installs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yml")
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", dir, addr)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, program, "serve", file)
	c.Env = []string{"OTEL_TRACES_EXPORTER=none"}
	if err := c.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		c.Wait()
	})
	(&lab{T: t}).eventually("the registry answers", func() bool {
		resp, err := http.Get("http://" + addr + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == 200
	})
	return addr
}

// The same with a registry that others wrote: cosign signs in it, and only what is signed
// is pulled through the gateway.
func TestCosignInDistribution(t *testing.T) {
	addr := startRegistry(t)
	s := newSigner(t)
	l := signing(t, signedPolicy, s.key(), func(l *lab, _ *policy.Config) {
		l.gateway.Upstreams[0].Registry = &upstream.Registry{Name: "cgr.test", URL: "http://" + addr}
	})
	for _, tt := range []struct {
		tag  string
		args []string
		sign bool
	}{
		{"unsigned", nil, false},
		{"legacy", []string{"--new-bundle-format=false"}, true},
		{"bundle", nil, true},
	} {
		img := l.pushImage("acme/web", tt.tag, l.random(1000)) // for its digests
		ref, err := name.ParseReference(addr+"/acme/web:"+tt.tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		l.pushed-- // the same again
		if err := remote.Write(ref, l.random(1000)); err != nil {
			t.Fatal(err)
		}
		if tt.sign {
			args := append([]string{"sign", "--key", filepath.Join(s.dir, "key.key"), "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "--yes"}, tt.args...)
			s.run(append(args, addr+"/acme/web@"+img.digest.String())...)
		}
		if r := l.scanned(img); (r.status == 200) != tt.sign {
			t.Errorf("%s: %d %s", tt.tag, r.status, r.message())
		}
	}
}
