package sluice.policies.signed_by_test

import data.sluice.policies.signed_by as policy

release := {
	"verified": true, "kind": "keyless", "format": "bundle", "subject": "sha256:1",
	"issuer": "https://token.actions.githubusercontent.com",
	"identity": "https://github.com/chainguard-images/images/.github/workflows/release.yaml@refs/heads/main",
}

signed(signatures) := {"scan": {"state": "complete"}, "image": {"digest": "sha256:1", "indexes": ["sha256:2"], "signatures": signatures}}

but(change) := signed([object.union(release, change)])

test_trusted if count(policy.violations) == 0 with input as signed([release])

test_on_an_index_of_it if count(policy.violations) == 0 with input as but({"subject": "sha256:2"})

test_no_signature if {
	count(policy.violations) == 1 with input as signed([])
	count(policy.violations) == 1 with input as {"scan": {"state": "complete"}, "image": {"digest": "sha256:1"}}
}

test_not_good_enough[why] if {
	some why, change in {
		"not verified": {"verified": false, "error": "expired"},
		"another image's": {"subject": "sha256:3"},
		"another issuer": {"issuer": "https://issuer.example"},
		"another workflow": {"identity": "https://github.com/evil/images/.github/workflows/release.yaml@refs/heads/main"},
		"longer at the end": {"identity": concat("", [release.identity, "-evil"])},
		"longer in front": {"identity": concat("", ["https://evil.example/?", release.identity])},
		"a dot that is none": {"identity": replace(release.identity, "github.com", "githubXcom")},
		"a key nobody trusts": {"kind": "key", "key": "old"},
	}
	count(policy.violations) == 1 with input as but(change)
}

test_one_of_several_is_enough if count(policy.violations) == 0 with input as signed([{"verified": false, "kind": "key", "subject": "sha256:1", "error": "?"}, release])

test_by_key if {
	by_key := signed([{"verified": true, "kind": "key", "key": "release", "subject": "sha256:1"}])
	count(policy.violations) == 1 with input as by_key
	count(policy.violations) == 0 with input as by_key with data.parameters.signed_by.keys as ["release"]
}

test_a_signature_needs_none if count(policy.violations) == 0 with input as {"scan": {"state": "unsupported"}, "image": {"digest": "sha256:1"}}
