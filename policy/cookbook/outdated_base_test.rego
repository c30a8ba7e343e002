package sluice.policies.outdated_base_test

import data.sluice.policies.outdated_base as policy

on(base) := {"scan": {"state": "complete"}, "image": {"base": base}}

names(set) := {v.policy | some v in set}

test_current if {
	count(policy.violations) == 0 with input as on({"name": "a/b:1", "outdated": false})
	count(policy.warnings) == 0 with input as on({"name": "a/b:1", "outdated": false})
}

test_outdated if names(policy.violations) == {"outdated_base"} with input as on({"name": "a/b:1", "outdated": true, "latest_digest": "sha256:1"})

test_not_known if {
	names(policy.violations) == {"outdated_base_unknown"} with input as on({"name": "a/b:1"})
	names(policy.violations) == {"outdated_base_unknown"} with input as {"scan": {"state": "complete"}, "image": {}}
}

test_not_known_may_be_warned_of if {
	count(policy.violations) == 0 with input as on({"name": "a/b:1"}) with data.parameters.outdated_base.unknown as "warn"
	names(policy.warnings) == {"outdated_base_unknown"} with input as on({"name": "a/b:1"}) with data.parameters.outdated_base.unknown as "warn"
	names(policy.violations) == {"outdated_base"} with input as on({"outdated": true}) with data.parameters.outdated_base.unknown as "warn"
}

test_a_chart_has_no_base if count(policy.violations) == 0 with input as {"scan": {"state": "unsupported"}, "image": {}}
