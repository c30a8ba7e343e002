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
}

func (c *claim) pending() bool { return len(c.pulls) > 0 }

// serveBlob answers GET and HEAD of a blob.
func (g *Gateway) serveBlob(w http.ResponseWriter, r *http.Request, caller auth.Caller, rt route) error {
	deadline := g.now().Add(g.Gate.HeaderWait)
	c, err := g.claim(r.Context(), caller, rt)
	if err != nil {
		return err
	}
	u := high
	if r.Method == http.MethodHead {
		u = low
	}
	if err := g.weigh(r.Context(), c, u); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", c.desc.Digest.String())
	h.Set("ETag", `"`+c.desc.Digest.String()+`"`)
	h.Set("Accept-Ranges", "bytes")
	if r.Method == http.MethodHead && !c.pending() {
		http.ServeContent(w, r, "", time.Time{}, sized(c.desc.Size))
		return nil
	}
	s := g.plan(c, r)
	if r.Method == http.MethodHead {
		s.writeHeader(w)
		return nil
	}
	if c.pending() && s.limit <= s.start {
		// Nothing can be sent before the decision: a denial can still be read as a 403.
		if err := g.awaitClaim(r.Context(), c, deadline); err != nil {
			return err
		}
	}
	if c.overdue(g.now(), g.Gate.HoldCap) {
		if err := g.overdue(r.Context(), c); err != nil {
			return err
		}
		c.pulls = nil
	}
	blob, err := g.openBlob(r.Context(), c, deadline)
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
	if _, killed := g.Policy.Killed(rt.digest.String()); killed {
		return nil, g.killedBlob(ctx, caller, rt)
	}
	ls, err := g.listersOf(ctx, rt.repo, rt.digest)
	if err != nil {
		return nil, err
	}
	if len(ls) == 0 {
		return nil, unknownBlob(rt.repo, rt.digest)
	}
	c := &claim{caller: caller, repo: rt.repo, desc: ocispec.Descriptor{Digest: rt.digest, Size: ls[0].Size}, least: maxBlob, listers: ls}
	images := slices.ContainsFunc(ls, func(l lister) bool { return !l.Artifact })
	for _, l := range ls {
		if images && l.Artifact {
			continue // has no say in the decision, so none in the floor
		}
		c.least = min(c.least, l.Size)
		c.config = c.config || l.Config && !l.Artifact
	}
	return c, nil
}

// killedBlob is the denial of a blob that is itself on the kill list.
func (g *Gateway) killedBlob(ctx context.Context, caller auth.Caller, rt route) *Error {
	in := policy.Input{
		Request: policy.Request{Caller: caller.Name, Groups: []string{}, Action: "pull"},
		Image:   policy.Image{Reference: rt.repo.String() + "@" + rt.digest.String(), Registry: rt.repo.Upstream, Repository: rt.repo.Name, Digest: rt.digest.String()},
	}
	return standing{decision: g.Policy.Decide(ctx, in), input: in}.denial()
}

func unknownBlob(repo Repo, d digest.Digest) *Error {
	return &Error{Status: http.StatusNotFound, Code: codeBlobUnknown,
		Message: fmt.Sprintf("no manifest of %s that was pulled through this gateway lists %s", repo, d)}
}

const (
	maxListers = 256 // manifests of a kind that are asked for one blob; a base layer of that many images has one allowed among the most recent, or none
	maxBegun   = 4   // pulls that one blob request begins
)

// weigh decides a claim. A layer is released when some scanned, runnable image that
// lists it is allowed for the caller; a config only by the decision on an image whose
// config it is; what nothing runnable lists, by the artifacts that do. It returns the
// denial as an error, and leaves the claim pending where an image that could release
// it is.
func (g *Gateway) weigh(ctx context.Context, c *claim, u urgency) error {
	deciders, others, artifacts := c.split()
	var t tally
	for _, ls := range [][]lister{deciders, others, artifacts} {
		if err := g.count(ctx, c, ls, u, &t); err != nil {
			return err
		}
		if t.released || t.denied != nil || len(t.pulls) > 0 || t.gone {
			break // the next group only matters where nothing here would run
		}
	}
	c.pulls, c.warning = nil, t.warning
	switch {
	case t.released:
	case len(t.pulls) > 0:
		c.pulls = t.pulls
	case t.denied != nil:
		return t.denied
	case !t.inert || t.gone:
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
}

// count adds the images of ls to t, until one releases the blob.
func (g *Gateway) count(ctx context.Context, c *claim, ls []lister, u urgency, t *tally) error {
	for _, l := range ls {
		m, err := g.fetchManifest(ctx, c.repo, l.Manifest)
		if e := (*Error)(nil); errors.As(err, &e) && e.Code == codeManifestUnknown {
			t.gone = t.gone || !l.Artifact
			continue // upstream has deleted it
		}
		if err != nil {
			return err
		}
		if t.begun >= maxBegun {
			u = look
		}
		s, err := g.stand(ctx, c.caller, c.repo, m, u)
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
// images that list it, and artifacts.
func (c *claim) split() (deciders, others, artifacts []lister) {
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
		}
	}
	return deciders, others, artifacts
}

// awaitClaim waits until a pending claim is decided, at most until deadline; then it
// is still pending. It returns the denial as an error.
func (g *Gateway) awaitClaim(ctx context.Context, c *claim, deadline time.Time) error {
	t := time.NewTimer(deadline.Sub(g.now()))
	defer t.Stop()
	for c.pending() {
		news := g.newsChannel()
		if c.anyFinished() {
			if err := g.weigh(ctx, c, high); err != nil {
				return err
			}
			continue
		}
		select {
		case <-news:
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (c *claim) anyFinished() bool {
	for _, p := range c.pulls {
		if p.finished() != nil {
			return true
		}
	}
	return false
}

// overdue reports whether nothing comes of any image that the claim waits for.
func (c *claim) overdue(now time.Time, limit time.Duration) bool {
	for _, p := range c.pulls {
		if p != notBegun && !p.overdue(now, limit) {
			return false
		}
	}
	return c.pending()
}

// openBlob returns the blob from the spool, fetching it where it isn't there, once its
// first byte has come, or at the deadline: before that an error of upstream can still be
// told as one.
func (g *Gateway) openBlob(ctx context.Context, c *claim, deadline time.Time) (*spool.Blob, error) {
	blob, err := g.fetchBlob(c.repo, c.desc, nil)
	if errors.Is(err, spool.ErrFull) {
		return nil, &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 30 * time.Second, cause: err,
			Message: "the gateway's disk has no room for this blob; its operator can raise spool quotas or free space"}
	}
	if err != nil {
		return nil, fromUpstream(err, c.repo.String()+"@"+c.desc.Digest.String(), codeBlobUnknown)
	}
	if blob.Committed() || c.desc.Size == 0 {
		return blob, nil
	}
	limited, cancel := context.WithTimeout(ctx, deadline.Sub(g.now()))
	defer cancel()
	r := blob.NewReader(limited)
	defer r.Close()
	if _, err := r.Read(make([]byte, 1)); err != nil && limited.Err() == nil {
		blob.Close()
		return nil, fromUpstream(err, c.repo.String()+"@"+c.desc.Digest.String(), codeBlobUnknown)
	}
	return blob, nil
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
		http.ServeContent(w, r, "", time.Time{}, f)
		return nil
	}
	body := &watched{Reader: blob.NewReader(r.Context())}
	defer body.Close()
	http.ServeContent(w, r, "", time.Time{}, body)
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
