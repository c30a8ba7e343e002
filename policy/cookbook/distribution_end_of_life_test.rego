package sluice.policies.distribution_end_of_life_test

import data.sluice.policies.distribution_end_of_life as policy

ends(date) := {"now": "2026-03-10T12:00:00Z", "scan": {"coverage": {"distro": "debian", "distro_version": "11", "distro_eol": date}}}

names(set) := {v.policy | some v in set}

test_from_the_day_after if {
	count(policy.violations) == 0 with input as ends("2026-03-10")
	count(policy.violations) == 1 with input as ends("2026-03-09")
}

test_notice if {
	names(policy.warnings) == {"distribution_end_of_life_near"} with input as ends("2026-04-10")
	count(policy.warnings) == 0 with input as ends("2026-10-10")
}

test_unknown if {
	names(policy.warnings) == {"distribution_end_of_life_unknown"} with input as ends("")
	count(policy.warnings) == 0 with input as {"scan": {"coverage": {"distro": "wolfi"}}}
	count(policy.warnings) == 0 with input as {"scan": {"coverage": {}}}
}

test_extended_support if count(policy.violations) == 0 with input as ends("2026-03-09")
	with data.parameters.distribution_end_of_life.days as 365
