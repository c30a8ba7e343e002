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
// What a catalogue says is the bytes that syft alone would say, by shorter ways to them,
// which tests hold together byte by byte. Of the image of a Debian with 550 packages,
// syft alone takes 2.5 CPU seconds; these ways make it 1.3, and 0.5 where all but a
// small layer was catalogued before, and half a second less where it was indexed, too:
//   - a pattern of names is compared with the names that begin as it does, not with all
//     of the image (basenames);
//   - what was searched for once in an image is not searched for again (searches);
//   - packages are related with the files that they own at the end, not before all that
//     is done with relationships (ownFiles);
//   - a cataloguer whose questions an image answers as another one did finds what it
//     found there (memo). Its outcome depends on nothing but the answers: a location
//     names the layer by the hash of its bytes, and the path in it, so that equal
//     answers are equal bytes. An error, a failing disk, a list of all files, a file
//     that no answer led to: then nothing is remembered. Some look at each file by
//     itself, and are remembered layer by layer (byLayer). All of it stays in the memory
//     of the process, within bounds.
//
// This rests on diff IDs that are true: Scan gives a session no layer whose bytes have
// another than the config claims.
//
// Layers are indexed one by one, and put together here, so that images that share some
// share their indexes (shelf): stereoscope's Image.Read does the same with an index that
// belongs to one image. What is kept is the index of one very file, not of a diff ID,
// within a sixteenth of the process's memory. Its file is open for that long, so one that
// the layer store has let go is forgotten with the next layer that is new. Windows images
// are left to Image.Read, since a layer's index there depends on those below.
//
// Layers are kept whole, though cataloguers open but 2,100 of the 28,000 files of that
// Debian, with 44 % of its bytes. Which they are is known only afterwards: it depends on
// what other files say, and on what an image above adds. A rule that keeps all that may
// be asked for saved 16 to 43 % of the disk, no time, and lost a relationship when it was
// a little wrong; the layer store has a quota and forgets what was not used for long.
//
// Cataloguers hide some errors of the file system that they look at. A resolver
// around syft's own writes these down, and each is a Problem. Where it was the machine
// that failed (a full disk, no file left to open), there is no SBOM instead: a Problem
// would be remembered for the image, and the next catalogue may go well.
//
// They also pass over some of what they read. So what syft found is held against what
// the image's own lists say: each package that a dpkg or apk database has as installed,
// each Python package's metadata, and each archive within an archive has to be among it,
// or to be sound and nobody's package (passedOver). What isn't is a Problem; the SBOM
// stays as syft makes it. That takes 20 ms of a Debian's 2.5 s.
package sbom
