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
// Data documents are files named data.json or data.yaml. Their folder says where they
// stand: what parameters/limit/data.yaml holds is data.parameters.limit. A rule that
// refers to data which no document has is an error, unless it has a default.
//
// Helpers live below sluice.lib, or in any package outside sluice.policies that has
// no rule named violations or warnings. Tests live in files named *_test.rego; they
// are run whenever policies are loaded, and take no part in deciding. Names that
// begin with a dot are skipped. Other files are not read.
//
// A bundle is the same in one file, a tar.gz as `opa build` makes it. It may have to be
// signed by one of some keys, over each of its files; a signature that has ended (exp)
// does not count.
//
// Input is checked against input.schema.json when policies are loaded, so a misspelt
// field is an error with file and line, as a key of object.get and in functions too; so is a
// comparison with what a field never is, as severities in capitals. So is
// what looks like a policy and would not be asked: violations in another package, a rule
// named deny that nothing refers to. Optional fields may be absent: use object.get, or "not". Dates are YYYY-MM-DD, times RFC 3339; input.now is the time
// of the decision, and time.now_ns() agrees with it. A date that can't be parsed is
// an error and so denies: check for "" first.
//
// A directory replaces the defaults, which are in default/ and are meant to be copied; but
// where none of its policies asks for input.scan.cause, default/scanned.rego stays: that
// nothing was found in an image which could not be scanned is no reason to let it pass.
// cookbook/ has a policy with tests for most of what organisations ask for. Each stands
// for itself, so that one file can be copied, and has its parameters at its top; a data
// document may have others, at data.parameters.NAME. What asks for a fact (who signed,
// on which base, which licence) refuses an image of which that fact is not known.
//
// # Chainguard's policies
//
// Manifests of Chainguard's registry policies (supported_resource_type
// registry.chainguard.dev/Repo@v1, package chainguard.policies, rule allow) are YAML files
// beside the others, and are taken as they are. What does not allow an image is a
// violation named like the manifest, with modes and waivers as any. Parameters have their
// defaults, or what a data document says at data.chainguard.parameters[NAME].
//
// Their input is filled from what is known of the image. A manifest that reads a field
// which is not known has the outcome ERROR, which denies:
//
//	input.main_package          the annotation or label dev.chainguard.package.main
//	input.main_package_version  data.chainguard.lifecycle[main_package], an object with eolDate,
//	                            releaseDate, version, latestVersion, lts, fips, exists, eolBroken,
//	                            versionSource; what an entry leaves out is not recorded
//	input.create_time           the annotation org.opencontainers.image.created, or the config's date
//	input.parameters            see above
//
// # Input
//
// Every field, with "?" where it may be absent; testdata/input.json is an example. What a
// stranger says of an image (created, user, labels, annotations, the base's name and
// digest) is a claim. Lists are never null. An absent field makes what refers to it
// undefined, and a rule that is undefined refuses nothing: write "not signed" rather than
// "unsigned", and look whether the fact is there.
//
// Signatures and attestations, latest_digest, outdated and verified, packages and licenses cost
// something to have: they are there where a policy of the set refers to them, as
// input.image.signatures does, or takes the object that holds them; of licenses, where
// one has that name in it.
//
//	request.caller                       string     name of the caller, "" for an anonymous one
//	request.groups                       []string   of the caller
//	request.namespace                    string?    Kubernetes namespace; absent where it is not known, as for a node that pulls
//	request.action                       string     pull, check or admission
//	image.reference                      string     as a person would write it
//	image.registry                       string     name of the upstream: cgr.dev
//	image.repository                     string     acme/web
//	image.digest                         string     of the manifest for one platform
//	image.platform                       string     os/architecture[/variant], "" where the config says none
//	image.tags                           []string   known to point at the digest, or at an index of it
//	image.media_type                     string?    of the manifest; absent where it has none
//	image.created                        string?    RFC 3339, as the config claims; absent where it has no date that can be read
//	image.user                           string?    USER, as the config has it; absent is root
//	image.env                            []string?  names of the variables that the config sets, never values; absent without any
//	image.size                           number?    bytes of all layers as they are stored; absent where there are none
//	image.layers                         number?    how many; absent where there are none
//	image.labels                         map?       of the config; absent without any
//	image.annotations                    map?       of the manifest; absent without any
//	image.base                           object?    absent where neither annotations nor labels name one (org.opencontainers.image.base.*)
//	image.base.name                      string?    as they have it; absent where they have only a digest
//	image.base.digest                    string?    as they have it; absent where they have only a name
//	image.base.latest_digest             string?    what the name points at now; absent where the registry is none of the gateway's, or not asked yet
//	image.base.outdated                  boolean?   digest is not what the name points at now, nor a child of it; absent like latest_digest
//	image.base.verified                    boolean?   the image begins with the layers of digest; absent where the registry is none of the gateway's, or not asked yet
//	image.indexes                        []string?  digests of indexes that list the image; absent where none is known
//	image.signatures                     []object?  on the image or an index of it, those that can't be verified too; absent where none was found
//	image.signatures[].verified          boolean    by a trust root of the configuration; who signed is for the policy to judge
//	image.signatures[].kind              string     key or keyless
//	image.signatures[].format            string     cosign-tag or bundle
//	image.signatures[].subject           string     the digest that is signed
//	image.signatures[].key               string?    name of the trusted key; absent for keyless ones
//	image.signatures[].issuer            string?    who vouches for the identity; absent for keys
//	image.signatures[].identity          string?    e-mail address or URI; absent for keys
//	image.signatures[].time              string?    RFC 3339; absent where no log and no time stamp proves one
//	image.signatures[].error             string?    why it is not verified; absent where it is
//	image.attestations                   []object?  statements about the image or an index of it; absent where none was found
//	image.attestations[].verified        boolean    as for signatures, and so are the next eight
//	image.attestations[].kind            string     see signatures
//	image.attestations[].format          string     see signatures
//	image.attestations[].subject         string     see signatures
//	image.attestations[].key             string?    absent as for signatures
//	image.attestations[].issuer          string?    absent as for signatures
//	image.attestations[].identity        string?    absent as for signatures
//	image.attestations[].time            string?    absent as for signatures
//	image.attestations[].error           string?    absent as for signatures
//	image.attestations[].predicate_type  string     https://slsa.dev/provenance/v1
//	image.attestations[].predicate       any?       absent where it is larger than 64 KiB, or not verified
//	scan.state                           string     complete, partial, pending, failed, limit or unsupported (nothing that a runtime would run)
//	scan.cause                           string?    scan_timeout, scan_failed, scan_limit, no_room, db_missing, db_stale, store_down, upstream_down; absent for complete and unsupported
//	scan.detail                          string?    one line for people; absent where there is nothing to say
//	scan.scanned_at                      string?    RFC 3339; absent where it was not scanned
//	scan.packages                        number     how many
//	scan.database                        object?    absent where no vulnerability database had a say
//	scan.database.built                  string     RFC 3339
//	scan.database.checksum               string     as grype reports it
//	scan.coverage                        object     what the scan has seen
//	scan.coverage.distro                 string?    ID of os-release; absent where there is none
//	scan.coverage.distro_version         string?    VERSION_ID; absent where there is none
//	scan.coverage.distro_known           boolean    the database has data for the distribution, or none is needed
//	scan.coverage.distro_eol             string?    date; absent where the database doesn't know it
//	scan.coverage.problems               []object   what could not be read or matched
//	scan.coverage.problems[].kind        string     a stable word
//	scan.coverage.problems[].layer       string?    compressed digest; absent where it is not about one layer
//	scan.coverage.problems[].path        string?    absent where it is not about one file
//	scan.coverage.problems[].detail      string     one line for people
//	scan.counts                          object     findings by severity, before waivers
//	scan.counts.critical                 number     how many
//	scan.counts.high                     number     how many
//	scan.counts.medium                   number     how many
//	scan.counts.low                      number     how many
//	scan.counts.negligible               number     how many
//	scan.counts.unknown                  number     how many
//	findings                             []object   worst first, without those that a waiver or a VEX document sets aside
//	findings[].id                        string     CVE where the advisory has exactly one, else its own ID
//	findings[].aliases                   []string   its other names
//	findings[].severity                  string     critical, high, medium, low, negligible or unknown
//	findings[].cvss                      number     highest base score, 0 where unknown
//	findings[].epss                      number     probability from 0 to 1, 0 where unknown
//	findings[].epss_percentile           number     from 0 to 1, 0 where unknown
//	findings[].kev                       string?    date on which CISA listed it as exploited; absent where it did not
//	findings[].published                 string?    date; absent where unknown
//	findings[].first_seen                string     date on which this gateway first saw the advisory on this package name
//	findings[].package                   object     the package that it is in
//	findings[].package.name              string     as its ecosystem calls it
//	findings[].package.version           string     the installed one
//	findings[].package.type              string     apk, deb, rpm, npm, java-archive, ...
//	findings[].package.purl              string     "" where there is none
//	findings[].package.licenses          []string?  SPDX expressions, else what the package says; absent where it says none
//	findings[].fix                       object     whether there is one
//	findings[].fix.state                 string     fixed, not-fixed, wont-fix or unknown
//	findings[].fix.versions              []string   those that fix it
//	findings[].fix.available             string?    date of the first of them; absent where unknown
//	findings[].layer                     string?    diff ID of the layer that holds the package; absent where unknown
//	findings[].path                      string?    where the package was found; absent where unknown
//	findings[].suppressed_by             string     null: a policy sees none that is suppressed
//	packages                             []object?  all of the image's; absent where it has none, and where the list is lost: scan.packages is over 0 then
//	packages[].name                      string     see findings[].package
//	packages[].version                   string     see findings[].package
//	packages[].type                      string     see findings[].package
//	packages[].purl                      string     see findings[].package
//	packages[].licenses                  []string?  absent as in findings
//	history.first_seen                   string?    RFC 3339, of the image in this repository; absent where it is new
//	history.previously_allowed           boolean    for anybody
//	history.last_allowed                 string?    RFC 3339; absent where it never was
//	now                                  string     RFC 3339, the time of the decision
//
// # Output
//
// Violations and warnings are sets of objects with these keys and no others:
//
//	policy       string    required: the name that waivers, modes and messages use, at most 100 bytes
//	message      string    required: one line; a long one is cut
//	findings     []string  IDs of findings, as a set or an array; others are kept as they are
//	remediation  string    what to do, as an imperative sentence
//
// More than 1,000 of either are an error, and so is any other shape: both deny.
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
// One for a policy that is not loaded is kept, and told of.
//
// Waivers stand in the file, or in a Store, where Exceptions adds and removes them; both
// hold. What one gateway changes there, others decide by a second later. While the Store
// can't be read its waivers hold for 5 minutes more. One that has ended is named in what
// the violations that it was for say to do.
//
// # VEX
//
// OpenVEX and CSAF documents, from files or from an image's attestations, set findings
// aside that they say are not affected or fixed in the image: before waivers, with
// document, status and justification shown. They reach findings alone: neither what a
// policy says without one, nor what could not be scanned, nor the kill list. Package vex
// has the rules by which a statement is about an image.
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
// Waivers of the Store are looked for each second by a revision of a few bytes, rather than
// by messages: a lost message would be a waiver that never ends. VEX files are looked for
// by size and time of change in the same rhythm, which network mounts allow too.
//
// Waivers are applied in Go, before and after Rego, so that no policy can forget
// them, and none has to know them.
//
// Content that changes must stay the same for 200 ms before it is used: half of a
// policy file can be valid, and lets through what the whole would not. A bad policy
// or waiver file leaves the last good one in place; the waivers of such a file lapse after 5
// minutes, since the edit that spoilt it may have removed one. A bad kill list adds its good
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
// Packages and their licences are no part of a verdict: a match needs neither, and reading
// them out of the SBOM takes a tenth of a second for a large image. Who asks for them pays
// that once for each SBOM.
//
// An explanation asks the policies once more, with a tracer and without OPA's index of
// rules, which would leave out the rules that it knows not to hold. What updates and time
// would change is found by deciding about the image as it would then be: a policy may do
// anything with a date, so that no formula could tell.
//
// Print statements are allowed in policies, for their tests; when deciding they are
// compiled away.
package policy
