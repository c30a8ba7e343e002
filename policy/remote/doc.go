// Package remote keeps a file the same as a bundle of policies that lies elsewhere.
//
//	HTTPS server ─┐
//	              ├─ Fetch ──▶ Check ── good ──▶ File ──▶ policy.Engine
//	registry ─────┘              │
//	                             └──── bad ───▶ Behind: the last good one stays
//
// # Why
//
// An engine follows files, and a file outlives a restart while the server is down. So what
// is fetched becomes a file, and there is one way by which policies are loaded. It is
// checked before it takes the place of the last one, since a restart would have nothing
// else to begin with.
package remote
