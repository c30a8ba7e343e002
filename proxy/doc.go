// Package proxy is the pull half of the OCI distribution API in front of registries,
// with a gate in it.
//
//	                 resolve            stand             weigh / pass
//	GET manifest ──▶ tag → digest ──▶ verdict? ──▶ yes ─▶ decide ─▶ 200 | 403
//	GET blob     ──▶ who lists it?      │ no                ▲
//	                                    ▼                   │
//	upstream ═══════════════════════▶ pull ═▶ spool ═▶ scan ┘
//	                                    ║        ║
//	                                    ║        ╚═▶ clients, up to the floor,
//	                                    ║            and past it once allowed
//	                                    ╚═ every layer once, by the gateway itself
//
// The promise: no client ever obtains from the gateway all bytes of an image that
// policy has not allowed for it, whatever it asks for, in whatever order, over however
// many connections; and no client waits longer for an allowed image than the network
// and the scan need.
//
// A Gateway answers requests; a pull is one image on its way through, shared by all
// who ask for it; a standing is where an image stands for a caller; a claim is what a
// caller may have of a blob.
//
// # The gate
//
// Every blob of a pending image has a floor, size - max(64 KiB, size/32), and of a
// config at most 64 bytes: no response carries a byte at or beyond it before the
// decision. Below it a full GET and an open-ended range stream as bytes arrive; every
// other range carries nothing. The floor is absolute, so overlapping ranges, resumed
// downloads and many connections add up to no more than one.
//
// A config is released by the decision on an image whose config it is, a layer by any
// allowed image of the repository that lists it, and what only artifacts list by them.
// A blob that no manifest served for the repository has listed is unknown, so that no
// digest of one repository can be read through another.
//
// An image is denied at the manifest where its verdict is known or comes within the
// manifest wait; else at the config and at layers that are small or read in pieces,
// which wait for the decision before their headers; else by cutting held bodies: one
// for each client at once, so that it opens its next blob and reads the reason there,
// and the others a second later.
//
// # Why
//
// The gateway fetches a whole image as soon as it knows the manifest, because clients
// don't: they ask for three layers at a time, or for the config first and nothing else
// until they have it, or skip what they hold already. A scan fed by their requests
// would wait for ever or see half.
//
// It stands at manifest, config and layer alike, since real clients skip any of these.
//
// One relation, (repository, blob) → manifests, decides what a blob belongs to, and it
// is in the Store: a restart or another replica knows what this one has served. A
// session of "what did this client pull lately" would be simpler and would be wrong
// behind a load balancer.
//
// Manifests that two clients could read differently (a key twice, config beside
// manifests, a media type that differs from the one served) are refused rather than
// guarded against one by one.
package proxy
