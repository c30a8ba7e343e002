package scan

import (
	"fmt"

	"github.com/sluicegate/sluice/scan/layer"
)

// settings are those of a gateway's configuration that raise a bound, by what the bound
// is on (layer.LimitError.What). The other bounds are fixed.
var settings = map[string]string{
	"compressed bytes":                           "scan.limits.layer_compressed",
	"uncompressed bytes":                         "scan.limits.layer_uncompressed",
	"uncompressed bytes of the image":            imageBytesSetting,
	"entries":                                    "scan.limits.layer_entries",
	"uncompressed bytes for each compressed one": "scan.limits.ratio",
}

const imageBytesSetting = "scan.limits.image_uncompressed"

// raisedBy names the setting that raises a bound, in brackets, where there is one.
func raisedBy(e *layer.LimitError) string {
	if s := settings[e.What]; s != "" {
		return fmt.Sprintf(" (%s)", s)
	}
	return ""
}

// ofImage returns a bound that all layers of an image share, 0 for one of a layer.
func (s *Scanner) ofImage(e *layer.LimitError) int64 {
	switch e.What {
	case "uncompressed bytes of the image":
		return s.imageBytes()
	case "entries of the image":
		return s.imageEntries()
	}
	return 0
}
