//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// skopeoClient copies to a folder, for one user.
func (s *scene) skopeoClient(t *testing.T, g *gateway) *client {
	need(t, "skopeo", "skopeo")
	dir, env := tempDir(t), s.oneUser(t, g)
	to := func(i *image) string { return filepath.Join(dir, i.manifest.Encoded()) }
	return &client{
		name: "skopeo",
		view: row(t, "skopeo 1.9", "skopeo", "--version"),
		pull: func(t *testing.T, i *image) result {
			return run(t, env, "", "skopeo", "copy", "docker://cgr.dev/"+i.ref, "dir:"+to(i))
		},
		has: func(t *testing.T, i *image) bool { return exists(filepath.Join(to(i), "manifest.json")) },
		arrived: func(t *testing.T, i *image) error {
			if file := filepath.Join(to(i), "manifest.json"); !exists(file) || digestOf(t, file) != i.manifest {
				return fmt.Errorf("%s is not the manifest %s", file, i.manifest)
			}
			return filesAre(t, to(i), i.blobs())
		},
		forget: func(t *testing.T, i *image) { os.RemoveAll(to(i)) },
	}
}

// craneClient pulls with the gateway in the image's name.
func (s *scene) craneClient(t *testing.T, g *gateway) *client {
	need(t, "crane", "crane")
	return layoutClient(t, "crane", row(t, "crane 0.22", "crane", "version"), func(t *testing.T, i *image, dir string) result {
		return run(t, []string{"SSL_CERT_FILE=" + s.ca.file}, "", "crane", "pull", "--format=oci", g.host+"/cgr.dev/"+i.ref, dir)
	})
}

// orasClient copies with the gateway in the image's name.
func (s *scene) orasClient(t *testing.T, g *gateway) *client {
	need(t, "oras", "oras")
	return layoutClient(t, "oras", row(t, "oras 1.3", "oras", "version"), func(t *testing.T, i *image, dir string) result {
		args := []string{"oras", "copy", "--no-tty", "--from-plain-http", "--to-oci-layout", g.host + "/cgr.dev/" + i.ref, dir + ":pulled"}
		if i.index {
			args = append(args, "--platform", "linux/amd64")
		}
		return run(t, nil, "", args...)
	})
}

// regctlClient copies with the gateway in the image's name.
func (s *scene) regctlClient(t *testing.T, g *gateway) *client {
	need(t, "regctl", "regctl")
	return layoutClient(t, "regctl", row(t, "regctl 0.11", "regctl", "version"), func(t *testing.T, i *image, dir string) result {
		args := []string{"regctl", "image", "copy", "--host", "reg=" + g.host + ",tls=disabled", g.host + "/cgr.dev/" + i.ref, "ocidir://" + dir + ":pulled"}
		if i.index {
			args = append(args, "--platform", "linux/amd64")
		}
		return run(t, nil, "", args...)
	})
}

// layoutClient is one that copies to an OCI layout, a folder for each image.
func layoutClient(t *testing.T, name string, v view, pull func(t *testing.T, i *image, dir string) result) *client {
	dir := tempDir(t)
	to := func(i *image) string { return filepath.Join(dir, i.manifest.Encoded()) }
	return &client{
		name: name,
		view: v,
		pull: func(t *testing.T, i *image) result { return pull(t, i, to(i)) },
		has: func(t *testing.T, i *image) bool {
			b, err := os.ReadFile(filepath.Join(to(i), "index.json"))
			if err != nil {
				return false
			}
			var index ocispec.Index
			if err := json.Unmarshal(b, &index); err != nil {
				t.Errorf("%s wrote an index that is none: %v", name, err)
			}
			return len(index.Manifests) > 0
		},
		arrived: func(t *testing.T, i *image) error {
			return filesAre(t, filepath.Join(to(i), "blobs", "sha256"), append(i.blobs(), i.manifest))
		},
		forget: func(t *testing.T, i *image) { os.RemoveAll(to(i)) },
	}
}
