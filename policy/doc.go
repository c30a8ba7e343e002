// Package policy decides whether a caller may have an image, and says why.
//
//	                 kill list ──── listed ───▶ deny, in every mode
//	                     │
//	Input ──────▶ remembered? ──── yes ──────▶ Decision
//	(request,            │
//	 image,         waivers ── set findings aside ──┐
//	 scan,               │                          │
//	 findings,         Rego: violations, warnings   │
//	 history)            │                          ▼
//	                waivers ── set policies aside ─▶ Decision{allow, violations,
//	                                                 warnings, waived}
//
// It is the only package that knows OPA. It never fails open: a policy that is
// undefined, errs, runs out of time or answers in the wrong shape denies, with the
// cause policy_error.
//
// # Writing policies
//
// Policies are *.rego files, in Rego v1. Every package below sluice.policies counts:
// each of them is asked for its set violations, its set warnings, or both, and all
// are put together. An image is allowed when there is no violation, so a policy can
// add reasons to deny and can't take away another's. Elements are objects:
//
//	package sluice.policies.no_root
//
//	violations contains {
//		"policy": "no_root",                           # required: the name that waivers and messages use
//		"message": "the image runs as root",           # required: one line
//		"findings": {"CVE-2026-1234"},                 # a set or array of finding IDs, where it is about findings
//		"remediation": "Set USER to a number over 0.", # what to do, as an imperative sentence
//	} if {
//		object.get(input.image, "user", "") in {"", "0", "root"}
//	}
//
// A policy returns one violation for all findings that it holds against an image,
// not one for each. Findings come worst first. The names policy_error and kill_list
// belong to the engine.
//
// Helpers live below sluice.lib, or in any package outside sluice.policies that has
// no rule named violations or warnings. Tests live in files named *_test.rego; they
// are run whenever policies are loaded, and take no part in deciding. Names that
// begin with a dot are skipped. Files other than *.rego are not read.
//
// Input is checked against input.schema.json when policies are loaded, so a misspelt
// field is an error with file and line. Optional fields may be absent: use
// object.get, or "not". Dates are YYYY-MM-DD, times RFC 3339; input.now is the time
// of the decision, and time.now_ns() agrees with it. A date that can't be parsed is
// an error and so denies: check for "" first.
//
// A directory replaces the defaults, which are in default/ and are meant to be copied.
//
// # Waivers
//
// A waiver file is YAML or JSON:
//
//	waivers:
//	  - id: W-12
//	    owner: anna@example.com
//	    reason: not reachable, we don't parse untrusted XML
//	    ticket: SEC-431               # optional
//	    scope:                        # all that is set must match; at least one
//	      advisory: CVE-2026-1234     # or an alias
//	      package: libxml*            # glob over the package's name
//	      repository: acme/*          # glob over acme/web and cgr.dev/acme/web; ** crosses "/"
//	      digest: sha256:…            # of the image, or of an index that lists it
//	      namespace: payments
//	    expires: 2026-12-31           # mandatory: through the end of that day in UTC, or RFC 3339
//
// With advisory or package it sets findings aside: policies don't see them. With
// scope.policy instead (scan_failed, no_root) it sets aside what that policy says.
// With neither it sets aside everything about the images it is for. It ends to the
// second. What is set aside is listed in Decision.Waived and marked in the Answer:
// suppressed, never hidden. No waiver reaches the kill list or policy_error.
//
// # Kill list
//
// A file of digests, of images or indexes, one a line, with an optional reason:
//
//	sha256:…   # leaked key in layer 3
//
// It is looked at before everything else and needs no Rego. It holds in every mode,
// off included.
//
// # Why
//
// The embedding is v1/rego with a loader of our own, not OPA's SDK: we need strict
// compilation, cut capabilities, a deadline and last-good loading, and none of its
// plugins.
//
// Each package is asked by itself rather than through one document, so that the
// error can name the package that is undefined; asking for all of data.sluice.policies
// would also evaluate every helper in it.
//
// Waivers are applied in Go, before and after Rego, so that no policy can forget
// them, and none has to know them.
//
// Content that changes must stay the same for 200 ms before it is used: half of a
// policy file can be valid, and lets through what the whole would not. A bad policy
// or waiver file leaves the last good one in place. A bad kill list adds its good
// lines to the last good list: nothing on either comes back to life by a typing error.
//
// Decisions are remembered under a hash of everything that they are made from, the
// findings included, rather than under the verdict's name: a wrong hit would let an
// image pass, and hashing takes a tenth of a microsecond a finding. Findings
// converted to Rego's terms are not kept between decisions: it would save less than
// half of a decision that is seldom made, and cost some 4 KB a finding.
//
// Evaluations wait for one of as many places as there are processors, outside their
// deadline. A hundred at once would else all miss it, and deny. One that runs out of
// time is tried once more with four times as long: wall time on a busy machine says
// little about the policy, and a denial for it would be wrong.
//
// Print statements are allowed in policies, for their tests; when deciding they are
// compiled away.
package policy
