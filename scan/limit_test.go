package scan

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan/layer"
)

// The bounds that an operator can raise are named by their settings, in the words that
// the guard uses for them.
func TestRaisedBy(t *testing.T) {
	zeros := make([]byte, 1<<20)
	packed := zipped(zeros)
	entries := tarOf(t, "a", "b", "c")
	for want, tt := range map[string]struct {
		data   []byte
		limits layer.Limits
		budget *layer.Budget
	}{
		"layer_compressed":   {entries, layer.Limits{Compressed: 1000}, nil},
		"layer_uncompressed": {packed, layer.Limits{Uncompressed: 1000}, nil},
		"image_uncompressed": {packed, layer.Limits{}, layer.NewBudget(1000, 1000)},
		"layer_entries":      {entries, layer.Limits{Entries: 2}, nil},
		"ratio":              {packed, layer.Limits{Ratio: 2, RatioAfter: 1}, nil},
	} {
		desc := ocispec.Descriptor{Digest: digest.FromBytes(tt.data), Size: int64(len(tt.data))}
		_, err := layer.Copy(t.Context(), new(strings.Builder), strings.NewReader(string(tt.data)), desc, tt.limits, tt.budget)
		var limit *layer.LimitError
		if !errors.As(err, &limit) || raisedBy(limit) != " (scan.limits."+want+")" {
			t.Errorf("%v is not said to be raised by %s", err, want)
		}
	}
}
