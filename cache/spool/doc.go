// Package spool keeps blobs on disk while they still arrive: one writer, many
// readers, verified before EOF, evicted by bytes.
//
//	           Fetch(digest, size)                 Create
//	                  │ one fill, whoever asks        │ name known at the end
//	                  ▼                               ▼
//	           partial/… ──────── size, digest ─── Commit
//	         ▲   ▲   ▲                │ rename        │ rename
//	Readers ─┘   │   │                ▼               ▼
//	each at its own  └─ …    blobs/sha256/ab/abcd….SIZE ──► evicted, oldest use first,
//	pace, never the last                                    never while a Blob is open
//	byte before the check
//
// A [Spool] owns one directory and a quota of bytes. What is committed and what is
// set aside for bytes to come never exceed the quota together; space is set aside
// ([Spool.Reserve]) before the first byte is asked for, so that a pull fails before
// it began and not in its middle.
//
// [Spool.Fetch] serves blobs whose digest is known: it returns the blob that is
// there, or the one that is arriving, or begins it. [Spool.Create] serves those
// whose name is known when their last byte is written, such as uncompressed layers.
// Both give a [Blob], which pins its bytes until it is closed.
//
// # Why
//
// One fill, many readers. Clients and the scanner want the same bytes at the same
// time and at different speeds. Bytes go to a file once, and each reader preads from
// that file up to what has arrived. A slow reader holds up nobody, a reader that
// leaves is missed by nobody, and memory does not grow with the number of either.
//
// The last byte. A client that knows a blob's length has the whole blob as soon as it
// has that many bytes, whatever comes after. So the last byte stays back until size
// and digest are verified, and a wrong blob is never complete anywhere.
//
// The name holds the size. A committed file is DIGEST.SIZE: the name and what it
// promises appear in one rename, there is no index to lose, and a file that was cut
// short or replaced is seen by one stat whenever it is opened.
//
// No fsync. It would add the disk's write time to the end of every blob, which is
// just when clients wait. Without it a rename survives the end of this process
// whatever its cause, since the kernel holds the bytes; only a machine that goes down
// can leave a name without its bytes. So the spool notes the kernel's boot ID, and
// after another boot every blob is hashed once more, in the background, before it is
// served; one that is asked for meanwhile is simply fetched again.
//
// Declared sizes are promises. They bound what is accepted and count against the
// quota, but no memory or disk is allocated from them.
package spool
