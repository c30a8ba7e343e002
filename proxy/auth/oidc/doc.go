// Package oidc checks tokens that others issue: an OpenID Connect provider such as a CI
// service or the company's own, and Kubernetes for its service accounts.
//
//	token ── whose? (iss) ──▶ Issuer ── key known? ── no ──▶ discovery, JWKS, at most every 30 s
//	                                       │ yes                  │
//	                                       ▼                      ▼
//	                          signature, aud, exp, nbf ──▶ name and groups, each with "NAME:" before it
//
// # Why
//
// A name gets the configured name of its issuer before it: two issuers, or an issuer and
// the file of passwords, can't mean the same caller by chance, or by somebody's design.
//
// An unknown key is looked for, since issuers change theirs, but not for each token that
// names one: a stranger could have the issuer asked as often as he likes. While the issuer
// is away its last keys hold for a day.
//
// Only algorithms with a public key are taken. A token that is signed by a shared secret,
// or by nothing, is none.
package oidc
