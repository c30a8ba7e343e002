// Package vuln finds the known vulnerabilities of an SBOM and keeps the database
// that they are looked up in. It is the only package that imports grype.
//
//	mirror ──▶ Databases ──▶ <root>/xxh64-…/6/vulnerability.db ──▶ Matcher ──▶ findings
//	archive ──▶   │   one directory a build, never rewritten         ▲          coverage
//	              └── <root>/current: which build is active          │
//	                                                     syft JSON ──┘
//
// A Matcher says of an SBOM what the grype command of the same version says of it
// with the same database: the rows are the same, each is only told more fully. A
// Databases installs builds, checks them, and names the active one.
//
// # Why
//
// A false "clean" is the one error that a gate may not make, and grype as a library
// offers several. It logs a failed query and returns the matches that it has; with a
// context that ended, or a database that was closed, it returns none and no error; a
// distribution that the database does not know simply matches nothing. So every
// reader, provider and matcher that it is given here records its errors, and one
// record fails the match (fault.go). What could not be compared is a Problem
// (coverage.go), which keeps the verdict from being complete.
//
// A build has a directory of its own since SQLite is told that the file never
// changes: a new file under a name that is still open reads as the old one. The name
// of the active build is one small file that is replaced by rename, so that a crash
// at any point leaves the last good build active.
//
// grype asks the database some 30,000 questions about an image of 90 packages, most of
// them again and again: eight for each CPE that might be a package's, though hardly
// one exists, and all feeds after each search, empty or not. So searches for CPEs that
// the database can't have are not begun, and what a build said is remembered while it
// is open, within bounds (recall.go). It is kept as it came from the store, before
// anything is filled in or filtered, and never when it came with an error. Prepared
// statements would gain nothing: the driver compiles them anew each time.
//
// Listings, archives and the files in them are grype's, and grype indexes and hashes
// what is installed; but they are fetched and unpacked here. grype's client for them
// (grype/db/v6/distribution, of v0.121.2) was tried against a local mirror, and can't
// keep what Databases promises; a test holds the first two against a newer one:
//
//   - It takes no context, and its two time limits are lost when it sets its user agent
//     on a new http.Client: with limits of a second, a mirror that stalls in the listing
//     or in the archive holds it for ever. It could neither be waited for nor ended.
//   - It bounds neither: 300 MB of listing are taken into memory and onto the disk.
//   - The archive lies in $TMPDIR (64 MB in a container), under a name that nobody finds
//     after a crash, until all of it is unpacked, beyond any bound but 5 GB a file.
//   - A listing without a checksum is installed unchecked, one with "file:URL" in place
//     of a checksum has another URL asked; a CA file without a certificate is accepted.
//   - Its curator replaces a database in its place.
//
// In a child process with a folder and limits of its own, to be killed when ctx ends or
// nothing arrives, it could be used; that is more code than fetching a file, and would
// still need all checks of what came. Of the getter below it (hashicorp/go-getter) those
// that could be set right are: two requests for one file, and limits that cut a file off
// in silence. What is here is net/http, a hash and a bound.
//
// Indexing gives the same file on every machine, so that replicas which install one
// archive agree on its checksum. It also makes a vulnerability database, an empty one, of
// any SQLite file: so what is in it is looked at first.
//
// A build must not vanish between the moment that somebody is told of it and the moment
// that he opens it, nor while it is open, since SQLite opens it again when two matches
// want it at once. Those who use builds are other processes, which get killed; so a build
// in use is locked in the kernel, and one that ceased to be active stays for two minutes.
//
// The severity of a finding whose own advisory has none is that of its CVE in NVD's
// data, where the database has it, or else of another source's advisory that it names:
// Wolfi's may have no more than GitHub's ID. grype shows all and leaves the choice to its
// reader; KEV and EPSS are taken from each. Of a CVE that only the affected package's
// record names, grype looks up neither; here it is looked up.
package vuln
