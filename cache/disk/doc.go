// Package disk is a cache.Store in one file: the embedded default, for one machine.
//
//	Get, Fields ──────────── read transaction ─────────┐
//	                                                   ├── bbolt ── one file
//	Put, PutField, … ─┐                                │
//	Put, PutField, … ─┼─ committer: many writes, ──────┘
//	sweep ────────────┘  one transaction, one fsync
//
// In the file are three buckets:
//
//	about    "format", "tally": how many records and ends there are, and the sum of their checksums
//	entries  kind, id            → record: a value, or the head of a map
//	         kind, id, "f" field → record: a field
//	ends     end of life, kind, id → 1; what the sweep goes by
//
// # Why
//
// A commit costs two fsyncs, whatever is in it. So writes go to one goroutine that
// takes all that wait into one transaction: alone, a write is as quick as the disk;
// under load, hundreds share an fsync.
//
// bbolt trusts its pages: a damaged one makes it panic, read memory that isn't
// there, or find nothing where something is. A miss by damage could let a denied
// image pass, so Open walks the whole tree first, with bounds, and checks keys,
// order, references and the tally; every value carries a checksum that is checked
// when it is read; and what bbolt still trips over becomes an error. Values are not
// read at Open, so that it takes seconds for a million entries, not minutes.
//
// bbolt's list of free pages is not kept in the file: it would be written anew with
// every commit, and nothing protects it; since Open walks the tree anyway, it is
// cheap to find again.
//
// After a crash, bbolt goes on from the last commit. It does the same where its
// newest meta page is damaged, which silently forgets the last commit; a crash can't
// tear that page, whose content lies in one sector. So this is damage too.
package disk
