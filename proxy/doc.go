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
// A blob that no manifest served for the repository has listed is unknown, and one that
// another repository brought is served only if upstream has it in this one too, so that
// no digest of one repository can be read through another.
//
// An image is denied at the manifest where its verdict is known or comes within the
// manifest wait; else at the config and at layers that are small or read in pieces,
// which wait for the decision before their headers; else by cutting held bodies: one
// for each client at once, so that it opens its next blob and reads the reason there,
// and the others a second later. Where no blob is left to hold, since all content stands
// in the manifest or may be had by other manifests, the manifest waits for its verdict.
//
// An image that was last denied stays denied while its verdict is missing, whatever took
// it away; one last allowed stays so for a quarter of an hour after a new database.
//
// # Events
//
// What happens is kept in the Store by hour, for 30 days, each under an ID of what it is
// about, so that replicas raise it once. A pull only puts its events in a queue of 256,
// which a goroutine empties; past it they are dropped and counted, and so are those past
// 300 an hour of a type. A denial is told once an hour to each caller, image and revision of
// the policies. Package webhook sends events out, /api/v1/events lists and streams them.
//
// # Upstreams
//
// A request is for the upstream that ?ns= names, else for the one whose configured name
// is the first element of the path, else for the default one. Each has credentials, a
// policy set, a tag TTL and globs of repositories of its own; the globs are looked at
// where names are read, so that they hold for whatever is asked about a repository. Kill
// list, waivers and mode are the same for all, and so are verdicts: the same digest is
// scanned once, and decided by each upstream's policies. What a client asked for is what
// name, Link and OCI-Namespace say.
//
// # Time
//
// All that a request waits for before its headers has one deadline, HeaderWait or
// UpstreamTimeout, whichever is longer. A config and what may send nothing before the
// decision wait for it so long; a client that gives up on silence sooner (CRI-O 1.29 to
// 1.32: 10 s) needs a shorter HeaderWait.
//
// A held response sends what arrives below the floor except for its last 256 bytes. These
// it lets go one by one while nothing else comes, be it the decision that is missing or
// upstream that stands still. A blob of 64 KiB or less has no byte to spare: what keeps
// its client alive is its other responses. The hold cap counts from the last byte that
// upstream sent of the image, and ends the wait of all in the same words.
//
// A response that waits has no goroutine but its request's own, and no buffer.
//
// What only a HEAD has begun comes last: a quarter of the places to run, never the last
// one, half of the queue. A HEAD past that is answered without, since the blobs are held,
// unless there are none to hold. Of callers who wait to have images scanned the one goes
// first of whom the fewest are scanned. HEADs that ask upstream have places too, of which no
// client gets more than a quarter; who waits for one in vain gets the tag as remembered,
// or 503. Where there are several upstreams none takes all the places to run. One that
// didn't answer in time is not asked for tags that are remembered until RetryAfter has
// passed, but by one request.
//
// # Bases
//
// An image says itself what it was built on. Where a policy wants to know whether that is
// true, or still the newest, upstream is asked for the base's tag and manifest beside the
// pull (base.go): two at a time, in repositories that clients may read, and nobody waits.
// Until it has answered, the fact is absent.
//
// # When upstream is down
//
// What breaks off is resumed, and nobody notices (package upstream). While a registry
// can't be read (no answer, 429, 5xx) a tag is what it was when it was last asked for, for
// StaleTags; a Warning header, a line of the log and sluice_stale_tags_total say so, and
// the image is decided as of now. A registry that answers 401, 403 or 404 can be read: it
// has said that the tag is no longer for us. What isn't known is 502, with the registry's
// Retry-After, and 429 where that is what it said. An image whose fetch fails for good has
// the cause upstream_down, one whose bytes are others than its manifest names scan_failed.
//
// # Several replicas
//
// An image that replicas meet at once is scanned by one of them (once.go). Where they share
// an object store, a blob is fetched from upstream by one of them, which uploads it part by
// part as it comes; the others stream the parts (objects.go). What the object store has is
// hashed like what upstream sends, and served only where upstream has the blob in that
// repository: a digest alone gives nobody anything. One that fetches and stands still for
// 8 s is not waited for.
//
// # A new database
//
// Images that were pulled within a month are matched with a new vulnerability database from
// their stored SBOMs, the ones pulled last first, one at a time, behind pulls, and by one
// replica (reevaluate.go). Nothing of them is fetched. An image is then decided, for who asked for it
// last and by today's policies, by its last verdict and by the new one; where these differ
// the Event says which advisories made the difference. The last verdict is the one that the
// image was last compared by, so that a database which comes and goes quickly, a restart or a
// match that failed hides no turn. A decision that turned by a policy, a waiver or the time
// that passed raises no event.
//
// # Signatures
//
// Where a policy reads signatures or attestations, they are looked for at the image's own
// registry while the image is on its way, and verified by what the configuration trusts
// (package policy/signature): those of the image and of the indexes that list it, at tags
// and among referrers, bounded in number, bytes and time. What can't be fetched or verified
// is a fact with its reason. What is found is kept by digest and by what was trusted; what
// has nothing verified in it is looked for again after seconds, since somebody may be
// signing, and the rest in the background, so that nobody waits. What was verified counts
// for StaleTags while upstream can't be read.
//
// # When the Store is down
//
// Policy chooses what becomes of an image whose verdict can't be read (store_down). It
// can't choose where relations can't be read: nobody knows then which image a blob
// belongs to, how long it should be, or which killed index lists an image. Such requests
// are answered 503 in every mode.
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
