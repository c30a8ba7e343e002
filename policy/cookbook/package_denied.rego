# METADATA
# title: Package deny list
# description: >-
#   An image is refused that holds a package on the list, whatever any database knows of
#   it: one with a backdoor that was found this hour, or one that nobody should ship. An
#   image whose list of packages is not at hand is refused.
package sluice.policies.package_denied

# Globs over name and version; a type (apk, deb, npm, ...) where it must be that one. The
# first is the backdoor of xz. In place of it: data.parameters.package_denied.packages.
default denied := [
	{"name": "{xz,xz-utils,liblzma*}", "version": "5.6.[01]*", "why": "backdoor (CVE-2024-3094)"},
	{"name": "event-stream", "version": "3.3.6", "type": "npm", "why": "steals credentials"},
]

denied := array.concat([], data.parameters.package_denied.packages)

default packages := []

packages := input.packages

matches(p, entry) if {
	glob.match(lower(entry.name), null, lower(p.name))
	glob.match(object.get(entry, "version", "*"), null, p.version)
	object.get(entry, "type", p.type) == p.type
}

found := [sprintf("%s %s: %s", [p.name, p.version, object.get(entry, "why", "on the list")]) |
	some entry in denied
	some p in packages
	matches(p, entry)
]

violations contains {
	"policy": "package_denied",
	"message": sprintf("%d packages are not to be used: %s", [count(found), concat(", ", array.slice(found, 0, 3))]),
	"findings": [],
	"remediation": "Remove the packages from the image.",
} if {
	count(found) > 0
}

violations contains {
	"policy": "package_unknown",
	"message": "the image's list of packages is not at hand",
	"findings": [],
	"remediation": "Try again; if it stays, run `sluice scan` on the image.",
} if {
	count(packages) == 0
	not input.scan.packages == 0
}
