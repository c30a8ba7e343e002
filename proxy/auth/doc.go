// Package auth is who stands at each end of a connection: the caller, who is known by a
// password, a token or a certificate, and the gateway, which proves its own name with a
// certificate.
//
//	request ──┬─ Basic name:password ───▶ seen before? ── yes ─────────────▶ Caller
//	          │                              │ no
//	          │                              ▼
//	          │               too many failures of this name, address? ── yes ─▶ 429
//	          │                              │ no
//	          │                              ▼
//	          │                        bcrypt, a few at once ─────────────────▶ Caller, 401
//	          ├─ Bearer, or a password that is an issuer's token ─▶ oidc ─────▶ Caller, 401
//	          ├─ Bearer of this gateway (/token) ─▶ token ────────────────────▶ Caller, 401
//	          ├─ a Chainguard pull token ─▶ refused, or as if nothing was sent
//	          └─ nothing ─▶ a verified certificate? ── yes ───────────────────▶ Caller
//	                             │ no
//	                             ▼
//	                        Anonymous? ── yes ─▶ Caller{}, else 401
//
// Basic is all that docker login, containerd, podman, crane and the rest need: they
// ask /v2/, are challenged with Basic, and send name and password with each request. Where
// Realm is set they are challenged with Bearer, and fetch a token there.
//
// # Why
//
// bcrypt and nothing else. A leaked file of SHA-1 or crypt hashes is a file of
// passwords, and a line that is refused with its number is converted in a minute.
//
// bcrypt is slow on purpose, and a pull is dozens of requests. So credentials that
// were right are remembered, as an HMAC under a key that lives only in this process,
// and made over the hash that they matched as well: a changed or removed line misses
// by itself, and nothing has to be invalidated. A token of this gateway has a mark of that
// hash in it, for the same reason.
//
// Failures are counted by name and address, ten times as many by address alone, and as many
// by name alone; credentials that are remembered are not subject to any. So a broken client,
// or a guesser, behind the same address as others keeps out its own name, none of the others
// until it has tried many names, and those at work not at all. A name that does not
// exist is counted as one that does, so that nobody learns which is which. The address is
// that of the connection. A header such as X-Forwarded-For is anyone's claim and is not read.
// A token that was good once is no failure: that is what becomes of each.
//
// The names of callers that an issuer or a certificate vouches for have a colon, which the
// names of the htpasswd file can't have: no kind of caller can pass for one of another.
//
// A gateway that knows no callers ignores credentials in place of refusing them:
// clients are known to send the password of one registry to its mirror. They are not
// looked at, logged or passed on. Where it does know callers, the pull tokens of Chainguard,
// which can be told by their form, are refused by their own reason, or ignored, and never
// counted: many pods behind one address send them.
//
// Files are looked at again by the requests that need them, at most once a second.
// That follows renames, symbolic links and network file systems alike, needs no
// goroutine, and a file in mid-write leaves what was read before in force.
package auth
