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
		if len(v.Findings) != 2 || v.Sum != SumOf(v.Findings) || !v.Sum.Equal(made.Sum) {
			t.Errorf("%s: %d findings, sum %x, want %x", how, len(v.Findings), v.Sum.value, SumFindings(v.Findings))
		}
	}
	others := append([]Finding{{ID: "CVE-3"}}, made.Findings[1:]...)
	for name, fs := range map[string][]Finding{"fewer": made.Findings[:1], "none": nil, "others": others} {
		if made.Sum.Of(fs) != SumFindings(fs) || made.Sum.Of(fs) == made.Sum.value {
			t.Errorf("%s: the sum of what they replace is taken for theirs", name)
		}
	}
}
