package sluice.policies.sbom_attested_test

import data.sluice.policies.sbom_attested as policy

spdx := {
	"verified": true, "kind": "keyless", "format": "cosign-tag", "subject": "sha256:1",
	"issuer": "https://token.actions.githubusercontent.com",
	"identity": "https://github.com/chainguard-images/images/.github/workflows/release.yaml@refs/heads/main",
	"predicate_type": "https://spdx.dev/Document",
}

attested(list) := {"scan": {"state": "complete"}, "image": {"digest": "sha256:1", "attestations": list}}

test_present[type] if {
	some type in ["https://spdx.dev/Document", "https://spdx.dev/Document/v2.3", "https://cyclonedx.org/bom", "https://cyclonedx.org/bom/v1.6"]
	count(policy.violations) == 0 with input as attested([object.union(spdx, {"predicate_type": type})])
}

test_absent if {
	count(policy.violations) == 1 with input as attested([])
	count(policy.violations) == 1 with input as {"scan": {"state": "complete"}, "image": {"digest": "sha256:1"}}
}

test_not_good_enough[why] if {
	some why, change in {
		"no SBOM": {"predicate_type": "https://slsa.dev/provenance/v1"},
		"only begins like one": {"predicate_type": "https://spdx.dev/Documentation"},
		"not verified": {"verified": false},
		"another image's": {"subject": "sha256:2"},
		"by somebody": {"identity": "mallory@example.com"},
	}
	count(policy.violations) == 1 with input as attested([object.union(spdx, change)])
}

test_by_key if count(policy.violations) == 0 with input as attested([object.union(spdx, {"kind": "key", "key": "ci"})])
	with data.parameters.sbom_attested.keys as ["ci"]
