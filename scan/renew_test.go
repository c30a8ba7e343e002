package scan

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// An image in daily use is matched with each new database for as long as that goes on: its
// SBOM is not forgotten some time after the image was scanned, nor that of one which was
// known by its layers when it came.
func TestSBOMsInUseAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.Now = nil // that of the bubble
		b := layerOf(tarOf(t, "a"))
		img := imageOf(t, ociConfig, b)
		h.run(t, img, b)
		again := img
		again.Manifest = append([]byte(" "), img.Manifest...)
		again.Digest = digest.FromBytes(again.Manifest)
		h.run(t, again, b)
		unused := imageOf(t, ociConfig, layerOf(tarOf(t, "b")))
		h.run(t, unused, layerOf(tarOf(t, "b")))
		for day := range 200 {
			time.Sleep(24 * time.Hour)
			h.db.Checksum = fmt.Sprint("xxh64:", day)
			for _, d := range []Image{img, again} {
				if v, err := h.Known(t.Context(), d.Digest); err != nil || v.Scan.State != Complete {
					t.Fatalf("day %d: %+v, %v", day, v, err)
				}
			}
		}
		if h.Catalogued(t.Context(), unused.Digest) {
			t.Error("one that nobody asked for is kept for ever")
		}
	})
}
