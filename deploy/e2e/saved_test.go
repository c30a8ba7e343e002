//go:build e2e

package e2e

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// Saved is what an archive holds that docker, podman or buildah wrote of an image in
// its store, hashed anew: the digest of the config, and the diff IDs in their order.
type saved struct {
	config digest.Digest
	layers []digest.Digest
}

func readSaved(archive string) (saved, error) {
	f, err := os.Open(archive)
	if err != nil {
		return saved{}, err
	}
	defer f.Close()
	var list []struct {
		Config string
		Layers []string
	}
	hashed := map[string]digest.Digest{}
	for r := tar.NewReader(f); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return saved{}, fmt.Errorf("%s: %w", archive, err)
		}
		if head.Typeflag != tar.TypeReg {
			continue
		}
		if head.Name == "manifest.json" {
			err = json.NewDecoder(r).Decode(&list)
		} else {
			hashed[head.Name], err = digest.FromReader(r)
		}
		if err != nil {
			return saved{}, fmt.Errorf("%s: %s: %w", archive, head.Name, err)
		}
	}
	if len(list) != 1 {
		return saved{}, fmt.Errorf("%s holds %d images", archive, len(list))
	}
	s := saved{config: hashed[list[0].Config]}
	for _, name := range list[0].Layers {
		s.layers = append(s.layers, hashed[name])
	}
	return s, nil
}

// inspected reads what an engine's inspect prints of one image.
func inspected[T any](r result, into *[]T) error {
	if err := json.Unmarshal([]byte(r.out), into); err != nil || len(*into) != 1 {
		return fmt.Errorf("not there: %s", last(r.out, 1))
	}
	return nil
}
