//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// podmanClient points podman at the gateway as `sluice client-config podman` says.
func (s *scene) podmanClient(t *testing.T, g *gateway) *client {
	need(t, "podman", "podman", "runc")
	g.guide(t, "podman", "--ca-file", s.ca.file)
	c := newStorage(t, "podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc").client()
	c.view = row(t, "podman 4.3", "podman", "--version")
	return c
}

// buildahClient points buildah at the gateway for one user, as the same guide says.
func (s *scene) buildahClient(t *testing.T, g *gateway) *client {
	need(t, "buildah", "buildah", "runc")
	storage := newStorage(t, "buildah")
	storage.env = s.oneUser(t, g)
	c := storage.client()
	c.view = row(t, "buildah 1.28", "buildah", "--version")
	return c
}

// oneUser gives one user, by HOME, the file that podman, buildah and skopeo read.
func (s *scene) oneUser(t *testing.T, g *gateway) (env []string) {
	t.Helper()
	home := tempDir(t)
	g.guideIn(t, strings.NewReplacer("/etc/containers", filepath.Join(home, ".config", "containers")), "podman", "--ca-file", s.ca.file)
	return []string{"HOME=" + home}
}

// A storage is the folder in which podman and buildah keep images.
type storage struct {
	dir, driver string
	command     []string
	env         []string
}

func newStorage(t *testing.T, program string, args ...string) *storage {
	dir := tempDir(t)
	s := &storage{dir: dir, driver: "overlay"}
	if onOverlay() {
		s.driver = "vfs"
	}
	s.command = append([]string{program, "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", s.driver}, args...)
	return s
}

func (s *storage) run(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, s.env, "", append(s.command[:len(s.command):len(s.command)], args...)...)
}

func (s *storage) client() *client {
	return &client{
		name: filepath.Base(s.command[0]),
		pull: func(t *testing.T, i *image) result { return s.run(t, "pull", "cgr.dev/"+i.ref) },
		has: func(t *testing.T, i *image) bool {
			return s.run(t, "inspect", "--type", "image", "cgr.dev/"+i.ref).ok()
		},
		arrived: s.holds,
		forget:  func(t *testing.T, i *image) { s.run(t, "rmi", "--force", "cgr.dev/"+i.ref) },
	}
}

// holds checks manifest and config where they are kept, and the layers as they come out
// again: they are kept unpacked.
func (s *storage) holds(t *testing.T, i *image) error {
	if !s.client().has(t, i) {
		return fmt.Errorf("%s is not there", i.ref)
	}
	dir := filepath.Join(s.dir, "root", s.driver+"-images", i.config.Encoded())
	for name, want := range map[string]digest.Digest{"manifest": i.manifest, "=" + base64.StdEncoding.EncodeToString([]byte(i.config)): i.config} {
		file := filepath.Join(dir, name)
		if !exists(file) {
			return fmt.Errorf("%s of %s is not there", want, i.ref)
		}
		if got := digestOf(t, file); got != want {
			return fmt.Errorf("%s of %s is really %s", want, i.ref, got)
		}
	}
	archive := filepath.Join(s.dir, "saved.tar")
	defer os.Remove(archive)
	if r := s.run(t, "push", "cgr.dev/"+i.ref, "docker-archive:"+archive); !r.ok() {
		return fmt.Errorf("write it to an archive: %s", last(r.out, 3))
	}
	saved, err := readSaved(archive)
	if err != nil {
		return err
	}
	return same("layers", saved.layers, i.diffIDs)
}
