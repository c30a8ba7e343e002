# METADATA
# title: Licence deny list
# description: >-
#   A package under a licence that the organisation doesn't accept is refused. Of a choice
#   ("MIT OR GPL-3.0-only") one that is accepted is enough. Packages that name no licence
#   are warned of. An image whose list of packages is not at hand is refused.
package sluice.policies.license_denied

# Globs over SPDX identifiers. In place of it: data.parameters.license_denied.licenses.
default licenses := ["AGPL-*", "SSPL-*", "BUSL-*"]

licenses := array.concat([], data.parameters.license_denied.licenses)

default packages := []

packages := input.packages

# refused reports whether a licence, or an expression, can't be accepted.
refused(text) if {
	contains(text, "(") # a choice within: any one that is denied counts
	some id in regex.split(`[\s()]+`, text)
	denied(id)
}

refused(text) if {
	not contains(text, "(")
	every choice in regex.split(`(?i)\s+OR\s+`, text) {
		some id in regex.split(`\s+`, choice)
		denied(id)
	}
}

denied(id) if {
	some pattern in licenses
	glob.match(lower(pattern), null, lower(id))
}

# Many packages share few licences: each is looked at once.
texts := {text | some p in packages; some text in object.get(p, "licenses", [])}

bad := {text | some text in texts; refused(text)}

found := [sprintf("%s in %s %s", [text, p.name, p.version]) |
	some p in packages
	some text in object.get(p, "licenses", [])
	text in bad
]

unnamed := [p.name | some p in packages; count(object.get(p, "licenses", [])) == 0]

violations contains {
	"policy": "license_denied",
	"message": sprintf("%d packages are under licences that are not accepted: %s", [
		count(found), concat(", ", array.slice(found, 0, 3)),
	]),
	"findings": [],
	"remediation": "Remove the packages from the image, or ask for a waiver.",
} if {
	count(found) > 0
}

violations contains {
	"policy": "license_unknown",
	"message": "the image's list of packages is not at hand, so nobody knows their licences",
	"findings": [],
	"remediation": "Try again; if it stays, run `sluice scan` on the image.",
} if {
	count(packages) == 0
	not input.scan.packages == 0
}

warnings contains {
	"policy": "license_unnamed",
	"message": sprintf("%d packages name no licence, such as %s", [count(unnamed), unnamed[0]]),
	"findings": [],
	"remediation": "Look at what they say of themselves.",
} if {
	count(unnamed) > 0
}
