package proxy_test

import "testing"

// A gateway that is about to stop begins nothing that it may not end: what it knows is
// served, what is under way ends well, and who asks for anything else is told when to
// come back.
func TestDrain(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	known := l.allow("acme/app", "known", 1000)
	slow, unknown := l.push("acme/app", "slow", 300_000), l.push("acme/app", "unknown", 1000)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "slow"))
	l.gateway.Drain()
	for _, method := range []string{"GET", "HEAD"} {
		r := l.want(503, "shutting down", method, manifestPath("acme/app", "unknown"))
		if r.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After in %v", method, r.header)
		}
	}
	l.want(200, "", "GET", manifestPath("acme/app", "known"))
	l.want(200, "", "GET", blobPath("acme/app", known.layers[0]))
	l.want(200, "", "GET", manifestPath("acme/app", "slow"))
	l.engine.release()
	if r := l.scanned(slow); r.status != 200 {
		t.Errorf("what was under way: %d %s", r.status, r.message())
	}
	if times, _ := l.origin.Served(unknown.layers[0].Digest); times != 0 {
		t.Error("a pull was begun")
	}
}
