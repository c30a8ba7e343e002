package sluice.policies.package_denied_test

import data.sluice.policies.package_denied as policy

holding(name, version, type) := {"scan": {"packages": 1}, "packages": [{"name": name, "version": version, "type": type}]}

names(set) := {v.policy | some v in set}

test_on_the_list if {
	names(policy.violations) == {"package_denied"} with input as holding("xz-utils", "5.6.1-r0", "deb")
	names(policy.violations) == {"package_denied"} with input as holding("liblzma5", "5.6.0", "deb")
	names(policy.violations) == {"package_denied"} with input as holding("event-stream", "3.3.6", "npm")
}

test_not_on_it if {
	count(policy.violations) == 0 with input as holding("xz-utils", "5.4.1", "deb")
	count(policy.violations) == 0 with input as holding("event-stream", "3.3.6", "gem")
}

test_no_list_is_refused if {
	names(policy.violations) == {"package_unknown"} with input as {"scan": {"packages": 3}}
	count(policy.violations) == 0 with input as {"scan": {"packages": 0}}
}

test_parameter if names(policy.violations) == {"package_denied"} with input as holding("telnetd", "1", "apk")
	with data.parameters.package_denied.packages as [{"name": "telnet*"}]
