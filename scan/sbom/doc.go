// Package sbom turns the layers of an image into what is in it, with syft.
//
//	Begin ──► image.Read ─ waits for each layer ─► index ─► squash ─► CreateSBOM ─► syft JSON
//	              ▲             ▲
//	  Layer(1) ───┘  Layer(0) ──┘   in any order, as they land
//
// A session starts to read its image at once. Each layer that has not landed holds
// up only itself: those that have are indexed, and squashed in order, while the
// others are still on their way, so that after the last byte only the last layer's
// index and the cataloguers are left.
//
// What comes out is equal to what the syft command says of the same image under the
// configuration of the grype command, since matching rests on it: symbols of Go
// binaries are kept, and packages without a version, which nothing can match, are
// dropped (syft itself would keep them with the version UNKNOWN). Files are not
// catalogued: their digests, and the dependencies between binaries that are computed
// from them, change no package and no match, and cost more than all the rest.
//
// # Why
//
// The image is read through stereoscope, from the uncompressed layers that the guard
// has written, because that is the code that syft itself runs: an own resolver was
// seen to differ in a few packages, and cataloguing layer by layer in many.
//
// Diff IDs are given to stereoscope by our layers, not by the image's config: it
// would take the config's claim, and asks a layer only where the config has none. So
// the config that it sees has none. That question is also where a layer that has not
// landed makes stereoscope wait.
//
// A catalogue is never cancelled from within. syft returns a part of an SBOM and no
// error when its context ends, and its cataloguers work on. So it runs to its end,
// its result is dropped when nobody waits for it any more, and the process that it
// runs in is what is ended when it takes too long: see package worker.
//
// Cataloguers hide some errors of the file system that they look at. A resolver
// around syft's own writes these down, and each is a Problem.
package sbom
