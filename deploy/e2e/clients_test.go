//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// A client pulls through one gateway.
type client struct {
	name string
	// pull pulls as its user would.
	pull func(t *testing.T, i *image) result
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
		pull: func(t *testing.T, i *image) result { return e.docker(t, "", "pull", "cgr.dev/"+i.ref) },
		arrived: func(t *testing.T, i *image) error {
			r := e.docker(t, "", "image", "inspect", "cgr.dev/"+i.ref)
			var got []struct {
				ID          string
				RepoDigests []string
				RootFS      struct{ Layers []digest.Digest }
			}
			if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got) != 1 {
				return fmt.Errorf("docker has no %s: %s", i.ref, r.out)
			}
			if got[0].ID != i.config.String() || !slices.Contains(got[0].RepoDigests, "cgr.dev/"+i.repo()+"@"+i.manifest.String()) {
				return fmt.Errorf("%s is %s, %v", i.ref, got[0].ID, got[0].RepoDigests)
			}
			return same("layers", got[0].RootFS.Layers, i.diffIDs)
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

// containerdClient starts a containerd and points ctr at the gateway as
// `sluice client-config containerd` says.
func (s *scene) containerdClient(t *testing.T, g *gateway, args ...string) *client {
	need(t, "containerd", "containerd", "ctr")
	dir := tempDir(t)
	socket := filepath.Join(dir, "c.sock")
	config := write(t, filepath.Join(dir, "config.toml"), fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket))
	p := start(t, nil, "containerd", "--config", config)
	t.Cleanup(func() { p.end(syscall.SIGTERM, 20*time.Second) })
	p.await(t, "up", 30*time.Second, func() bool { return answers("unix", socket) })
	g.guide(t, "containerd", "--ca-file", s.ca.file)
	ctr := func(t *testing.T, args ...string) result {
		return run(t, nil, "", append([]string{"ctr", "--address", socket}, args...)...)
	}
	pull := []string{"images", "pull", "--hosts-dir", "/etc/containerd/certs.d", "--platform", "linux/amd64"}
	if onOverlay() {
		pull = append(pull, "--snapshotter", "native")
	}
	pull = append(pull, args...)
	return &client{
		name: "containerd",
		pull: func(t *testing.T, i *image) result { return ctr(t, append(pull, "cgr.dev/"+i.ref)...) },
		arrived: func(t *testing.T, i *image) error {
			if !strings.Contains(ctr(t, "images", "list", "--quiet").out, "cgr.dev/"+i.ref+"\n") {
				return fmt.Errorf("containerd has no %s", i.ref)
			}
			content := ctr(t, "content", "list", "--quiet").out
			for _, d := range append(i.blobs(), i.manifest) {
				if !strings.Contains(content, d.String()) {
					return fmt.Errorf("%s of %s is not there", d, i.ref)
				}
				if got := digestOf(t, filepath.Join(dir, "root", "io.containerd.content.v1.content", "blobs", "sha256", d.Encoded())); got != d {
					return fmt.Errorf("%s of %s is really %s", d, i.ref, got)
				}
			}
			return nil
		},
		forget: func(t *testing.T, i *image) { ctr(t, "images", "remove", "--sync", "cgr.dev/"+i.ref) },
	}
}

// podmanClient points podman at the gateway as `sluice client-config podman` says.
func (s *scene) podmanClient(t *testing.T, g *gateway) *client {
	need(t, "podman", "podman", "runc")
	g.guide(t, "podman", "--ca-file", s.ca.file)
	dir := tempDir(t)
	podman := func(t *testing.T, args ...string) result {
		all := []string{"podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--cgroup-manager", "cgroupfs", "--runtime", "runc"}
		if onOverlay() {
			all = append(all, "--storage-driver", "vfs")
		}
		return run(t, nil, "", append(all, args...)...)
	}
	return &client{
		name: "podman",
		pull: func(t *testing.T, i *image) result { return podman(t, "pull", "cgr.dev/"+i.ref) },
		arrived: func(t *testing.T, i *image) error {
			r := podman(t, "image", "inspect", "cgr.dev/"+i.ref)
			var got []struct {
				ID     string `json:"Id"`
				Digest digest.Digest
				RootFS struct{ Layers []digest.Digest }
			}
			if err := json.Unmarshal([]byte(r.out), &got); err != nil || len(got) != 1 {
				return fmt.Errorf("podman has no %s: %s", i.ref, r.out)
			}
			if got[0].ID != i.config.Encoded() || got[0].Digest != i.manifest {
				return fmt.Errorf("%s is %s, %s", i.ref, got[0].ID, got[0].Digest)
			}
			return same("layers", got[0].RootFS.Layers, i.diffIDs)
		},
		forget: func(t *testing.T, i *image) { podman(t, "image", "rm", "--force", "cgr.dev/"+i.ref) },
	}
}

// skopeoClient copies to a folder, by the same file as podman.
func (s *scene) skopeoClient(t *testing.T, g *gateway, args ...string) *client {
	need(t, "skopeo", "skopeo")
	g.guide(t, "podman", "--ca-file", s.ca.file)
	dir := tempDir(t)
	to := func(i *image) string { return filepath.Join(dir, i.manifest.Encoded()) }
	return &client{
		name: "skopeo",
		pull: func(t *testing.T, i *image) result {
			return run(t, nil, "", append(append([]string{"skopeo", "copy"}, args...), "docker://cgr.dev/"+i.ref, "dir:"+to(i))...)
		},
		arrived: func(t *testing.T, i *image) error {
			if err := filesAre(t, to(i), i.blobs()); err != nil {
				return err
			}
			if file := filepath.Join(to(i), "manifest.json"); !exists(file) || digestOf(t, file) != i.manifest {
				return fmt.Errorf("%s is not the manifest %s", file, i.manifest)
			}
			return nil
		},
		forget: func(t *testing.T, i *image) { os.RemoveAll(to(i)) },
	}
}

// craneClient pulls to an OCI layout, with the gateway in the image's name.
func (s *scene) craneClient(t *testing.T, g *gateway) *client {
	need(t, "crane", "crane")
	dir := tempDir(t)
	to := func(i *image) string { return filepath.Join(dir, i.manifest.Encoded()) }
	return &client{
		name: "crane",
		pull: func(t *testing.T, i *image) result {
			return run(t, []string{"SSL_CERT_FILE=" + s.ca.file}, "", "crane", "pull", "--format=oci", g.host+"/cgr.dev/"+i.ref, to(i))
		},
		arrived: func(t *testing.T, i *image) error {
			return filesAre(t, filepath.Join(to(i), "blobs", "sha256"), append(i.blobs(), i.manifest))
		},
		forget: func(t *testing.T, i *image) { os.RemoveAll(to(i)) },
	}
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
