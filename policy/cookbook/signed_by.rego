# METADATA
# title: Signed by
# description: >-
#   An image is refused that nobody has signed whom the organisation trusts: by a key of
#   the gateway's configuration, or keyless by an identity that an issuer vouches for.
#   Anybody can sign keyless: it is who that counts. A signature on an index of the image
#   counts for the image.
package sluice.policies.signed_by

# Whose keyless signatures count: the issuer exactly, and a regular expression that the
# whole identity must match. The first is Chainguard's for its public images.
# In place of it: data.parameters.signed_by.identities.
default identities := [{
	"issuer": "https://token.actions.githubusercontent.com",
	"identity": `https://github\.com/chainguard-images/images/\.github/workflows/release\.yaml@refs/heads/main`,
}]

identities := array.concat([], data.parameters.signed_by.identities)

# Names of keys whose signatures count. In place of it: data.parameters.signed_by.keys.
default keys := []

keys := array.concat([], data.parameters.signed_by.keys)

default signatures := []

signatures := input.image.signatures

subjects := {input.image.digest} | {d | some d in object.get(input.image, "indexes", [])}

trusted(s) if {
	s.kind == "keyless"
	some who in identities
	s.issuer == who.issuer
	regex.match(concat("", ["^(?:", who.identity, ")$"]), s.identity)
}

trusted(s) if {
	s.kind == "key"
	s.key in keys
}

good if {
	some s in signatures
	s.verified
	s.subject in subjects
	trusted(s)
}

runnable if input.scan.state != "unsupported"

reasons := [r | some s in signatures; not s.verified; r := object.get(s, "error", "not verified")]

others := [who | some s in signatures; s.verified; who := object.get(s, "identity", object.get(s, "key", ""))]

why := "no signature of the image was found" if {
	count(signatures) == 0
} else := sprintf("the image is signed by %s, who is not trusted", [others[0]]) if {
	count(others) > 0
} else := sprintf("no signature of the image can be verified: %s", [reasons[0]])

violations contains {
	"policy": "signed_by",
	"message": why,
	"findings": [],
	"remediation": "Pull an image that was signed by who is trusted, or have it signed.",
} if {
	runnable
	not good
}
