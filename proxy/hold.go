package proxy

import (
	"context"
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
	dripReserve = 256      // bytes below the floor that are kept for the drip: 20 minutes at one every 5 s
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
	s := span{end: size, size: size, limit: g.floor(c.least, c.config)}
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
			s.start, s.end, s.partial = k, min(last+1, size), true
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

// serveHeld serves a blob of a pending image: bytes below the floor as they arrive,
// then a drip that keeps the connection alive, and the rest once the image is allowed.
// On a denial the response is cut.
func (g *Gateway) serveHeld(w http.ResponseWriter, r *http.Request, blob *spool.Blob, c *claim, s span) error {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	first := c.pulls[0]
	j := &judgment{done: make(chan struct{})}
	go func() {
		defer close(j.done)
		if j.err = g.judge(ctx, c); j.err != nil {
			cancel() // stops the response also while it waits for bytes
		}
	}()
	defer func() { cancel(); <-j.done }()

	began := g.now()
	s.writeHeader(w)
	body := blob.NewReader(ctx)
	defer body.Close()
	if _, err := body.Seek(s.start, io.SeekStart); err != nil {
		return err
	}
	h := &heldBody{w: w, body: body, pos: s.start, buf: make([]byte, copyBuffer), flush: http.NewResponseController(w).Flush}
	limit := min(s.limit, s.end)
	err := h.flush() // headers, which must not wait for upstream
	if err == nil {
		err = h.below(limit - min(dripReserve, limit))
	}
	if err == nil {
		err = g.drip(h, limit, j)
	}
	g.Metrics.holdSeconds.Observe(g.now().Sub(began).Seconds())
	if err == nil {
		err = h.below(s.end)
	}
	if err != nil && r.Context().Err() == nil {
		g.Log.Debug("held response cut", "repository", c.repo, "blob", c.desc.Digest, "caller", c.caller.Name, "error", err)
		g.cut(w, r, first, c)
	}
	return nil
}

// A judgment is the decision on a held response: err is set before done closes, nil
// when the rest may be sent.
type judgment struct {
	done chan struct{}
	err  error
}

// judge waits for the decision on a pending claim, at most until nothing has come of
// its images for the hold cap.
func (g *Gateway) judge(ctx context.Context, c *claim) error {
	for {
		if err := g.awaitClaim(ctx, c, g.now().Add(g.Gate.Drip)); err != nil || !c.pending() {
			return err
		}
		if c.overdue(g.now(), g.Gate.HoldCap) {
			return g.overdue(ctx, c)
		}
	}
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
	return nil
}

// drip sends a byte below limit every so often until the decision: some clients and
// most load balancers give up on a response that stands still.
func (g *Gateway) drip(h *heldBody, limit int64, j *judgment) error {
	tick := time.NewTicker(g.Gate.Drip)
	defer tick.Stop()
	if err := h.flush(); err != nil {
		return err
	}
	for {
		select {
		case <-j.done:
			return j.err
		case <-tick.C:
			if h.pos >= limit {
				continue
			}
			if err := h.below(h.pos + 1); err != nil {
				return err
			}
			if err := h.flush(); err != nil {
				return err
			}
		}
	}
}

// A heldBody copies a blob to a response up to where it may.
type heldBody struct {
	w     io.Writer
	body  io.Reader
	pos   int64
	buf   []byte
	flush func() error
}

// below sends what arrives until position end.
func (h *heldBody) below(end int64) error {
	for h.pos < end {
		n, err := h.body.Read(h.buf[:min(int64(len(h.buf)), end-h.pos)])
		if n > 0 {
			if _, err := h.w.Write(h.buf[:n]); err != nil {
				return err
			}
			h.pos += int64(n)
		}
		if err != nil && h.pos < end {
			return err
		}
	}
	return nil
}

// cut ends a held response so that its client notices. The first one of each client
// is cut at once and the others a little later: the free slot lets the client open its
// next blob, get the 403 there, and show its reason.
func (g *Gateway) cut(w http.ResponseWriter, r *http.Request, p *pull, c *claim) {
	if !p.firstCut(c.caller.Name+" "+remoteHost(r), g.now()) {
		t := time.NewTimer(g.Gate.CutDelay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
		}
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
