# METADATA
# title: Likely to be exploited
# description: >-
#   A vulnerability is refused whose probability to be exploited within 30 days (EPSS) is
#   at or above a threshold. One that is Critical or High and has no score yet is warned
#   of: nobody knows how likely it is.
package sluice.policies.epss

# From 0 to 1. In place of it: data.parameters.epss.threshold.
default threshold := 0.1

threshold := data.parameters.epss.threshold

likely := [f | some f in input.findings; f.epss - threshold >= 0]

unscored := [f |
	some f in input.findings
	f.severity in {"critical", "high"}
	f.epss == 0
]

violations contains {
	"policy": "epss",
	"message": sprintf("%d vulnerabilities are likely to be exploited (EPSS of %v or more), such as %s in %s with %v", [
		count({f.id | some f in likely}), threshold, likely[0].id, likely[0].package.name, likely[0].epss,
	]),
	"findings": {f.id | some f in likely},
	"remediation": "Pull a newer build of the image, remove the package, or ask for a waiver.",
} if {
	count(likely) > 0
}

warnings contains {
	"policy": "epss_unknown",
	"message": sprintf("%d vulnerabilities rated Critical or High have no EPSS score yet, such as %s", [
		count({f.id | some f in unscored}), unscored[0].id,
	]),
	"findings": {f.id | some f in unscored},
	"remediation": "Look at what was found: its score comes within days.",
} if {
	count(unscored) > 0
}
