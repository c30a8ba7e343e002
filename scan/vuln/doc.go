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
// what is installed; but they are fetched and unpacked here. grype's own client takes
// no context, so that it can neither be stopped nor waited for, bounds a download by
// five minutes however well it advances, and replaces a database in its place. Indexing
// gives the same file on every machine, so that replicas which install one archive
// agree on its checksum.
//
// The severity of a finding whose own advisory has none is that of its CVE in NVD's
// data, where the database has it; grype shows both and leaves the choice to its
// reader. Of a CVE that only the affected package's record names, grype looks up
// neither KEV nor EPSS; here it is looked up.
package vuln
