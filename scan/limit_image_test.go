package scan

import (
	"slices"
	"strings"
	"testing"
)

// TestKnownLayersCountInFull: an image whose layers were all read for others is held against
// the same bounds as one whose layers are new, directories without an entry included.
func TestKnownLayersCountInFull(t *testing.T) {
	h := newHouse(t)
	h.ImageEntries = 9
	one, two := layerOf(tarOf(t, "a/b/c/d/e/f")), layerOf(tarOf(t, "1/2/3/4/5/6")) // six each
	for _, b := range []blob{one, two} {
		if v, _ := h.run(t, imageOf(t, ociConfig, b), b); v.Scan.State != Complete {
			t.Fatalf("by itself: %+v", v.Scan)
		}
	}
	if v, _ := h.run(t, imageOf(t, ociConfig, one, two), one, two); v.Scan.State != Limit {
		t.Errorf("together: %+v", v.Scan)
	}
}

// TestImageLimitIsNamed: where one layer is the last that an image's bound lets in, the
// verdict names the bound as it is set, not what the other layers had left of it.
func TestImageLimitIsNamed(t *testing.T) {
	for name, tt := range map[string]struct {
		set  func(h *house)
		says string
	}{
		"bytes":   {func(h *house) { h.ImageBytes = 5000 }, "more than 5000 uncompressed bytes of the image"},
		"entries": {func(h *house) { h.ImageEntries = 3 }, "more than 3 entries of the image"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			base, upper := layerOf(tarOf(t, "a", "b")), layerOf(tarOf(t, "c", "d"))
			if v, _ := h.run(t, imageOf(t, ociConfig, base), base); v.Scan.State != Complete {
				t.Fatalf("the base: %+v", v.Scan)
			}
			tt.set(h)
			v, _ := h.run(t, imageOf(t, ociConfig, base, upper), base, upper)
			if v.Scan.State != Limit || v.Scan.Cause != CauseScanLimit || !strings.Contains(v.Scan.Detail, tt.says) {
				t.Errorf("%+v, want %q", v.Scan, tt.says)
			}
			if !slices.ContainsFunc(v.Scan.Coverage.Problems, func(p Problem) bool { return p.Kind == KindImageLimit && p.Layer != "" }) {
				t.Errorf("%+v", v.Scan.Coverage.Problems)
			}
		})
	}
}
