# METADATA
# title: End of life
# description: A distribution that gets no more fixes is warned of from the day after its last.
package sluice.policies.end_of_life

import data.sluice.lib

warnings contains {
	"policy": "end_of_life",
	"message": sprintf("%s %s is past its end of life (%s) and gets no more fixes", [
		object.get(coverage, "distro", "the distribution"),
		object.get(coverage, "distro_version", ""),
		eol,
	]),
	"findings": [],
	"remediation": "Rebuild the image on a release that is still supported.",
} if {
	coverage := input.scan.coverage
	eol := object.get(coverage, "distro_eol", "")
	eol != ""
	lib.since(eol) >= lib.day
}
