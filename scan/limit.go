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
