package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
)

// A claim is what a caller may have of a blob: all of it, or its part below the floor
// while images that list it are pending.
type claim struct {
	caller  auth.Caller
	repo    Repo
	desc    ocispec.Descriptor // with the size that the manifest declares which decides
	least   int64              // the smallest size that an image declares: the floor's
	config  bool               // some image that must be scanned has it as its config
	listers []lister

	pulls   []*pull // pending images that list it, most recent first; none: released
	warning string  // of the decision that released it, for a Warning header
	inert   bool    // released by what nothing runs, since no image that lists it was met
}

func (c *claim) pending() bool { return len(c.pulls) > 0 }

// serveBlob answers GET and HEAD of a blob.
func (g *Gateway) serveBlob(w http.ResponseWriter, r *http.Request, caller auth.Caller, rt route) error {
	start := g.now()
	ctx, cancel := g.beforeHeaders(r.Context(), start)
	defer cancel()
	c, err := g.claim(ctx, caller, rt)
	if err != nil {
		return err
	}
	u := high
	if r.Method == http.MethodHead {
		u = low
	}
	if err := g.weigh(ctx, c, u); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", c.desc.Digest.String())
	h.Set("ETag", `"`+c.desc.Digest.String()+`"`)
	h.Set("Accept-Ranges", "bytes")
	if r.Method == http.MethodHead {
		if err := g.vouchForSpooled(ctx, c); err != nil {
			return err
		}
	}
	if r.Method == http.MethodHead && !c.pending() {
		setWarning(w, c.warning)
		serveContent(w, r, sized(c.desc.Size))
		return nil
	}
	s := g.plan(c, r)
	if c.overdue(g.now(), g.Gate.HoldCap) {
		if err := g.overdue(ctx, c); err != nil {
			return err
		}
	}
	if r.Method == http.MethodHead {
		s.writeHeader(w)
		return nil
	}
	deadline := start.Add(g.Gate.HeaderWait)
	if c.pending() && (c.config || s.limit <= s.start) {
		// Next to nothing can be sent before the decision: a denial can still be read as a 403.
		if err := g.awaitClaim(ctx, c, deadline); err != nil {
			return err
		}
		s = g.plan(c, r) // other images may have a say by now
	}
	blob, err := g.openBlob(ctx, c, deadline)
	if err != nil {
		return err
	}
	defer blob.Close()
	if c.pending() {
		return g.serveHeld(w, r, blob, c, s)
	}
	return g.serveReleased(w, r, blob, c)
}

// claim finds who lists a blob. A blob that no manifest of the repository has listed
// does not exist for its callers: no digest of one repository can be read through
// another.
func (g *Gateway) claim(ctx context.Context, caller auth.Caller, rt route) (*claim, error) {
	if _, killed := g.policy(rt.repo).Killed(rt.digest.String()); killed {
		return nil, g.killedBlob(ctx, caller, rt)
	}
	ls, err := g.listersOf(ctx, rt.repo, rt.digest)
	if err != nil {
		return nil, err
	}
	if len(ls) == 0 {
		return nil, unknownBlob(rt.repo, rt.digest)
	}
	return newClaim(caller, rt.repo, rt.digest, ls), nil
}

// newClaim is a claim on a blob that at least one manifest lists.
func newClaim(caller auth.Caller, repo Repo, d digest.Digest, ls []lister) *claim {
	c := &claim{caller: caller, repo: repo, desc: ocispec.Descriptor{Digest: d, Size: ls[0].Size}, least: maxBlob, listers: ls}
	images := slices.ContainsFunc(ls, func(l lister) bool { return !l.Artifact })
	for _, l := range ls {
		if images && l.Artifact {
			continue // has no say in the decision, so none in the floor
		}
		c.least = min(c.least, l.Size)
		c.config = c.config || l.Config && !l.Artifact
	}
	return c
}

// killedBlob is the denial of a blob that is itself on the kill list.
func (g *Gateway) killedBlob(ctx context.Context, caller auth.Caller, rt route) *Error {
	in := policy.Input{
		Request: policy.Request{Caller: caller.Name, Groups: []string{}, Action: "pull"},
		Image:   policy.Image{Reference: rt.repo.String() + "@" + rt.digest.String(), Registry: rt.repo.Upstream, Repository: rt.repo.Name, Digest: rt.digest.String()},
	}
	return standing{decision: g.policy(rt.repo).Decide(ctx, in), input: in}.denial()
}

func unknownBlob(repo Repo, d digest.Digest) *Error {
	return &Error{Status: http.StatusNotFound, Code: codeBlobUnknown,
		Message: fmt.Sprintf("no manifest of %s that was pulled through this gateway lists %s", repo, d)}
}

const (
	maxListers = 256 // manifests of a kind that are asked for one blob; a base layer of that many images has one allowed among the most recent, or none
	maxBegun   = 4   // pulls that one blob request begins
	maxAsked   = 4   // manifests that one blob request fetches again; they are remembered as long as what they list
)

// weigh decides a claim. A layer is released when some scanned, runnable image that
// lists it is allowed for the caller; a config only by the decision on an image whose
// config it is; what nothing runnable lists, by the artifacts that do, if all images
// that list it could be asked. It returns the
// denial as an error, and leaves the claim pending where an image that could release
// it is.
func (g *Gateway) weigh(ctx context.Context, c *claim, u urgency) error {
	deciders, others, artifacts, more := c.split()
	var t tally
	for _, ls := range [][]lister{deciders, others, artifacts} {
		if err := g.count(ctx, c, ls, u, &t); err != nil {
			return err
		}
		if t.released || t.denied != nil || len(t.pulls) > 0 || t.gone || t.full != nil {
			break // the next group only matters where nothing here would run
		}
	}
	c.pulls, c.warning, c.inert = nil, t.warning, t.inert && !t.released
	switch {
	case t.released:
	case len(t.pulls) > 0:
		c.pulls = t.pulls
	case t.full != nil:
		return t.full
	case t.denied != nil:
		return t.denied
	case !t.inert || t.gone || more:
		return unknownBlob(c.repo, c.desc.Digest)
	}
	c.desc.Size = g.sizeOf(c.desc.Digest, t.size)
	return nil
}

// sizeOf returns the size of a blob: as it is where it was verified, else as declared.
func (g *Gateway) sizeOf(d digest.Digest, declared int64) int64 {
	b, err := g.Blobs.Open(d)
	if err != nil {
		return declared
	}
	defer b.Close()
	if b.Committed() {
		return b.Size()
	}
	return declared
}

// A tally sums up where the images that list a blob stand.
type tally struct {
	released bool    // a runnable image is allowed
	inert    bool    // something that nothing runs is allowed
	pulls    []*pull // pending
	denied   *Error  // the most recent one that is denied
	gone     bool    // an image has listed it, and can't be asked any more: nobody knows what it is
	size     int64   // as declared by the image that released it, else by the first pending one, else by the first
	warning  string
	begun    int
	asked    int    // manifests fetched from upstream
	full     *Error // an image's pull could not begin
}

// listing returns the manifest of a lister, nil where upstream has deleted it, or where
// more would have to be asked of upstream than one request may wait for.
func (g *Gateway) listing(ctx context.Context, repo Repo, l lister, t *tally) (*manifest, error) {
	m, err := g.knownManifest(ctx, repo, l.Manifest)
	if m != nil || err != nil || t.asked == maxAsked {
		return m, err
	}
	t.asked++
	m, err = g.fetchManifest(ctx, repo, l.Manifest)
	if e := (*Error)(nil); errors.As(err, &e) && e.Code == codeManifestUnknown {
		return nil, nil
	}
	return m, err
}

// count adds the images of ls to t, until one releases the blob.
func (g *Gateway) count(ctx context.Context, c *claim, ls []lister, u urgency, t *tally) error {
	for _, l := range ls {
		m, err := g.listing(ctx, c.repo, l, t)
		if err != nil {
			return err
		}
		if m == nil {
			t.gone = t.gone || !l.Artifact
			continue
		}
		if t.begun >= maxBegun {
			u = look
		}
		s, err := g.stand(ctx, c.caller, c.repo, m, u)
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == codeTooMany {
			t.full = e // it has no place in the queue; another may release the blob
			continue
		}
		switch {
		case err != nil:
			return err
		case s.pending():
			if len(t.pulls) == 0 {
				t.size = l.Size
			}
			t.pulls = append(t.pulls, s.pull)
			t.begun++
		case s.blocked():
			if t.denied == nil {
				t.denied = s.denial()
			}
		case s.runnable:
			t.released, t.size, t.warning = true, l.Size, s.warning()
			return nil
		default:
			if !t.inert && len(t.pulls) == 0 {
				t.size = l.Size
			}
			t.inert, t.warning = true, s.warning()
		}
	}
	return nil
}

// split parts the listers into the images whose decision releases the blob, the other
// images that list it, and artifacts. more says that there are images besides.
func (c *claim) split() (deciders, others, artifacts []lister, more bool) {
	for _, l := range c.listers {
		group := &deciders
		switch {
		case l.Artifact:
			group = &artifacts
		case c.config && !l.Config:
			group = &others
		}
		if len(*group) < maxListers {
			*group = append(*group, l)
		} else if !l.Artifact {
			more = true
		}
	}
	return deciders, others, artifacts, more
}

// awaitClaim waits until a pending claim is decided, at most until deadline; then it
// is still pending. It returns the denial as an error.
func (g *Gateway) awaitClaim(ctx context.Context, c *claim, deadline time.Time) error {
	for {
		now := g.now()
		if err := g.judge(ctx, c, now); err != nil || !c.pending() || !now.Before(deadline) {
			return err
		}
		limited, stop := c.wake(ctx, earlier(deadline, c.capAt(g.Gate.HoldCap)).Sub(now))
		<-limited.Done()
		stop()
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// wake returns a context that ends with ctx, after d, or when an image that c waits for
// is decided. It costs no goroutine while it lasts. The caller calls stop.
func (c *claim) wake(ctx context.Context, d time.Duration) (limited context.Context, stop func()) {
	limited, cancel := context.WithTimeout(ctx, d)
	stops := make([]func() bool, 0, len(c.pulls))
	for _, p := range c.pulls {
		if p != notBegun {
			stops = append(stops, context.AfterFunc(p.over, cancel))
		}
	}
	return limited, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// capAt returns when those who wait for c are told that nothing comes of its images.
func (c *claim) capAt(limit time.Duration) (last time.Time) {
	for _, p := range c.pulls {
		if p != notBegun && p.capAt(limit).After(last) {
			last = p.capAt(limit)
		}
	}
	return last
}

func (c *claim) anyFinished() bool {
	for _, p := range c.pulls {
		if p.finished() != nil {
			return true
		}
	}
	return false
}

// overdue reports whether that time has come.
func (c *claim) overdue(now time.Time, limit time.Duration) bool {
	return c.pending() && !now.Before(c.capAt(limit))
}

// openBlob returns the blob from the spool, fetching it where it isn't there, once its
// first byte has come, or at the deadline: before that an error of upstream can still be
// told as one.
func (g *Gateway) openBlob(ctx context.Context, c *claim, deadline time.Time) (*spool.Blob, error) {
	blob, err := g.fetchBlob(c.repo, c.desc, nil)
	if err != nil {
		return nil, notFetched(err, c.repo, c.desc.Digest)
	}
	if err := g.vouch(ctx, c.repo, blob, c.desc); err != nil {
		blob.Close()
		return nil, err
	}
	if blob.Committed() || c.desc.Size == 0 {
		return blob, nil
	}
	limited, cancel := context.WithTimeout(ctx, deadline.Sub(g.now()))
	defer cancel()
	if _, err := blob.Await(limited, 0); err != nil && limited.Err() == nil {
		blob.Close()
		return nil, notFetched(err, c.repo, c.desc.Digest)
	}
	return blob, nil
}

// notFetched is the answer where a blob could not be had or kept.
func notFetched(err error, repo Repo, d digest.Digest) *Error {
	if !errors.Is(err, spool.ErrFull) {
		return fromUpstream(err, repo.String()+"@"+d.String(), codeBlobUnknown)
	}
	return &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 30 * time.Second, cause: err,
		Message: "the gateway has no room for this blob: " + causeVerdict(err).Scan.Detail + "; try again, or tell its operator"}
}

// serveReleased serves a blob that the caller may have all of.
func (g *Gateway) serveReleased(w http.ResponseWriter, r *http.Request, blob *spool.Blob, c *claim) error {
	setWarning(w, c.warning)
	if blob.Committed() {
		f, err := blob.File()
		if err != nil {
			return err
		}
		defer f.Close()
		serveContent(w, r, f)
		return nil
	}
	body := &watched{Reader: blob.NewReader(r.Context())}
	defer body.Close()
	serveContent(w, r, body)
	if body.err != nil { // the headers are out: only a broken connection tells the client
		panic(http.ErrAbortHandler)
	}
	return nil
}

// watched is a reader that keeps the error which ServeContent doesn't report.
type watched struct {
	*spool.Reader
	err error
}

func (r *watched) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// sized is content of a length that nobody reads: what a HEAD needs.
type sized int64

func (s sized) Read([]byte) (int, error) { return 0, io.EOF }

func (s sized) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		offset += int64(s)
	}
	return offset, nil
}
