package layer

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// Layers of images that other tools built pass without a Problem.
func TestRealLayers(t *testing.T) {
	const dir = "../../../shared/data/images" // beside the repository
	images, _ := filepath.Glob(filepath.Join(dir, "*.tar"))
	if len(images) == 0 {
		t.Skipf("no images in %s", dir)
	}
	for _, image := range images {
		whole, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		layers := map[string][]byte{filepath.Base(image): whole} // also an archive is a tar
		for name, blob := range archived(t, image) {
			layers[filepath.Base(image)+" "+name] = blob
		}
		for name, blob := range layers {
			res, out, err := copyBytes(t, blob, DefaultLimits(), DefaultBudget())
			if err != nil || !res.Tar || len(res.Problems) > 0 || res.Entries == 0 || res.DiffID != digest.FromBytes(out) {
				t.Errorf("%s: %+v, %v", name, res, err)
			}
			if want, err := countEntries(out); err != nil || want != res.Entries {
				t.Errorf("%s: %d entries, archive/tar has %d, %v", name, res.Entries, want, err)
			}
		}
	}
}

// archived returns the layers that an image archive holds.
func archived(t *testing.T, image string) map[string][]byte {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	layers := map[string][]byte{}
	r := tar.NewReader(f)
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			return layers
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(hdr.Name, ".tar.gz") {
			if layers[hdr.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
}
