// Package cache says how Sluice remembers: Key names a thing, Store keeps it, and
// Memory is a Store that forgets when the process ends.
//
//	cache  ←  scan  ←  policy  ←  proxy  ←  cmd/sluice
//	bytes     facts    opinion    delivery  wiring
//
//	                       ┌─ Memory      this process
//	Recipe, Name ─ Key ─ Store ─ disk     one file, one machine
//	                       └─ redis       shared by all replicas
//
// The package knows bytes only; what they mean is the business of whoever declared
// the kind. Blobs and layers are too big for a Store: they are in package
// spool, and blobs that gateways share in package objects.
//
// # Kinds
//
// Every kind of key, what its entry is, about how large, and for how long it is
// kept. A package that stores something new adds its line.
//
//	kind        key                            entry                                size       life
//	layer       Recipe(layer digest, size,     value: diff ID, coverage             1 KiB      90 days
//	            guard version, bounds)
//	image       Recipe(image digest, guard,    value: SBOM key, guard's problems    10 KiB     90 days; unreadable 24 hours,
//	            bounds, syft version, settings)                                           past a bound 1 hour
//	sbom        Recipe(diff IDs, config,       value: SBOM                          to 64 MiB  90 days
//	            syft version, settings)
//	packages    Recipe(SBOM key)               value: packages and their licences   200 KiB    90 days
//	verdict     Recipe(SBOM key, problems,     value: scan.Verdict                  100 KiB    30 days
//	            grype version, settings,
//	            database)
//	seen        Name(advisory, package)        value: when it was first seen        20 B       for ever
//	manifest    Name(digest)                   value: media type and exact bytes    to 4 MiB   30 days from last use
//	config      Name(digest)                   value: an image's config             to 8 MiB   30 days from last use
//	served      Name(repository, digest)       value: when its relations were       100 B      30 days from last use
//	                                           last written
//	listing     Name(repository, blob)         map: manifest digest → how it lists  100 B each 30 days from last use
//	vouched     Name(repository, blob)         value: empty: upstream has it there  0          30 days
//	mixed       Name(repository)               value: empty: its images may list    0          30 days from last use
//	                                           blobs by sha512
//	missed      Name(digest, database)         value: when its verdict was first    30 B       twice stale_tags
//	                                           missed
//	parents     Name(repository, digest)       map: index digest → when             100 B each 30 days from last use
//	tag         Name(repository, tag)          value: digest, when it was checked   200 B      30 days; one that upstream
//	                                                                                      lacks: negative_ttl
//	base        Name(repository, tag)          value: what it points at, as some    10 KiB     24 hours
//	                                           image's base
//	baselayers  Name(repository, digest,       value: the layers of a base          5 KiB      30 days
//	            platform)
//	history     Name(repository, digest)       map: fact → value, see below         100 B each 30 days from last use
//	last        Name(repository, digest,       value: how it was last decided       60 B       30 days
//	            caller)                        for that caller
//	pulled      Name(1 of 256 shards)          map: repository and digest → who     100 B each 60 days
//	                                           asked for the image last, and when
//	callers     Name(repository, digest)       map: caller → when it asked for the  80 B each  60 days
//	                                           image last; at most 100
//	databases   Name()                         map: checksum → a database that      80 B each  30 days from last use
//	                                           was in use, and when
//	active      Name("database")               value: the database that all who     150 B      30 days, renewed
//	                                           share the Store decide by
//	bundle      Name(where it is from)         value: hash of the newest bundle of  71 B       24 hours
//	                                           policies that a gateway has
//	lease       Name(work)                     value: who does it                   100 B      5 s to 1 minute, renewed
//	fetched     Name(digest)                   value: how many bytes of a blob have     10 B       8 s
//	                                           come to who fetches it
//	fence       Name(work)                     value: token of who did it last      50 B       24 hours
//	events      Name(hour)                     map: id → event, at most 1,000       2 KiB each 30 days
//	raised      Name(event's id)               value: when                          30 B       30 days; of a denial 1 hour
//	source      Name()                         value: what CloudEvents are from         45 B       for ever
//	hook        Name(hash of its URL)          value: what was sent to a webhook        200 B      60 days
//	dead        Name(hash of its URL)          map: event's id → what it did not    2 KiB each 30 days
//	                                           take; at most 1,000
//	again       Name(hash of its URL)          map: event's id → what is to be      2 KiB each 30 days
//	                                           sent again
//	signatures  Name(repository, digest,       value: what was found and verified   to 300 KiB 24 hours
//	            hash of trust)
//	audit       Name(day)                      map: id → who changed what           1 KiB each 400 days
//	waivers     Name("all")                    map: id → waiver                      to 4 KiB   until removed
//	waiversat   Name("all")                    value: random, new at each change    30 B       for ever
//	connection  Name("all")                    map: upstream → sealed pull token    1 KiB each for ever
//
// What lives for 30 days from its last use, and a tag, lives by gate.relation_ttl; what
// lives for 24 hours as a base or a signature, by gate.stale_tags.
//
// A map is what several writers add to; a value has one author. A history has a
// field for each fact (first seen, tags, last allowed), so that two replicas
// that learn different facts at once lose neither. What is first seen is written
// with PutNew: the first writer's date stays.
//
// # Why
//
// A computed thing is kept under the hash of all that went into it, tools and
// databases included. What is found there is right by construction, and there is
// nothing to invalidate: a new database asks for a key that does not exist yet, and
// what nobody asks for any more is forgotten when its life ends.
//
// A Store that is damaged or out of reach answers with an error and never with a
// miss, since a miss of a waiver's end or of a denial would let an image pass. A Local
// deletes and logs what is damaged of those kinds that it is told can be made again; of the
// others, as of listings, what needs them is refused with the name of the key to delete.
//
// There is no transaction over several keys. Each entry is whole by itself, and
// every reader checks what it reads against what it asked for, so that the order in
// which two entries appear never decides whether an image passes.
package cache
