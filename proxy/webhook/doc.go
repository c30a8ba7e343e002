// Package webhook sends events to web servers: signed, in order, each until it is taken or
// given up.
//
//	events in the Store ──▶ line of each hook ──▶ POST, signed ──▶ 2xx: the next one
//	                          ▲  one gateway has its lease  │
//	                          │                             ├─ else: again, later and later
//	   sluice events retry ───┴──── dead letters ◀──────────┘  for 24 hours
//
// # What a receiver gets
//
// One POST for each event, the oldest first and never two at a time:
//
//	POST /hooks/sluice HTTP/1.1
//	Content-Type: application/cloudevents+json; charset=utf-8
//	Webhook-Id: 5f0c9a…
//	Sluice-Signature: t=1767225600,v1=9b1c…
//
//	{"specversion":"1.0","id":"5f0c9a…","source":"urn:uuid:…","type":"dev.sluice.pull.denied",
//	 "subject":"cgr.dev/acme/web:1@sha256:…","time":"…","datacontenttype":"application/json","data":{…}}
//
// The body is a CloudEvent (proxy.CloudEvent) in structured mode, its data what
// /api/v1/events lists. Any 2xx takes it. Whatever else is tried again: a redirect is not
// followed, a Retry-After is obeyed. What was sent may come twice, after a restart or where
// an answer was lost: drop an Id that was seen before.
//
// # How a receiver verifies it
//
// t is when it was sent, in seconds since 1970; v1 is HMAC-SHA256 in hexadecimal under the
// secret, over t, a dot and the exact body. While a secret is changed there is one v1 for
// each: one that fits is enough. In Go it is Verify; in Python:
//
//	import hashlib, hmac, time
//
//	def verify(secret: bytes, header: str, body: bytes, tolerance: int = 300) -> bool:
//	    fields = [f.split("=", 1) for f in header.split(",") if "=" in f]
//	    sent = next((v for k, v in fields if k == "t"), "")
//	    if not sent.isascii() or not sent.isdigit() or abs(time.time() - int(sent)) > tolerance:
//	        return False
//	    want = hmac.new(secret, sent.encode() + b"." + body, hashlib.sha256).hexdigest()
//	    return any(k == "v1" and hmac.compare_digest(v.encode(), want.encode()) for k, v in fields)
//
// # Secrets
//
// A secret file has one secret a line, of 16 bytes at least, four at most; each signs. It is
// read at every delivery: to change a secret add the new one as a line, have the receiver
// take it, and remove the old line. No secret, and nothing of a URL but its host, is ever
// logged, measured or shown: a URL may be a secret itself.
//
// # Why
//
// A line follows the list in the Store and not a queue of its own: so a restart, another
// gateway or a day without a receiver lose nothing, and nothing that raises an event waits
// for a receiver. Where it is stands in the Store, written only by who knows what stood
// there before. One gateway at a time has the lease on a hook.
//
// One at a time keeps the order and spares a receiver that just came back. A receiver that
// is gone holds up its own line only, and each try that fails makes the wait longer, from
// 10 seconds to an hour. An event is given up when nothing got through for 24 hours, or when
// the receiver refused it, as itself, five times: it must not stop what comes behind it.
package webhook
