package sluice.policies.kev_test

import data.sluice.policies.kev as policy

listed(date) := {"now": "2026-03-10T12:00:00Z", "findings": [{"id": "CVE-1", "kev": date, "package": {"name": "a", "version": "1"}}]}

test_listed if count(policy.violations) == 1 with input as listed("2026-03-10")

test_not_listed if {
	count(policy.violations) == 0 with input as listed("")
	count(policy.violations) == 0 with input as {"now": "2026-03-10T12:00:00Z", "findings": [{"id": "CVE-1"}]}
}

test_grace if {
	count(policy.violations) == 0 with input as listed("2026-03-08") with data.parameters.kev.days as 3
	count(policy.violations) == 1 with input as listed("2026-03-07") with data.parameters.kev.days as 3
}
