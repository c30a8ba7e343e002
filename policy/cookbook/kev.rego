# METADATA
# title: Known to be exploited
# description: >-
#   A vulnerability in CISA's list of those known to be exploited is refused some days
#   after it was added there, whether or not there is a fix.
package sluice.policies.kev

# Days of grace from the day on which it was added.
# In place of it: data.parameters.kev.days.
default days := 0

days := data.parameters.kev.days

day := ((24 * 60) * 60) * 1000000000

exploited := [f |
	some f in input.findings
	added := object.get(f, "kev", "")
	added != ""
	time.parse_rfc3339_ns(input.now) - time.parse_ns("2006-01-02", added) >= days * day
]

violations contains {
	"policy": "kev",
	"message": sprintf("%d vulnerabilities are known to be exploited, such as %s in %s %s (since %s)", [
		count({f.id | some f in exploited}), exploited[0].id, exploited[0].package.name, exploited[0].package.version, exploited[0].kev,
	]),
	"findings": {f.id | some f in exploited},
	"remediation": "Pull a newer build of the image, or remove the package: this one is being attacked today.",
} if {
	count(exploited) > 0
}
