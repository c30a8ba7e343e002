package sluice.policies.severity_fix_grace_test

import data.sluice.policies.severity_fix_grace as policy

fixed(severity, date) := {"now": "2026-03-10T12:00:00Z", "findings": [{
	"id": "CVE-1", "severity": severity, "first_seen": "2026-03-01",
	"package": {"name": "openssl", "version": "3"},
	"fix": {"state": "fixed", "versions": ["4"], "available": date},
}]}

test_within_grace if count(policy.violations) == 0 with input as fixed("critical", "2026-03-08")

test_past_grace if {
	some v in policy.violations with input as fixed("critical", "2026-03-07")
	v.findings == {"CVE-1"}
}

test_longer_for_high if {
	count(policy.violations) == 0 with input as fixed("high", "2026-02-25")
	count(policy.violations) == 1 with input as fixed("high", "2026-02-24")
}

test_date_unknown_counts_from_first_seen if count(policy.violations) == 1 with input as fixed("critical", "")

test_no_fix_passes if {
	none := json.patch(fixed("critical", ""), [{"op": "replace", "path": "/findings/0/fix/state", "value": "not-fixed"}])
	count(policy.violations) == 0 with input as none
}

test_parameter if {
	count(policy.violations) == 1 with input as fixed("medium", "2026-01-01")
		with data.parameters.severity_fix_grace.days as {"medium": 30}
}
