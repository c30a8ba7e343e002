// Package signature verifies signatures and attestations of images, and tells policy of
// them as facts.
//
//	trusted_root.json, keys, identities ─▶ Trust
//	                                         │
//	layers of .sig, .att and bundles ─▶ Trust.Add ─▶ Facts ─▶ input.image.signatures
//	(of an image or an index of it)                           input.image.attestations
//
// It asks nobody: what is to be verified is given to it, and what it trusts stands in
// files. Fetching is package proxy's.
//
// # Formats
//
//	cosign-tag  a manifest tagged sha256-HEX.sig, each of whose layers is a payload in
//	            cosign's simple signing format (cosign, specs/SIGNATURE_SPEC.md); signature,
//	            certificate, log entry and time stamp are the layer's annotations
//	cosign-tag  a manifest tagged sha256-HEX.att, each of whose layers is a DSSE envelope
//	            with an in-toto statement
//	bundle      a manifest that refers to the image (OCI 1.1), whose layer is a sigstore
//	            bundle, of version 0.3 as a rule
//
// A bundle is a signature where it holds the signature of the manifest itself, or a
// statement of type https://sigstore.dev/cosign/sign/v1; any other statement is an
// attestation.
//
// # What verified means
//
// All of: the signature is of a trusted key, or of a certificate of a trusted authority
// for a trusted identity; what is signed names the digest that it was asked for; a
// transparency log of the root has it; a certificate was logged, and was valid when a log
// or a time stamp authority saw the signature. The switches of Config take away some of
// the last two, and nothing else does.
//
// What can't be verified is a fact too, with the reason in its Error. Nothing in it but
// the format and the subject is known then: a policy that reads it asks for Verified
// first.
//
// # Why
//
// Keyless signatures count for nothing until an identity is trusted. By the public root of
// sigstore anybody with an e-mail address has a certificate, so that "there is a verified
// signature" would say that somebody signed. Patterns of identities match the whole of
// one: those that begin with what is trusted are easily had.
//
// Verification runs over bytes that anybody may push, in a library with a large surface.
// A panic of it is that signature's error.
package signature
