package sluice.policies.service_levels_test

import data.sluice.policies.service_levels as policy

fixed(severity, date) := {"now": "2026-03-20T12:00:00Z", "findings": [{
	"id": "CVE-1", "severity": severity, "package": {"name": "openssl", "version": "3"},
	"fix": {"state": "fixed", "versions": ["4"], "available": date},
}]}

test_each_severity_has_its_days[severity] if {
	some severity, dates in {
		"critical": ["2026-03-14", "2026-03-13"],
		"high": ["2026-03-07", "2026-03-06"],
		"medium": ["2026-03-07", "2026-03-06"],
		"low": ["2026-03-07", "2026-03-06"],
	}
	count(policy.violations) == 0 with input as fixed(severity, dates[0])
	count(policy.warnings) == 1 with input as fixed(severity, dates[0])
	count(policy.violations) == 1 with input as fixed(severity, dates[1])
}

test_no_fix_has_no_service_level if {
	none := {"now": "2026-03-20T12:00:00Z", "findings": [{"id": "CVE-1", "severity": "critical", "fix": {"state": "wont-fix", "versions": []}}]}
	count(policy.violations) == 0 with input as none
}

test_parameter if count(policy.violations) == 1 with input as fixed("negligible", "2026-01-01")
	with data.parameters.service_levels.days as {"negligible": 30}
