# METADATA
# title: Fix overdue
# description: >-
#   Chainguard promises a fix for a Critical within 7 days of its being available
#   upstream, and within 14 for a High. An image that is further behind than that is
#   an old image: a Critical is refused, a High is warned of. Where nobody knows since
#   when there is a fix, the days count from when this gateway first saw the advisory.
package sluice.policies.fix_overdue

import data.sluice.lib

critical_days := 7

high_days := 14

overdue(severity, days) := [f |
	some f in input.findings
	f.severity == severity
	lib.fixed(f)
	lib.older_than(f, days)
]

violations contains {
	"policy": "critical_fix_overdue",
	"message": message("Critical", critical_days, critical),
	"findings": {f.id | some f in critical},
	"remediation": lib.update(critical),
} if {
	critical := overdue("critical", critical_days)
	count(critical) > 0
}

warnings contains {
	"policy": "high_fix_overdue",
	"message": message("High", high_days, high),
	"findings": {f.id | some f in high},
	"remediation": lib.update(high),
} if {
	high := overdue("high", high_days)
	count(high) > 0
}

message(severity, days, findings) := sprintf("%s with a fix that has been out for more than %d days: %s", [
	lib.counted(count({f.id | some f in findings}), sprintf("%s vulnerability", [severity]), sprintf("%s vulnerabilities", [severity])),
	days,
	lib.worst(findings),
])
