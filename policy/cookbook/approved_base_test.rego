package sluice.policies.approved_base_test

import data.sluice.policies.approved_base as policy

on(base) := {"scan": {"state": "complete"}, "image": {"registry": "registry.example", "repository": "acme/web", "base": base}}

test_approved if count(policy.violations) == 0 with input as on({"name": "cgr.dev/chainguard/python:latest", "verified": true})

test_only_said if {
	count(policy.violations) == 1 with input as on({"name": "cgr.dev/chainguard/python:latest", "verified": false})
	count(policy.violations) == 1 with input as on({"name": "cgr.dev/chainguard/python:latest"})
	count(policy.violations) == 0 with input as on({"name": "cgr.dev/chainguard/python:latest"})
		with data.parameters.approved_base.trust_name as true
	count(policy.violations) == 1 with input as on({"name": "cgr.dev/chainguard/python:latest"})
		with data.parameters.approved_base.trust_name as "false"
}

test_another[name] if {
	some name in ["docker.io/library/debian:12", "evil.example/cgr.dev/chainguard/python", "cgr.dev/chainguard-evil/python", ""]
	count(policy.violations) == 1 with input as on({"name": name, "verified": true})
}

test_none_named if {
	count(policy.violations) == 1 with input as on({"digest": "sha256:1"})
	count(policy.violations) == 1 with input as {"scan": {"state": "complete"}, "image": {"registry": "r", "repository": "a"}}
}

test_the_base_itself if {
	count(policy.violations) == 0 with input as {"scan": {"state": "complete"}, "image": {"registry": "cgr.dev", "repository": "chainguard/python"}}
}

test_parameter if count(policy.violations) == 0 with input as on({"name": "registry.example/base/go:1", "verified": true})
	with data.parameters.approved_base.names as ["registry.example/base/*"]
