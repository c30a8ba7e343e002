package sluice.policies.max_age_test

import data.sluice.policies.max_age as policy

made(date) := {"now": "2026-06-01T12:00:00Z", "scan": {"state": "complete"}, "image": {"created": date}}

test_young_enough if count(policy.violations) == 0 with input as made("2026-03-03T12:00:00Z")

test_too_old if count(policy.violations) == 1 with input as made("2026-03-03T11:59:59Z")

test_no_date if {
	count(policy.violations) == 1 with input as {"now": "2026-06-01T12:00:00Z", "scan": {"state": "complete"}, "image": {}}
	count(policy.violations) == 1 with input as made("1970-01-01T00:00:00Z")
}

test_future if count(policy.violations) == 1 with input as made("2030-01-01T00:00:00Z")

test_a_signature_has_no_age if count(policy.violations) == 0 with input as {"scan": {"state": "unsupported"}, "image": {}}

test_parameter if count(policy.violations) == 1 with input as made("2026-05-20T12:00:00Z") with data.parameters.max_age.days as 7
