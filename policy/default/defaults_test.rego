package sluice.policies_test

import data.sluice.lib
import data.sluice.policies.end_of_life
import data.sluice.policies.fix_overdue
import data.sluice.policies.known_exploited
import data.sluice.policies.scanned
import data.sluice.policies.severity_unknown

complete := {
	"state": "complete",
	"coverage": {"distro": "wolfi", "distro_known": true, "problems": []},
}

with_findings(findings) := {"now": "2026-03-10T12:00:00Z", "scan": complete, "findings": findings}

finding(severity, fix) := {
	"id": "CVE-2026-0001", "severity": severity, "first_seen": "2026-03-05",
	"package": {"name": "openssl", "version": "3.0.1"},
	"fix": fix,
}

fixed_on(date) := {"state": "fixed", "versions": ["3.0.2"], "available": date}

date_unknown := {"state": "fixed", "versions": ["3.0.2"]}

no_fix := {"state": "not-fixed", "versions": []}

names(set) := {v.policy | some v in set}

test_known_exploited if {
	exploited := object.union(finding("low", no_fix), {"kev": "2026-03-09"})
	names(known_exploited.violations) == {"known_exploited"} with input as with_findings([exploited])
	count(known_exploited.violations) == 0 with input as with_findings([finding("critical", no_fix)])
}

test_critical_is_denied_after_seven_days[title] if {
	some title, tc in {
		"8 days": {"fix": fixed_on("2026-03-02"), "want": {"critical_fix_overdue"}},
		"7 days and a half": {"fix": fixed_on("2026-03-03"), "want": {"critical_fix_overdue"}},
		"6 days and a half": {"fix": fixed_on("2026-03-04"), "want": set()},
		"date unknown, seen 5 days ago": {"fix": date_unknown, "want": set()},
		"no fix": {"fix": no_fix, "want": set()},
	}
	names(fix_overdue.violations) == tc.want with input as with_findings([finding("critical", tc.fix)])
}

test_critical_counts_from_first_seen if {
	old := object.union(finding("critical", date_unknown), {"first_seen": "2026-03-01"})
	names(fix_overdue.violations) == {"critical_fix_overdue"} with input as with_findings([old])
	never := object.remove(old, ["first_seen"])
	names(fix_overdue.violations) == {"critical_fix_overdue"} with input as with_findings([never])
}

test_exactly_seven_days_is_not_over_seven if {
	at := object.union(with_findings([finding("critical", fixed_on("2026-03-03"))]), {"now": "2026-03-10T00:00:00Z"})
	count(fix_overdue.violations) == 0 with input as at
	after := object.union(at, {"now": "2026-03-10T00:00:01Z"})
	count(fix_overdue.violations) == 1 with input as after
}

test_high_is_warned_of_after_fourteen_days if {
	names(fix_overdue.warnings) == {"high_fix_overdue"} with input as with_findings([finding("high", fixed_on("2026-02-20"))])
	count(fix_overdue.warnings) == 0 with input as with_findings([finding("high", fixed_on("2026-02-25"))])
	count(fix_overdue.violations) == 0 with input as with_findings([finding("high", fixed_on("2020-01-01"))])
}

test_severity_unknown if {
	names(severity_unknown.warnings) == {"severity_unknown"} with input as with_findings([finding("unknown", no_fix)])
	names(severity_unknown.warnings) == {"severity_unknown"} with input as with_findings([finding("", no_fix)])
	count(severity_unknown.warnings) == 0 with input as with_findings([finding("low", no_fix)])
}

test_worst_names_two if {
	f := finding("low", fixed_on("2026-03-01"))
	text := lib.worst([f, object.union(f, {"id": "CVE-2"}), object.union(f, {"id": "CVE-3"})])
	text == "CVE-2026-0001 in openssl 3.0.1 (fixed in 3.0.2), CVE-2 in openssl 3.0.1 (fixed in 3.0.2)"
}

eol(date) := {"now": "2026-03-10T12:00:00Z", "scan": {"coverage": {"distro": "debian", "distro_version": "10", "distro_eol": date}}}

test_end_of_life if {
	names(end_of_life.warnings) == {"end_of_life"} with input as eol("2026-03-09")
	count(end_of_life.warnings) == 0 with input as eol("2026-03-10")
	count(end_of_life.warnings) == 0 with input as eol("")
	nameless := {"now": "2026-03-10T12:00:00Z", "scan": {"coverage": {"distro_eol": "2020-01-01"}}}
	count(end_of_life.warnings) == 1 with input as nameless
}

unscanned(state, cause) := {"scan": {"state": state, "cause": cause, "coverage": {"problems": [], "distro_known": false}}}

test_each_cause_is_denied_by_its_name[cause] if {
	some cause in object.keys(scanned.causes)
	names(scanned.violations) == {cause} with input as unscanned("failed", cause)
	every v in scanned.violations { v.remediation != "" } with input as unscanned("failed", cause)
}

test_a_state_without_a_cause[state] if {
	some state, want in {"failed": "scan_failed", "partial": "scan_failed", "pending": "scan_timeout", "limit": "scan_limit", "": "scan_failed", "new": "scan_failed"}
	names(scanned.violations) == {want} with input as unscanned(state, "")
}

test_an_unknown_cause_is_scan_failed if {
	names(scanned.violations) == {"scan_failed"} with input as unscanned("failed", "policy_error")
	names(scanned.violations) == {"scan_failed"} with input as {"scan": {"state": "failed", "coverage": {"problems": []}}}
	names(scanned.violations) == {"scan_failed"} with input as {}
}

test_complete_and_unsupported_pass if {
	count(scanned.violations) == 0 with input as with_findings([])
	count(scanned.violations) == 0 with input as unscanned("unsupported", "")
}

test_complete_with_a_problem_does_not_pass if {
	broken := object.union(complete, {"coverage": {"distro_known": true, "problems": [{"kind": "x", "detail": "odd file"}]}})
	names(scanned.violations) == {"scan_failed"} with input as {"scan": broken}
	strange := object.union(complete, {"coverage": {"distro": "plan9", "distro_known": false, "problems": []}})
	names(scanned.violations) == {"scan_failed"} with input as {"scan": strange}
}
