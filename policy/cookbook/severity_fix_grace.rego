# METADATA
# title: Severity, with grace from the fix
# description: >-
#   A vulnerability that has a fix is refused once the fix has been out for some days, the
#   fewer the worse it is. What has no fix is let pass: a denial would help nobody. Where
#   nobody knows since when there is a fix, the days count from when this gateway first
#   saw the advisory.
package sluice.policies.severity_fix_grace

# Days of grace by severity; one that isn't named (unknown is one too) is never refused.
# In place of it: data.parameters.severity_fix_grace.days.
default days := {"critical": 3, "high": 14}

days := object.union({}, data.parameters.severity_fix_grace.days)

day := ((24 * 60) * 60) * 1000000000

age(date) := time.parse_rfc3339_ns(input.now) - time.parse_ns("2006-01-02", date)

fixed_since(f) := f.fix.available if {
	object.get(f.fix, "available", "") != ""
} else := f.first_seen if {
	object.get(f, "first_seen", "") != ""
} else := "1970-01-01"

overdue := [f |
	some f in input.findings
	grace := days[f.severity]
	f.fix.state == "fixed"
	age(fixed_since(f)) > grace * day
]

violations contains {
	"policy": "severity_fix_grace",
	"message": sprintf("%d vulnerabilities have had a fix for longer than they may, such as %s (%s) in %s, fixed %s", [
		count({f.id | some f in overdue}), overdue[0].id, overdue[0].severity, overdue[0].package.name, fixed_since(overdue[0]),
	]),
	"findings": {f.id | some f in overdue},
	"remediation": "Pull a newer build of the image, or rebuild it with the fixed packages.",
} if {
	count(overdue) > 0
}
