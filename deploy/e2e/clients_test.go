//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A client pulls through one gateway.
type client struct {
	name string
	view view // what its user is promised to see of a denial
	// pull pulls as its user would.
	pull func(t *testing.T, i *image) result
	// has reports whether it lists an image, whole or not: whether its user could run
	// it, or pass it on.
	has func(t *testing.T, i *image) bool
	// arrived returns nil if all of an image is there and every digest is right.
	arrived func(t *testing.T, i *image) error
	// forget removes an image, so that the next pull asks for all of it.
	forget func(t *testing.T, i *image)
}

// same compares what a client has with what an image is.
func same(what string, got, want []digest.Digest) error {
	if !slices.Equal(got, want) {
		return fmt.Errorf("its %s are %v, want %v", what, got, want)
	}
	return nil
}

// filesAre checks that a folder has all the files that are named by a digest, and that
// they are what their names say.
func filesAre(t *testing.T, dir string, want []digest.Digest) error {
	for _, d := range want {
		file := filepath.Join(dir, d.Encoded())
		if !exists(file) {
			return fmt.Errorf("%s is not there", d)
		}
		if got := digestOf(t, file); got != d {
			return fmt.Errorf("%s is really %s", d, got)
		}
	}
	return nil
}

// dockerClient starts an engine for which the gateway is cgr.dev.
func (s *scene) dockerClient(t *testing.T, g *gateway) *client {
	need(t, "docker", "docker", "dockerd", "containerd", "runc")
	e := s.startEngine(t, gatewayIP)
	g.guide(t, "docker", "--ca-file", s.ca.file)
	copyFile(t, s.ca.file, "/etc/docker/certs.d/cgr.dev/ca.crt") // the way with names unchanged
	if r := e.docker(t, "wrong", "login", "cgr.dev", "--username", callerName, "--password-stdin"); r.ok() {
		t.Errorf("docker login with a wrong password went well:\n%s", r.out)
	}
	if r := e.docker(t, callerPassword, "login", "cgr.dev", "--username", callerName, "--password-stdin"); !r.ok() {
		t.Fatalf("docker login: %s", r.out)
	}
	return &client{
		name: "docker",
		view: row(t, "docker 20.10", "docker", "--version"),
		pull: func(t *testing.T, i *image) result { return e.docker(t, "", "pull", "cgr.dev/"+i.ref) },
		has:  func(t *testing.T, i *image) bool { return e.docker(t, "", "image", "inspect", "cgr.dev/"+i.ref).ok() },
		arrived: func(t *testing.T, i *image) error {
			var got []struct {
				ID          string
				RepoDigests []string
			}
			if err := inspected(e.docker(t, "", "image", "inspect", "cgr.dev/"+i.ref), &got); err != nil {
				return err
			}
			if got[0].ID != i.config.String() || !slices.Contains(got[0].RepoDigests, "cgr.dev/"+i.repo()+"@"+i.named.String()) {
				return fmt.Errorf("%s is %s, %v", i.ref, got[0].ID, got[0].RepoDigests)
			}
			archive := filepath.Join(e.dir, "saved.tar")
			defer os.Remove(archive)
			if r := e.docker(t, "", "save", "--output", archive, "cgr.dev/"+i.ref); !r.ok() {
				return fmt.Errorf("docker save: %s", r.out)
			}
			saved, err := readSaved(archive)
			if err != nil {
				return err
			}
			if saved.config != i.config {
				return fmt.Errorf("the config of %s is really %s", i.ref, saved.config)
			}
			return same("layers", saved.layers, i.diffIDs)
		},
		forget: func(t *testing.T, i *image) { e.docker(t, "", "image", "rm", "--force", "cgr.dev/"+i.ref) },
	}
}

// An engine is a docker daemon of a test's own.
type engine struct{ dir, socket string }

// startEngine starts an engine for which cgr.dev leads to an address.
func (s *scene) startEngine(t *testing.T, cgrDev string) *engine {
	t.Helper()
	dir := tempDir(t)
	e := &engine{dir: dir, socket: filepath.Join(dir, "d.sock")}
	file := write(t, filepath.Join(dir, "hosts"), hosts(cgrDev))
	p := start(t, nil, "unshare", "--mount", "sh", "-c", `mount --bind "$1" /etc/hosts && shift && exec "$@"`, "sh", file,
		"dockerd", "--host", "unix://"+e.socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "d.pid"), "--bridge=none", "--iptables=false", "--ip6tables=false")
	t.Cleanup(func() { p.end(syscall.SIGTERM, 20*time.Second) })
	p.await(t, "up", 30*time.Second, func() bool { return answers("unix", e.socket) && e.docker(t, "", "version").ok() })
	return e
}

func (e *engine) docker(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return run(t, []string{"DOCKER_CONFIG=" + filepath.Join(e.dir, "cli")}, stdin, append([]string{"docker", "--host", "unix://" + e.socket}, args...)...)
}

// onOverlay reports whether the tests' folder can't carry another overlay.
func onOverlay() bool {
	var st syscall.Statfs_t
	return syscall.Statfs(os.TempDir(), &st) == nil && st.Type == 0x794c7630
}
