// Package scan knows what is in an image and which known vulnerabilities match it.
// It holds the nouns (Image, SBOM, Finding, Coverage, Verdict) and the Scanner, which
// remembers every step under a key that names all that went into it.
//
//	             layer bytes                    diff IDs, config,        SBOM, database,
//	             │                              syft's recipe            grype's recipe
//	             ▼                              ▼                        ▼
//	Begin ─► stream guard ─► layer record ─► catalogue ─► SBOM ─► match ─► Verdict
//	             │                              ▲
//	             └── uncompressed tar, as it lands ──┘ (in the worker process)
//
// Each arrow is skipped when what it leads to is in the Store: a layer seen before is
// not decompressed again, the same layers under another tag are not catalogued again,
// and a new database only matches again.
//
// The package imports neither syft nor grype. What computes is behind Engine; package
// worker runs it in a process of its own, out of packages sbom and vuln.
//
// Whatever keeps a verdict from covering all of an image stands in its Coverage as a
// Problem, whole images that could not be scanned included. Kinds lists what there can
// be; an empty list of problems is for what was read and matched to its end.
//
// # Why
//
// A key is a recipe: the hash of every input, versions of the tools and of our own
// rules included. So nothing is ever invalidated, and two gateways that share a Store
// share each other's work without asking.
//
// The SBOM belongs to the uncompressed bytes and is shared by all images that have
// the same. What the guard saw belongs to the compressed ones, and becomes a part of
// the verdict's key: two images with equal diff IDs can differ in what trails behind.
// The diff IDs in keys are always computed; a config that claims others gets a failed
// verdict, since a runtime refuses it too.
//
// What is remembered are facts about content. A worker that died, a deadline, a
// missing database or a Store that does not answer say nothing about the image: they
// make a verdict that no caller can take for a clean one, and the next pull tries
// again. What is refused by its bytes alone is remembered for a day, and what is past a
// bound for an hour, because one of the bounds is time.
package scan
