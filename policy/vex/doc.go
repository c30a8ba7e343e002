// Package vex reads what others say about whether a vulnerability matters in a product:
// documents in OpenVEX 0.2.0 and in CSAF 2.0, profile VEX.
//
//	file ──────▶ Parse ──▶ Document ─┐
//	attestation ▶ FromPredicate ─────┴▶ Set ── Find(image, finding) ──▶ Statement
//
// # What a statement is about
//
// A product is an image, a package, or a package within an image.
//
// An image is named by its digest or that of an index that lists it, as hash, as
// "sha256:…", in a reference (cgr.dev/acme/web@sha256:…, cgr.dev/acme/web:1) or in a
// package URL (pkg:oci/web@sha256:…?repository_url=cgr.dev/acme/web); a reference or a
// package URL without tag and digest means all images of the repository. A package URL
// that has neither a digest nor repository_url names no image, since any registry may
// have one of that name; only in an attestation, which is bound to its image by
// signature, it does. A qualifier that is not known (beside repository_url, tag, arch,
// os) matches nothing.
//
// A package is named by its package URL: https://github.com/openvex/spec has one without
// version match all versions, and one without qualifiers match all.
//
// A hash that is given must match: what has other bytes is another product. Products that
// are named in any other way (CPE, name, URL) match nothing.
//
// In CSAF, product_tree says how products are named, and a relationship makes one of two:
// a component of, or installed on, another. Only a package within an image can be told
// from a finding, so deeper combinations match nothing. Product groups are followed.
//
// # Which statement counts
//
// Of all statements about a finding the latest counts: by last_updated, timestamp, or the
// document's; in CSAF by current_release_date. Of several at one time the one that
// suppresses least does.
//
// That something is fixed sets a finding aside only where the statement names a digest, a
// tag or a version, of the image or of the package, or is an attestation of the image: of
// a name alone nobody can tell in which versions.
//
// # Why
//
// OpenVEX is decoded, checked and its package URLs are compared by the format's own
// library. CSAF is decoded here: the libraries at hand either fail on the hashes of a
// product or bring an expression language and an HTTP client.
//
// Where a name could mean this product or another, it means another: what is suppressed
// in error lets an image pass.
package vex
