# METADATA
# title: Rules for each namespace
# description: >-
#   What is refused depends on the Kubernetes namespace that the image is for. Where the
#   namespace is not known, as for a node that pulls, every rule holds.
package sluice.policies.namespace_rules

# The first rule that names the namespace counts; the names are globs. It says which
# severities are refused, and whether only where there is a fix. A namespace that no rule
# names is held to all of them. In place of it: data.parameters.namespace_rules.rules.
default rules := [
	{"namespaces": ["payments", "prod-*"], "severities": ["critical", "high"], "only_fixed": true},
	{"namespaces": ["sandbox-*"], "severities": [], "only_fixed": true},
	{"namespaces": ["*"], "severities": ["critical"], "only_fixed": true},
]

rules := array.concat([], data.parameters.namespace_rules.rules)

default namespace := ""

namespace := input.request.namespace

naming := [r |
	some r in rules
	namespace != ""
	some pattern in r.namespaces
	glob.match(pattern, null, namespace)
]

applied := array.slice(naming, 0, 1) if {
	count(naming) > 0
} else := rules

refused := [f |
	some f in input.findings
	some r in applied
	f.severity in r.severities
	concerns(r, f)
]

concerns(r, _) if not r.only_fixed

concerns(r, f) if {
	r.only_fixed
	f.fix.state == "fixed"
}

place := sprintf("in the namespace %s", [namespace]) if {
	namespace != ""
} else := "where the namespace is not known"

violations contains {
	"policy": "namespace_rules",
	"message": sprintf("%d vulnerabilities are not accepted %s, such as %s (%s) in %s", [
		count({f.id | some f in refused}), place, refused[0].id, refused[0].severity, refused[0].package.name,
	]),
	"findings": {f.id | some f in refused},
	"remediation": "Pull a newer build of the image, or rebuild it with the fixed packages.",
} if {
	count(refused) > 0
}
