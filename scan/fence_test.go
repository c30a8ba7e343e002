package scan

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestFence checks that what a replica finds that was taken for dead doesn't replace what
// the one has found that took the scan over, and that the later word counts otherwise.
func TestFence(t *testing.T) {
	h := newHouse(t)
	d := digest.FromString("image")
	for _, step := range []struct {
		fence uint64
		sbom  string
		want  string
	}{{7, "first", "first"}, {9, "taken over", "taken over"}, {7, "late", "taken over"}, {9, "taken over", "taken over"}, {10, "again", "again"}, {0, "alone", "alone"}, {3, "shared now", "shared now"}} {
		h.publish(t.Context(), d, &imageRecord{SBOM: step.sbom, Fence: step.fence}, contentTTL)
		rec, err := h.record(t.Context(), d)
		if err != nil || rec.SBOM != step.want {
			t.Fatalf("after %q under %d: %+v, %v, want %q", step.sbom, step.fence, rec, err, step.want)
		}
	}
}
