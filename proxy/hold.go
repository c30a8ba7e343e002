package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/cache/spool"
)

const (
	floorLeast  = 64 << 10 // bytes kept back of every blob at least: the whole of most configs and of small layers
	floorShare  = 32       // and at least this share of large ones, so that no tail of a tar can be guessed
	configHead  = 64       // bytes of a config that may drip: no JSON of an image is complete in them
	dripReserve = 256      // bytes kept back for the drip, below the floor and behind what has arrived: 20 minutes at one every 5 s
)

// floor returns how many bytes of a blob may be sent before an image that lists it is
// allowed: the bytes at and beyond it belong to the decision. It is absolute, so that
// no number of requests for ranges adds up to more.
func (g *Gateway) floor(size int64, config bool) int64 {
	switch {
	case g.Gate.Strict:
		return 0
	case config:
		return min(configHead, size/2)
	}
	return max(0, size-max(floorLeast, size/floorShare))
}

// A span is the part of a blob that a response carries: bytes from start up to end,
// of which those below limit may be sent before the decision.
type span struct {
	start, end, size int64
	limit            int64
	partial          bool // 206
}

// plan reads what part of a pending blob a request wants. Bounded, suffix and multiple
// ranges carry nothing before the decision: who reads in pieces never needs a blob's
// end. Several ranges at once are answered with the whole, as RFC 9110 section 14.2
// allows. One that can't be satisfied is left to the answer after the decision.
func (g *Gateway) plan(c *claim, r *http.Request) span {
	size := c.desc.Size
	s := span{end: size, size: size, limit: g.floor(min(c.least, size), c.config)}
	header := r.Header.Get("Range")
	spec, ok := strings.CutPrefix(header, "bytes=")
	if header == "" || r.Header.Get("If-Range") != "" && r.Header.Get("If-Range") != `"`+c.desc.Digest.String()+`"` {
		return s
	}
	if !ok || strings.Contains(spec, ",") {
		s.limit = 0
		return s
	}
	from, to, _ := strings.Cut(strings.TrimSpace(spec), "-")
	k, err := strconv.ParseInt(from, 10, 64)
	switch {
	case from == "": // the last n bytes
		n, err := strconv.ParseInt(to, 10, 64)
		s.limit = 0
		if err == nil && n > 0 {
			s.start, s.partial = max(0, size-n), true
		}
	case err != nil || k < 0 || k >= size:
		s.limit = 0
	case to == "":
		s.start, s.partial = k, true
	default:
		s.limit = 0
		if last, err := strconv.ParseInt(to, 10, 64); err == nil && last >= k {
			s.start, s.end, s.partial = k, min(last, size-1)+1, true // the last number there is has no successor
		}
	}
	return s
}

func (s span) writeHeader(w http.ResponseWriter) {
	w.Header().Set("Content-Length", strconv.FormatInt(s.end-s.start, 10))
	if !s.partial {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", s.start, s.end-1, s.size))
	w.WriteHeader(http.StatusPartialContent)
}

// A held response is one for a blob of a pending image. It lives in its request's own
// goroutine, and has a buffer only while it copies.
type held struct {
	g     *Gateway
	w     http.ResponseWriter
	blob  *spool.Blob
	body  *spool.Reader
	claim *claim

	pos     int64     // the next byte to send
	limit   int64     // what may be sent before the decision
	arrived int64     // bytes of the blob that were there when last looked
	sent    time.Time // when a byte was last sent
}

// serveHeld serves a blob of a pending image: bytes below the floor as they arrive, of
// which a few are kept back for a drip that keeps the connection alive, and the rest
// once the image is allowed. On a denial the response is cut.
func (g *Gateway) serveHeld(w http.ResponseWriter, r *http.Request, blob *spool.Blob, c *claim, s span) error {
	first, began := c.pulls[0], g.now()
	body := blob.NewReader(r.Context())
	defer body.Close()
	if _, err := body.Seek(s.start, io.SeekStart); err != nil {
		return err
	}
	h := &held{
		g: g, w: w, blob: blob, body: body, claim: c, pos: s.start, limit: min(s.limit, s.end), arrived: blob.Arrived(),
		sent: began.Add(-g.Gate.Drip), // the wait for headers was silence too
	}
	s.writeHeader(w)
	err := h.flush() // headers, which must not wait for upstream
	for err == nil && c.pending() {
		err = h.step(r.Context())
	}
	g.Metrics.holdSeconds.Observe(g.now().Sub(began).Seconds())
	accountOf(r.Context()).waited(began)
	if err == nil {
		err = h.rest(r.Context(), s.end)
	}
	if err != nil && r.Context().Err() == nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			g.refused(e)
		}
		g.Log.Debug("held response cut", "repository", c.repo, "blob", c.desc.Digest, "caller", c.caller.Name, "error", err)
		g.cut(w, r, first, c)
	}
	return nil
}

// step does the next thing that there is to do before the decision, or waits for it.
func (h *held) step(ctx context.Context) error {
	now := h.g.now()
	h.look(now)
	if err := h.g.judge(ctx, h.claim, now); err != nil || !h.claim.pending() {
		return err
	}
	h.limit = min(h.limit, h.g.floor(min(h.claim.least, h.claim.desc.Size), h.claim.config))
	there := int64(0) // up to where bytes may be sent now
	if h.announced() {
		there = min(h.arrived, h.limit)
	}
	due := !now.Before(h.sent.Add(h.g.Gate.Drip))
	switch {
	case h.pos < there-dripReserve:
		return h.send(min(there-dripReserve, h.pos+copyBuffer)) // and look again: it may be denied by then
	case h.pos < there && due:
		return h.send(h.pos + 1)
	}
	wake := earlier(h.claim.capAt(h.g.Gate.HoldCap), now.Add(h.g.Gate.Drip))
	if !due {
		wake = earlier(wake, h.sent.Add(h.g.Gate.Drip))
	}
	return h.wait(ctx, wake.Sub(now), due)
}

// look notes how much of the blob has arrived. A client may ask for what its image's own
// pull has yet to come to: that upstream sends it is progress too.
func (h *held) look(now time.Time) {
	arrived := h.blob.Arrived()
	if h.blob.Committed() {
		arrived = h.blob.Size()
	} else if arrived > h.arrived {
		for _, p := range h.claim.pulls {
			if p != notBegun {
				p.touch(now)
			}
		}
	}
	h.arrived = arrived
}

// announced reports whether the blob is known to be as long as the floor was reckoned
// from. Where upstream doesn't say how long it is, it may end below the floor.
func (h *held) announced() bool {
	_, said := h.g.sized.Load(sizeKey(h.blob.Source(), h.blob.Digest(), h.blob.Size()))
	return said || h.blob.Committed()
}

// wait returns after d, or sooner when an image of the claim is decided or there is
// something to send: more than is kept for the drip or, when that is due, any byte.
func (h *held) wait(ctx context.Context, d time.Duration, due bool) error {
	limited, stop := h.claim.wake(ctx, d)
	defer stop()
	next := h.pos + dripReserve
	if due {
		next = h.pos
	}
	if !h.announced() && h.blob.Arrived() > 0 {
		next = h.blob.Size() - 1 // there when all of the blob is, and verified
	} else if next >= h.limit {
		<-limited.Done()
		return ctx.Err()
	}
	if _, err := h.blob.Await(limited, next); err != nil && limited.Err() == nil {
		return err
	}
	return ctx.Err()
}

// send copies what is there, up to position end.
func (h *held) send(end int64) error {
	buf := h.g.buffers.get()
	defer h.g.buffers.put(buf)
	for h.pos < end {
		n, err := h.body.Read((*buf)[:min(int64(len(*buf)), end-h.pos)])
		if err != nil {
			return err
		}
		if _, err := h.w.Write((*buf)[:n]); err != nil {
			return err
		}
		h.pos += int64(n)
	}
	h.sent = h.g.now()
	return h.flush()
}

// rest sends what the decision has released: from the file once all is there, which the
// server needs no buffer for.
func (h *held) rest(ctx context.Context, end int64) error {
	for h.pos < end && !h.blob.Committed() {
		n, err := h.blob.Await(ctx, h.pos)
		if err != nil {
			return err
		}
		if err := h.send(min(h.pos+n, end)); err != nil {
			return err
		}
	}
	if h.pos >= end {
		return nil
	}
	f, err := h.blob.File()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(h.pos, io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyN(h.w, f, end-h.pos)
	return err
}

func (h *held) flush() error { return http.NewResponseController(h.w).Flush() }

// judge looks whether a pending claim is decided by now, one way or the other. It
// returns the denial as an error.
func (g *Gateway) judge(ctx context.Context, c *claim, now time.Time) error {
	switch {
	case c.anyFinished():
		if err := g.relook(ctx, c); err != nil {
			return err
		}
		return g.weigh(ctx, c, high)
	case c.overdue(now, g.Gate.HoldCap):
		return g.overdue(ctx, c)
	}
	return nil
}

// relook brings a pending claim up to date: an image that was served since it began may
// list the blob, maybe as its config, and then has a say in what is released.
func (g *Gateway) relook(ctx context.Context, c *claim) error {
	ls, _, err := g.listersOf(ctx, c.repo, c.desc.Digest)
	if err != nil || len(ls) == 0 {
		return err
	}
	now := newClaim(c.caller, c.repo, c.desc.Digest, ls)
	c.listers, c.config, c.least = now.listers, now.config, min(c.least, now.least)
	return nil
}

// overdue decides a claim whose images have shown no progress for the hold cap.
func (g *Gateway) overdue(ctx context.Context, c *claim) error {
	p := c.pulls[0]
	s, err := g.timedOut(ctx, c.caller, p.repo, p.m)
	if err != nil {
		return err
	}
	if s.blocked() {
		return s.denial()
	}
	c.pulls = nil
	return nil
}

// cut ends a held response so that its client notices. The first one of each client
// is cut at once and the others a little later: the free slot lets the client open its
// next blob, get the 403 there, and show its reason.
func (g *Gateway) cut(w http.ResponseWriter, r *http.Request, p *pull, c *claim) {
	client := c.caller.Name + " " + remoteHost(r) + " " + r.UserAgent()
	wait := g.Gate.CutDelay
	if p.firstCut(client, c.desc.Digest) {
		wait /= 10 // its user is shown what it reads first: the 403 that its config waits for must come before
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
	abort(w)
}

// abort breaks the connection with a reset on HTTP/1.1, which more clients follow up
// with a new try than an early end, and the stream on HTTP/2.
func abort(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
		defer conn.Close()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
}

func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
