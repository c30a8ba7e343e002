package sluice.policies.unscannable_test

import data.sluice.policies.unscannable as policy

in_state(state) := {"scan": {"state": state, "cause": "scan_failed", "coverage": {"distro_known": true, "problems": []}}}

test_complete if count(policy.violations) == 0 with input as in_state("complete")

test_not_runnable if count(policy.violations) == 0 with input as in_state("unsupported")

test_everything_else[state] if {
	some state in ["partial", "pending", "failed", "limit", "", "new"]
	count(policy.violations) == 1 with input as in_state(state)
}

test_complete_with_a_problem if {
	count(policy.violations) == 1 with input as {"scan": {"state": "complete", "coverage": {"distro_known": true, "problems": [{"kind": "x"}]}}}
	count(policy.violations) == 1 with input as {"scan": {"state": "complete", "coverage": {"distro_known": false, "problems": []}}}
}

test_tolerated if {
	count(policy.violations) == 0 with input as in_state("failed") with data.parameters.unscannable.tolerated as ["scan_failed"]
	count(policy.warnings) == 1 with input as in_state("failed") with data.parameters.unscannable.tolerated as ["scan_failed"]
	count(policy.violations) == 1 with input as in_state("failed") with data.parameters.unscannable.tolerated as ["db_stale"]
}
