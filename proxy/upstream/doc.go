// Package upstream reads from another registry: manifests, blobs, tags, referrers.
//
//	            ┌────────────────────── Registry ──────────────────────┐
//	Resolve ──▶ │ call ─▶ token kept for      ─▶ request ─▶ redirects  │ ──▶ registry
//	Manifest    │         (credentials, scope)    │  401: new token    │ ──▶ token endpoint
//	Tags        │                                 │  5xx, network:     │ ──▶ blob storage
//	Referrers   │                                 ▼  again, later      │     (no credentials)
//	Blob ─────▶ │ reader: idle timeout, resume with Range, verify, EOF │
//	            └──────────────────────────────────────────────────────┘
//
// A Registry hands out only what it verified: a manifest is hashed before it is
// returned, a blob's reader returns an error in place of io.EOF when size or digest
// differ. All bodies are bounded, and each read has an idle timeout; nothing has a
// total timeout of its own, since a big layer on a slow line is no error.
//
// # Why
//
// Redirects and retries are done here and not by http.Client, because http.Client
// keeps Authorization on redirects to subdomains and other ports, puts whole URLs
// (pre-signed ones too) into its errors, and can carry cookies.
//
// The token scope is always the one that the call needs, never the one that a
// challenge names: a registry must not be able to ask for more than we came for.
//
// The pull token goes to the registry's own host, and to the token endpoints that
// its operator listed; a challenge that names any other host gets a request without
// credentials. A forged realm would else collect the token (CVE-2026-33540).
//
// A redirect, and a realm that is not listed, may lead outward only: no nearer to this
// program than the registry itself lies (public, private network, this machine), and
// never to a link-local address or a cloud's metadata service. A registry could else have
// us ask what only we reach: our own administration, credentials of the machine. The rule
// is kept where connections are made, when the name has become an address, so that no
// name that changes its mind gets around it. Storage behind a private endpoint is the
// honest exception, and has to be listed. A redirect from https to http is never followed.
//
// A blob whose registry sends a byte now and then is given up as one that stalls: the
// bound is bytes in the time that we waited for them, so that neither a slow consumer nor
// a slow line is mistaken for it. It is resumed first, since a new connection is often
// the cure; three such stalls in a row, with nothing gained between, end it.
//
// An answer of 206 to a request for the whole is refused, though the bytes might be
// right: the length of a blob is only known from an answer about all of it, and what may
// be handed out before the blob is verified hangs on that length.
//
// A registry that answers 429 with Retry-After is left alone for that kind of request, by
// everybody, a minute at most: every further request may lengthen what it is angry about.
//
// Requests go to the least busy of a few transports, because one HTTP/2 connection
// is one TCP window for all layers of an image; a lone request always takes the
// first, so that nothing pays for a second handshake without need.
//
// A token is kept for as long as its lifetime says from when we asked for it, by
// our clock alone; the cost of keeping one too long is a 401 and one new token.
package upstream
