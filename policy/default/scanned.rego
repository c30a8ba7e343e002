# METADATA
# title: Scanned
# description: >-
#   What could not be scanned, or not wholly, is refused, by cause. The name of the
#   violation is the cause, so that a waiver can be for one cause only. An artifact
#   that no runtime would run (a signature, an SBOM, a chart) passes.
package sluice.policies.scanned

# What each cause means, and what the reader is to do.
causes := {
	"scan_timeout": {
		"what": "the scan is not finished yet",
		"do": "Try again in a minute: the scan goes on.",
	},
	"scan_failed": {
		"what": "the image could not be scanned",
		"do": "Try again; if it stays, run `sluice scan` on the image to see why, or ask for a waiver of scan_failed.",
	},
	"scan_limit": {
		"what": "the image is past a bound of the scanner",
		"do": "Make the image smaller, or ask the gateway's operator to raise the bound.",
	},
	"no_room": {
		"what": "the gateway has no room to scan the image",
		"do": "Try again in a minute; if it stays, the gateway's operator can free disk or raise the quotas under spool.",
	},
	"db_missing": {
		"what": "there is no vulnerability database yet",
		"do": "Wait for the download, or run `sluice db update`, or offline `sluice db import FILE`.",
	},
	"db_stale": {
		"what": "the vulnerability database is too old",
		"do": "Run `sluice db update`, or offline `sluice db import FILE` with a newer one.",
	},
	"store_down": {
		"what": "the gateway's store can't be read",
		"do": "Try again; if it stays, tell the gateway's operator: `sluice healthcheck --ready` says why.",
	},
	"upstream_down": {
		"what": "the upstream registry can't be reached",
		"do": "Try again when the registry is back.",
	},
}

violations contains {
	"policy": cause,
	"message": concat("", [causes[cause].what, detail]),
	"findings": [],
	"remediation": causes[cause].do,
} if {
	not scanned
}

scanned if input.scan.state == "unsupported"

# An image that says complete and yet names a problem, or a distribution that the
# database doesn't know, was not read to the end.
scanned if {
	input.scan.state == "complete"
	count(input.scan.coverage.problems) == 0
	input.scan.coverage.distro_known
}

cause := input.scan.cause if {
	input.scan.cause in object.keys(causes)
} else := "scan_limit" if {
	input.scan.state == "limit"
} else := "scan_timeout" if {
	input.scan.state == "pending"
} else := "scan_failed"

detail := sprintf(": %s", [input.scan.detail]) if {
	object.get(input.scan, "detail", "") != ""
} else := sprintf(": %s", [concat("; ", [p | some i, x in input.scan.coverage.problems; i < 2; p := x.detail])]) if {
	count(input.scan.coverage.problems) > 0
} else := sprintf(": the database knows nothing of %s", [input.scan.coverage.distro]) if {
	not input.scan.coverage.distro_known
	object.get(input.scan.coverage, "distro", "") != ""
} else := ""
