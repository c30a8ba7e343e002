package sluice.policies.namespace_rules_test

import data.sluice.policies.namespace_rules as policy

wanted(namespace, severity) := {"request": {"namespace": namespace}, "findings": [{
	"id": "CVE-1", "severity": severity, "package": {"name": "a", "version": "1"},
	"fix": {"state": "fixed", "versions": ["2"]},
}]}

test_strict_and_lax if {
	count(policy.violations) == 1 with input as wanted("payments", "high")
	count(policy.violations) == 1 with input as wanted("prod-eu", "high")
	count(policy.violations) == 0 with input as wanted("web", "high")
	count(policy.violations) == 1 with input as wanted("web", "critical")
	count(policy.violations) == 0 with input as wanted("sandbox-1", "critical")
}

test_not_known_is_held_to_all if {
	count(policy.violations) == 1 with input as object.remove(wanted("", "high"), ["request"])
	count(policy.violations) == 1 with input as wanted("", "high")
}

test_named_by_no_rule_is_held_to_all if {
	count(policy.violations) == 1 with input as wanted("web", "low")
		with data.parameters.namespace_rules.rules as [{"namespaces": ["prod"], "severities": ["low"]}]
}

test_no_fix if {
	none := json.patch(wanted("payments", "critical"), [{"op": "replace", "path": "/findings/0/fix/state", "value": "not-fixed"}])
	count(policy.violations) == 0 with input as none
	count(policy.violations) == 1 with input as none
		with data.parameters.namespace_rules.rules as [{"namespaces": ["*"], "severities": ["critical"], "only_fixed": false}]
}
