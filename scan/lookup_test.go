package scan

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

// TestKnownVerdict: the same layers under another tag have the verdict that stands, and
// their SBOM isn't even unpacked; nor is a verdict made up where there is no SBOM that
// it could be made from again.
func TestKnownVerdict(t *testing.T) {
	h := newHouse(t)
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	want, _ := h.run(t, img, b)
	rec, err := h.record(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	sbom := h.sbomKey([]digest.Digest{b.diffID}, imageConfigFile{OS: "linux"})
	if sbom.ID() != rec.SBOM {
		t.Fatal("the SBOM stands under another key")
	}
	before := h.engine.runs.Load()
	again := func(tag string) Image {
		other := img
		other.Digest = digest.FromString(tag)
		return other
	}

	if err := h.store.Put(t.Context(), sbom, []byte("garbage"), time.Hour); err != nil {
		t.Fatal(err)
	}
	got, read := h.run(t, again("x"), b)
	if !cmp.Equal(want, got) || len(read) > 0 || h.engine.runs.Load() != before {
		t.Errorf("read %v, %d matches:\n%s", read, h.engine.runs.Load()-before, cmp.Diff(want, got))
	}
	if v, err := h.Cached(t.Context(), again("x").Digest); err != nil || !cmp.Equal(want, v) {
		t.Errorf("under its own digest: %v, %v", v, err)
	}

	h.db.Checksum = "xxh64:2"
	if got, _ := h.run(t, again("y"), b); got.Scan.Database.Checksum != "xxh64:2" || h.engine.catalogued.Load() != 2 {
		t.Errorf("with a new database and a damaged SBOM: %+v, catalogued %d times", got.Scan, h.engine.catalogued.Load())
	}
	if got, _ := h.run(t, again("z"), b); got.Scan.Database.Checksum != "xxh64:2" || h.engine.catalogued.Load() != 2 {
		t.Errorf("after that: %+v, catalogued %d times", got.Scan, h.engine.catalogued.Load())
	}
}
