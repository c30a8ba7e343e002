# METADATA
# title: Outdated base
# description: >-
#   An image is refused whose base has a newer build: what the base's name points at today
#   is another image than the one that this was built on. The gateway knows that of bases
#   in registries that it fronts, some seconds after it first saw the image.
package sluice.policies.outdated_base

# What becomes of an image whose base isn't named or can't be compared: deny, or warn.
# In place of it: data.parameters.outdated_base.unknown.
default unknown := "deny"

unknown := data.parameters.outdated_base.unknown

default base := ""

base := input.image.base.name

runnable if input.scan.state != "unsupported"

known if is_boolean(input.image.base.outdated)

why := "the image does not say what it was built on" if {
	base == ""
} else := sprintf("whether the base %s has a newer build is not known", [base])

unsure := {
	"policy": "outdated_base_unknown",
	"message": why,
	"findings": [],
	"remediation": "Try again in a minute; if it stays, annotate the image with the name and digest of its base, and have the gateway front the base's registry.",
}

violations contains {
	"policy": "outdated_base",
	"message": sprintf("the base %s has a newer build (%s)", [base, object.get(input.image.base, "latest_digest", "")]),
	"findings": [],
	"remediation": "Rebuild the image on the base's newest build.",
} if {
	runnable
	input.image.base.outdated
}

violations contains unsure if {
	runnable
	not known
	unknown != "warn"
}

warnings contains unsure if {
	runnable
	not known
	unknown == "warn"
}
