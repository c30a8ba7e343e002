# METADATA
# title: Approved bases
# description: >-
#   An image is refused that isn't built on an approved base, or doesn't say on which
#   (org.opencontainers.image.base.name and .digest, as annotations or labels). That is the
#   builder's word: it counts where the image begins with the layers of that base, which
#   the gateway knows of registries that it fronts, some seconds after it first saw the
#   image. The approved images themselves pass.
package sluice.policies.approved_base

# Globs over names; ** crosses "/". In place of it: data.parameters.approved_base.names.
default names := ["cgr.dev/chainguard/**"]

names := array.concat([], data.parameters.approved_base.names)

# Whether the builder's word is enough, as beside a policy on who signed the image.
# In place of it: data.parameters.approved_base.trust_name.
default trust_name := false

trust_name := data.parameters.approved_base.trust_name

approved(name) if {
	some pattern in names
	glob.match(pattern, ["/"], name)
}

default base := ""

base := input.image.base.name

runnable if input.scan.state != "unsupported"

good if {
	approved(base)
	input.image.base.verified
}

good if {
	approved(base)
	trust_name == true
}

good if approved(sprintf("%s/%s", [input.image.registry, input.image.repository]))

why := "the image does not say what it was built on" if {
	base == ""
} else := sprintf("the image was built on %s, which is not approved", [base]) if {
	not approved(base)
} else := sprintf("the image says that it was built on %s, and has other layers", [base]) if {
	input.image.base.verified == false
} else := sprintf("whether the image was built on %s, as it says, is not known", [base])

violations contains {
	"policy": "approved_base",
	"message": why,
	"findings": [],
	"remediation": sprintf("Build it on %s, annotated with the name and digest of its base; if the gateway has just seen it, try again in a minute.", [concat(" or ", names)]),
} if {
	runnable
	not good
}
