package sluice.policies.known_before_test

import data.sluice.policies.known_before as policy

seen(image, advisory, allowed) := {
	"now": "2026-03-10T12:00:00Z",
	"history": {"first_seen": image, "previously_allowed": allowed},
	"findings": [{"id": "CVE-1", "severity": "critical", "first_seen": advisory, "package": {"name": "a", "version": "1"}, "fix": {"state": "fixed", "versions": ["2"]}}],
}

test_new_in_an_old_image if {
	count(policy.violations) == 0 with input as seen("2026-01-01T08:00:00Z", "2026-03-09", true)
	count(policy.warnings) == 1 with input as seen("2026-01-01T08:00:00Z", "2026-03-09", true)
}

test_grace_ends if {
	count(policy.violations) == 0 with input as seen("2026-01-01T08:00:00Z", "2026-03-04", true)
	count(policy.violations) == 1 with input as seen("2026-01-01T08:00:00Z", "2026-03-03", true)
}

test_known_when_it_came if {
	count(policy.violations) == 1 with input as seen("2026-03-09T08:00:00Z", "2026-03-08", true)
	count(policy.violations) == 1 with input as seen("2026-03-09T08:00:00Z", "2026-03-09", true)
}

test_never_allowed_before if count(policy.violations) == 1 with input as seen("2026-01-01T08:00:00Z", "2026-03-09", false)

test_nothing_known_of_it if {
	count(policy.violations) == 1 with input as object.union(seen("", "", true), {"history": {"previously_allowed": true}})
	count(policy.violations) == 1 with input as json.remove(seen("", "2026-03-09", true), ["history/first_seen"])
}

test_parameter if count(policy.violations) == 1 with input as seen("2026-01-01T08:00:00Z", "2026-03-09", true)
	with data.parameters.known_before.days as 0
