package scan

import (
	"context"
	"testing"
)

// TestSumStands checks that the sum that travels with a verdict is that of its findings,
// whichever way the verdict came.
func TestSumStands(t *testing.T) {
	h := newHouse(t)
	h.engine.match = func(context.Context, []byte, Database) (*Matches, error) {
		return &Matches{DistroKnown: true, Findings: []Finding{{ID: "CVE-1", Severity: "low"}, {ID: "CVE-2", Severity: "high"}}}, nil
	}
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	made, _ := h.run(t, img, b)
	again, _ := h.run(t, img, b)
	cached, err := h.Cached(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	known, err := h.another(t).Known(t.Context(), img.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for how, v := range map[string]*Verdict{"made": made, "made again": again, "cached": cached, "known to another": known} {
		if len(v.Findings) != 2 || v.Sum == 0 || v.Sum != SumFindings(v.Findings) || v.Sum != made.Sum {
			t.Errorf("%s: %d findings, sum %x, want %x", how, len(v.Findings), v.Sum, SumFindings(v.Findings))
		}
	}
	if SumFindings(nil) == 0 || SumFindings(made.Findings[:1]) == made.Sum {
		t.Error("findings that differ have one sum")
	}
}
