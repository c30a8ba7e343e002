# METADATA
# title: Grace for what was running before
# description: >-
#   A Critical or High with a fix is refused at once in an image that is new here. In one
#   that was allowed before, an advisory that this gateway first saw after the image gets
#   some days of grace: a pod that restarts tonight must not fail over what was published
#   this afternoon. What was known when the image came gets none.
package sluice.policies.known_before

# Days from when this gateway first saw the advisory.
# In place of it: data.parameters.known_before.days.
default days := 7

days := data.parameters.known_before.days

# In place of it: data.parameters.known_before.severities.
default severities := ["critical", "high"]

severities := array.concat([], data.parameters.known_before.severities)

day := ((24 * 60) * 60) * 1000000000

# graced reports whether a finding is new in an image that is not. The day on which both
# were first seen counts for the finding: nobody knows which came first.
graced(f) if {
	input.history.previously_allowed
	seen := object.get(f, "first_seen", "")
	seen > substring(input.history.first_seen, 0, 10)
	time.parse_rfc3339_ns(input.now) - time.parse_ns("2006-01-02", seen) <= days * day
}

open := [f | some f in input.findings; f.severity in severities; f.fix.state == "fixed"]

refused := [f | some f in open; not graced(f)]

waiting := [f | some f in open; graced(f)]

violations contains {
	"policy": "known_before",
	"message": sprintf("%d vulnerabilities have a fix and no grace, such as %s (%s) in %s", [
		count({f.id | some f in refused}), refused[0].id, refused[0].severity, refused[0].package.name,
	]),
	"findings": {f.id | some f in refused},
	"remediation": "Pull a newer build of the image, or rebuild it with the fixed packages.",
} if {
	count(refused) > 0
}

warnings contains {
	"policy": "known_before_grace",
	"message": sprintf("%d vulnerabilities are new in an image that was allowed before, and will be refused %v days after they were first seen, such as %s (seen %s)", [
		count({f.id | some f in waiting}), days, waiting[0].id, waiting[0].first_seen,
	]),
	"findings": {f.id | some f in waiting},
	"remediation": "Roll out a newer build before then.",
} if {
	count(waiting) > 0
}
