# METADATA
# title: Chainguard's CVE service levels
# description: >-
#   Chainguard commits to remediate a Critical within 7 days of a fix being available, and
#   a High, Medium or Low within 14. An image that still has one after that is not the
#   latest build of a supported stream: it is refused, and a newer build is the remedy.
#   A week before the time is up it is warned of.
package sluice.policies.service_levels

# Days from the day on which a fix is available, by severity.
# In place of it: data.parameters.service_levels.days.
default days := {"critical": 7, "high": 14, "medium": 14, "low": 14}

days := object.union({}, data.parameters.service_levels.days)

day := ((24 * 60) * 60) * 1000000000

available(f) := f.fix.available if {
	object.get(f.fix, "available", "") != ""
} else := f.first_seen if {
	object.get(f, "first_seen", "") != ""
} else := "1970-01-01"

# left is the nanoseconds until the service level of a finding with a fix is missed.
left(f) := (days[f.severity] * day) - (time.parse_rfc3339_ns(input.now) - time.parse_ns("2006-01-02", available(f)))

missed := [f | some f in input.findings; f.fix.state == "fixed"; left(f) < 0]

near := [f | some f in input.findings; f.fix.state == "fixed"; left(f) >= 0; left(f) < 7 * day]

violations contains {
	"policy": "service_levels",
	"message": sprintf("%d vulnerabilities are past Chainguard's CVE service level, such as %s (%s) in %s with a fix since %s", [
		count({f.id | some f in missed}), missed[0].id, missed[0].severity, missed[0].package.name, available(missed[0]),
	]),
	"findings": {f.id | some f in missed},
	"remediation": "Pull the latest build of a supported version stream.",
} if {
	count(missed) > 0
}

warnings contains {
	"policy": "service_levels_near",
	"message": sprintf("%d vulnerabilities will pass Chainguard's CVE service level within 7 days, such as %s in %s", [
		count({f.id | some f in near}), near[0].id, near[0].package.name,
	]),
	"findings": {f.id | some f in near},
	"remediation": "Plan to pull the latest build.",
} if {
	count(near) > 0
}
