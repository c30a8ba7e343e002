package sluice.policies.license_denied_test

import data.sluice.policies.license_denied as policy

under(licenses) := {"scan": {"packages": 1}, "packages": [{"name": "a", "version": "1", "licenses": licenses}]}

names(set) := {v.policy | some v in set}

test_accepted[text] if {
	some text in ["MIT", "MIT AND Apache-2.0", "MIT OR AGPL-3.0-only", "GPL-2.0-or-later WITH Classpath-exception-2.0"]
	count(policy.violations) == 0 with input as under([text])
}

test_refused[text] if {
	some text in ["AGPL-3.0-only", "agpl-3.0", "MIT AND SSPL-1.0", "AGPL-3.0-only OR SSPL-1.0", "MIT AND (ISC OR BUSL-1.1)"]
	names(policy.violations) == {"license_denied"} with input as under([text])
}

test_any_of_several_counts if names(policy.violations) == {"license_denied"} with input as under(["MIT", "SSPL-1.0"])

test_none_named_is_warned_of if {
	names(policy.warnings) == {"license_unnamed"} with input as {"scan": {"packages": 1}, "packages": [{"name": "a", "version": "1"}]}
}

test_no_list_is_refused if {
	names(policy.violations) == {"license_unknown"} with input as {"scan": {"packages": 7}}
	count(policy.violations) == 0 with input as {"scan": {"packages": 0}}
}

test_parameter if names(policy.violations) == {"license_denied"} with input as under(["GPL-3.0-only"])
	with data.parameters.license_denied.licenses as ["GPL-*"]
