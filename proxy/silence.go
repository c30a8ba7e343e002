package proxy

// An upstream that is silent costs every request for a tag half the time that clients
// wait for headers. After the first of them tags are served from memory at once, and one
// request in every RetryAfter asks again.

// silent reports whether an upstream did not answer in time when it was last asked, and
// need not be asked again yet.
func (g *Gateway) silent(name string) bool {
	return g.mute.has(name) && g.mute.fresh(name, g.now(), g.Gate.RetryAfter)
}

// noteSilence writes down how an upstream that was asked has fared.
func (g *Gateway) noteSilence(name string, silent bool) {
	if silent {
		g.mute.fresh(name, g.now(), 0)
		return
	}
	g.mute.forget(name)
}
