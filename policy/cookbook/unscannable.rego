# METADATA
# title: Unscannable denied
# description: >-
#   An image that could not be scanned, or not wholly, is refused: that nothing was found
#   says nothing then. What no runtime would run (a signature, an SBOM, a chart) passes.
package sluice.policies.unscannable

# Causes that are only warned of, such as db_stale for a gateway without network.
# In place of it: data.parameters.unscannable.tolerated.
default tolerated := []

tolerated := array.concat([], data.parameters.unscannable.tolerated)

scanned if input.scan.state == "unsupported"

scanned if {
	input.scan.state == "complete"
	count(input.scan.coverage.problems) == 0
	input.scan.coverage.distro_known
}

cause := object.get(input.scan, "cause", "")

element := {
	"policy": "unscannable",
	"message": trim_right(sprintf("the image is not fully scanned (%s): %s", [input.scan.state, object.get(input.scan, "detail", cause)]), ": "),
	"findings": [],
	"remediation": "Try again in a minute; if it stays, run `sluice scan` on the image to see why.",
}

violations contains element if {
	not scanned
	not cause in tolerated
}

warnings contains element if {
	not scanned
	cause in tolerated
}
