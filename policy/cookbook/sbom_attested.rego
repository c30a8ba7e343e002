# METADATA
# title: SBOM attestation present
# description: >-
#   An image is refused that has no SBOM, in SPDX or CycloneDX, attested by whom the
#   organisation trusts.
package sluice.policies.sbom_attested

# Whose keyless attestations count: the issuer exactly, and a regular expression that the
# whole identity must match. The first is Chainguard's for its public images.
# In place of it: data.parameters.sbom_attested.identities.
default identities := [{
	"issuer": "https://token.actions.githubusercontent.com",
	"identity": `https://github\.com/chainguard-images/images/\.github/workflows/release\.yaml@refs/heads/main`,
}]

identities := array.concat([], data.parameters.sbom_attested.identities)

# Names of keys whose attestations count. In place of it: data.parameters.sbom_attested.keys.
default keys := []

keys := array.concat([], data.parameters.sbom_attested.keys)

types := ["https://spdx.dev/Document", "https://cyclonedx.org/bom"]

default attestations := []

attestations := input.image.attestations

subjects := {input.image.digest} | {d | some d in object.get(input.image, "indexes", [])}

trusted(a) if {
	a.kind == "keyless"
	some who in identities
	a.issuer == who.issuer
	regex.match(concat("", ["^(?:", who.identity, ")$"]), a.identity)
}

trusted(a) if {
	a.kind == "key"
	a.key in keys
}

sboms := [a |
	some a in attestations
	some type in types
	is_type(a.predicate_type, type)
]

# A version may follow.
is_type(got, type) if got == type

is_type(got, type) if startswith(got, concat("", [type, "/"]))

good if {
	some a in sboms
	a.verified
	a.subject in subjects
	trusted(a)
}

runnable if input.scan.state != "unsupported"

why := "the image has no SBOM attestation" if {
	count(sboms) == 0
} else := "no SBOM attestation of the image is verified and by whom is trusted"

violations contains {
	"policy": "sbom_attested",
	"message": why,
	"findings": [],
	"remediation": "Attach one when the image is built, such as with `cosign attest --type spdxjson`.",
} if {
	runnable
	not good
}
