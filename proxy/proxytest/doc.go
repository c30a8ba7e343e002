// Package proxytest is an origin in process: a complete, writable OCI registry in
// memory that behaves as a gateway's upstream does on its good days and on its bad
// ones. Tests, the demo and the benchmarks pull through a gateway from it.
//
//	           challenge, /token            307, signed, expires
//	client ───────────────────▶  registry ───────────────────────▶ blob host
//	        one scope, one token    │  127.0.0.1                     localhost
//	                                │                                   │
//	                                └──── link: bandwidth, delay ───────┘
//	                                      faults, counters
//
// [Start] gives a [Server] that listens on loopback. It is filled in memory, with
// [Server.PushImage] and its siblings, or over HTTP by any client. [Server.Inject]
// breaks the next answers in a chosen way; [Server.Served], [Server.Count] and
// [Server.Leaks] tell afterwards what was asked, how often and with what.
//
// # Why
//
// A registry that is complete is needed to show that a gateway is: it can't pass
// the distribution specification's conformance program in front of an origin that
// fails it. Those that can be installed lack referrers or sha512 digests.
//
// Its tokens are good for one repository only and refused with 403 elsewhere, its
// blobs lie on another host whose requests must not carry credentials (a request
// that does is answered with 400, as object stores do, and remembered), and its
// errors are the registry's own: a client that works here has met what cgr.dev does.
//
// All responses share one link, since that is what a pull competes for; a limit for
// each response would make parallel layers look faster than they are.
//
// A fault is a function around a handler rather than a list of options, so that a
// test can write the one that it needs in three lines.
//
// It imports no testing package, so a program can carry it.
package proxytest
