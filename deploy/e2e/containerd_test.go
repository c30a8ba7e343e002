//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A containerd is a daemon of a test's own.
type containerd struct {
	dir, socket string
	ctr         string // the program that goes with it
	namespace   string
}

// startContainerd starts a daemon. Its configuration goes on from the top table.
func startContainerd(t *testing.T, daemon, ctr, config string) *containerd {
	t.Helper()
	dir := tempDir(t)
	c := &containerd{dir: dir, socket: filepath.Join(dir, "c.sock"), ctr: ctr, namespace: "default"}
	file := write(t, filepath.Join(dir, "config.toml"), fmt.Sprintf("root = %q\nstate = %q\n%s\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), config, c.socket))
	p := start(t, nil, daemon, "--config", file)
	t.Cleanup(func() { p.end(syscall.SIGTERM, 20*time.Second) })
	p.await(t, "up", 30*time.Second, func() bool { return answers("unix", c.socket) && c.run(t, "version").ok() })
	return c
}

func (c *containerd) run(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, nil, "", append([]string{c.ctr, "--address", c.socket, "--namespace", c.namespace}, args...)...)
}

// client returns one that pulls by ctr, with more arguments.
func (c *containerd) client(name string, v view, args ...string) *client {
	pull := append([]string{"images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "--platform", "linux/amd64"}, args...)
	if onOverlay() {
		pull = append(pull, "--snapshotter", "native")
	}
	return &client{
		name:    name,
		view:    v,
		pull:    func(t *testing.T, i *image) result { return c.run(t, append(pull, "cgr.dev/"+i.ref)...) },
		has:     c.lists,
		arrived: c.holds,
		forget:  func(t *testing.T, i *image) { c.run(t, "images", "remove", "--sync", "cgr.dev/"+i.ref) },
	}
}

func (c *containerd) lists(t *testing.T, i *image) bool {
	return strings.Contains(c.run(t, "images", "list", "--quiet").out, "cgr.dev/"+i.ref+"\n")
}

// holds checks the content store itself.
func (c *containerd) holds(t *testing.T, i *image) error {
	content := c.run(t, "content", "list", "--quiet").out
	all := append([]digest.Digest{i.manifest}, i.blobs()...)
	for _, d := range all {
		if !strings.Contains(content, d.String()) {
			return fmt.Errorf("%s of %s is not there", d, i.ref)
		}
	}
	return filesAre(t, filepath.Join(c.dir, "root", "io.containerd.content.v1.content", "blobs", "sha256"), all)
}

// containerdClient starts Debian's containerd and points its ctr at the gateway as
// `sluice client-config containerd` says.
func (s *scene) containerdClient(t *testing.T, g *gateway) *client { return s.containerd16(t, g) }

// containerd16 is containerdClient with more arguments for ctr.
func (s *scene) containerd16(t *testing.T, g *gateway, args ...string) *client {
	need(t, "containerd", "containerd", "ctr")
	g.guide(t, "containerd", "--ca-file", s.ca.file)
	c := startContainerd(t, "containerd", "ctr", "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]")
	return c.client("containerd", row(t, "containerd 1.6 (`ctr`)", "containerd", "--version"), args...)
}
