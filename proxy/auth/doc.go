// Package auth is who stands at each end of a connection: the caller, who proves a
// name with a password, and the gateway, which proves its own with a certificate.
//
//	request ── Basic name:password ──▶ seen before? ── yes ──────────────▶ Caller
//	   │                                   │ no
//	   │ none                              ▼
//	   ▼                          too many failures of this
//	Anonymous? ── yes ─▶ Caller{}  name, address? ── yes ─▶ TooManyError, 429
//	   │ no                                │ no
//	   ▼                                   ▼
//	ErrUnauthorized, 401          bcrypt, a few at once ─▶ Caller or ErrUnauthorized
//
// Basic is all that docker login, containerd, podman, crane and the rest need: they
// ask /v2/, are challenged with Basic, and send name and password with each request.
//
// # Why
//
// bcrypt and nothing else. A leaked file of SHA-1 or crypt hashes is a file of
// passwords, and a line that is refused with its number is converted in a minute.
//
// bcrypt is slow on purpose, and a pull is dozens of requests. So credentials that
// were right are remembered, as an HMAC under a key that lives only in this process,
// and made over the hash that they matched as well: a changed or removed line misses
// by itself, and nothing has to be invalidated.
//
// Failures are counted by name and address, and ten times as many by address alone;
// credentials that are remembered are not subject to either. So a broken client, or a
// guesser, behind the same address as others keeps out its own name, none of the others
// until it has tried many names, and those at work not at all. A name that does not
// exist is counted as one that does, so that nobody learns which is which. The address is
// that of the connection. A header such as X-Forwarded-For is anyone's claim and is not read.
//
// A gateway that has no callers' file ignores credentials in place of refusing them:
// clients are known to send the password of one registry to its mirror. They are not
// looked at, logged or passed on.
//
// Files are looked at again by the requests that need them, at most once a second.
// That follows renames, symbolic links and network file systems alike, needs no
// goroutine, and a file in mid-write leaves what was read before in force.
package auth
