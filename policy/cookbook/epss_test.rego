package sluice.policies.epss_test

import data.sluice.policies.epss as policy

scored(severity, epss) := {"findings": [{"id": "CVE-1", "severity": severity, "epss": epss, "package": {"name": "a", "version": "1"}}]}

test_at_the_threshold if count(policy.violations) == 1 with input as scored("low", 0.1)

test_below if {
	count(policy.violations) == 0 with input as scored("critical", 0.099)
	count(policy.warnings) == 0 with input as scored("critical", 0.099)
}

test_no_score_is_warned_of if {
	count(policy.violations) == 0 with input as scored("high", 0)
	count(policy.warnings) == 1 with input as scored("high", 0)
	count(policy.warnings) == 0 with input as scored("low", 0)
}

test_parameter if count(policy.violations) == 0 with input as scored("low", 0.5) with data.parameters.epss.threshold as 0.9
