package sluice.policies.non_root_test

import data.sluice.policies.non_root as policy

run_by(user) := {"scan": {"state": "complete"}, "image": {"user": user}}

test_root[user] if {
	some user in ["", "root", "root:root", "0", "0:0", "00", ":65532", "0:65532"]
	count(policy.violations) == 1 with input as run_by(user)
}

test_no_user if count(policy.violations) == 1 with input as {"scan": {"state": "complete"}, "image": {}}

test_others[user] if {
	some user in ["65532", "nonroot", "nonroot:root", "1000:0"]
	count(policy.violations) == 0 with input as run_by(user)
}

test_a_chart_runs_as_nobody if count(policy.violations) == 0 with input as {"scan": {"state": "unsupported"}, "image": {}}
