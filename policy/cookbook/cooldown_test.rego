package sluice.policies.cooldown_test

import data.sluice.policies.cooldown as policy

made(date) := {
	"now": "2026-06-10T12:00:00Z", "scan": {"state": "complete"},
	"image": {"created": date}, "history": {"first_seen": "2026-06-10T10:00:00Z"},
}

test_old_enough if count(policy.violations) == 0 with input as made("2026-06-07T12:00:00Z")

test_too_young if {
	some v in policy.violations with input as made("2026-06-07T12:00:01Z")
	contains(v.message, "2026-06-10 12:00 UTC")
}

test_no_date if count(policy.violations) == 1 with input as {"now": "2026-06-10T12:00:00Z", "scan": {"state": "complete"}, "image": {}, "history": {}}

test_by_our_own_clock if {
	count(policy.violations) == 1 with input as made("2020-01-01T00:00:00Z") with data.parameters.cooldown.clock as "first_seen"
	count(policy.violations) == 0 with input as object.union(made(""), {"history": {"first_seen": "2026-06-01T00:00:00Z"}})
		with data.parameters.cooldown.clock as "first_seen"
}

test_a_signature_needs_none if count(policy.violations) == 0 with input as {"scan": {"state": "unsupported"}, "image": {}, "history": {}}
