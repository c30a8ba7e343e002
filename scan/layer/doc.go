// Package layer is the stream guard: one pass over a layer's compressed bytes that
// verifies, bounds, decompresses and examines them on their way into the layer store.
//
//	src ──► source ────────► inflate ──┬── buffers ──► stream ──────────► dst
//	        count, hash:     gzip      │   (a second   hash: diff ID
//	        desc.Digest,     zstd      │   goroutine)    │
//	        desc.Size        none      │                 ▼
//	                         bounds on bytes,        archive/tar, and what it hides:
//	                         ratio, time             bounds on entries, Problems
//
// [Copy] returns a [Result], the facts about the blob; among them [Problem]s, things
// that a scanner and a runtime would read differently. An error is a [LimitError]
// (past a bound), a [FormatError] (unreadable), a [MismatchError] (not the blob of the
// descriptor), or what src, dst or the context said. Where a Result says Tar and has
// no Problems, dst holds a tar in which, as far as one layer by itself can tell, a
// scanner's index and a runtime's extraction see the same files with the same bytes.
//
// # Why
//
// The same eyes. containerd, CRI-O, podman and docker extract with Go's archive/tar,
// and the scanner indexes with it. So the guard walks with archive/tar too, on the very
// bytes it writes, and adds only what that package passes over in silence: sparse
// entries, entry types that it does not know, global headers, what follows the end.
//
// The format by its first bytes. Runtimes look at the bytes and not at the media type,
// with one exception (containerd takes a media type without a suffix at its word). The
// two ways differ only for a blob that is a tar as it stands and compressed data as
// well; that one is a Problem.
//
// Sparse entries are refused, not expanded. Runtimes expand them; the scanner reads
// the packed bytes in place, and so may miss what is installed. To expand them we would
// have to store other bytes than those that the diff ID names. No image builder of
// today writes them.
//
// Trees. Runtimes write entries in order, through the links that are there by then; the
// scanner keeps each at the name that it has. Whiteouts a runtime applies to the layers
// below, in order; the scanner may apply one to its own layer, and hides everything
// below a name that begins like one. Overlay file systems ignore that a root is opaque,
// and take extended attributes of their own for orders. So the guard keeps book of
// every path as it stands at each entry, and tells where the two go apart. That was
// found by unpacking and reading random layers, and is tested so: see FuzzLayout and
// FuzzNames in package sbom, where also is told what only several layers together bring about.
//
// What begins with zeros and goes on is no readable tar. A file system image such as
// EROFS does; as a tar it would be an empty one, with something behind its end.
//
// Memory. A pass takes 3 MiB, and the book at most 40 bytes for each path: 25 MiB more
// for 300,000 entries and whiteouts. A header takes up to 5 MiB while it is read, a zstd
// frame its window, of which one at a time may have more than 32 MiB. All of it is given
// back at the end; nothing is allocated from a size
// that a stranger names.
//
// A verdict on content needs its digest. A bit that flips on the way would else
// condemn a good image for as long as the result is remembered. So before a
// FormatError or a LimitError is returned, the rest of the compressed bytes is read
// and hashed, and if they are not those of the descriptor, that is the error. (Except
// for the bound on compressed bytes, which the descriptor's size alone decides, before
// anything is read, and the bound on time.)
//
// Two goroutines. Inflating takes five times as long as all the rest together, so it
// has one for itself; hashing, walking and writing share the other.
package layer
