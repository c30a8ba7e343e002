# METADATA
# title: Severity unknown
# description: >-
#   A finding whose severity nobody has rated is no reason to refuse, and none to be
#   silent about: it may turn out to be Critical.
package sluice.policies.severity_unknown

import data.sluice.lib

unrated := [f | some f in input.findings; not f.severity in {"critical", "high", "medium", "low", "negligible"}]

warnings contains {
	"policy": "severity_unknown",
	"message": sprintf("%s of unknown severity: %s", [
		lib.counted(count({f.id | some f in unrated}), "vulnerability", "vulnerabilities"),
		lib.worst(unrated),
	]),
	"findings": {f.id | some f in unrated},
	"remediation": "Look at what was found: nobody has rated it yet.",
} if {
	count(unrated) > 0
}
