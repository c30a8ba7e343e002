// Package objects keeps parts of blobs in an S3-compatible object store that gateways
// share.
//
//	gateway that fetches a blob ── Put, part by part as it comes ──▶ BUCKET/PREFIX/NAME
//	gateways that want it too   ◀── Get, before upstream is asked ──
//
// An object is named by what it holds and never changed: whoever writes it writes the same.
// Nothing is deleted but what turned out to be damaged; a lifecycle rule of the bucket
// bounds its age.
//
// # Why
//
// The store is a help and never a need. One that is slow or gone is left alone for some
// seconds, and blobs come from upstream as if there were none; the first failure and the
// return are logged, and nothing between.
//
// It is not trusted. Each 64 KiB of an object have a checksum, so that what has rotted or
// was cut is noticed before a client has any of it; and the blob is hashed like one that
// comes from upstream, by whoever reads it, which nobody's checksum can deceive.
package objects
