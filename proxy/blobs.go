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

	"github.com/sluicegate/sluice/cache"
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
	bare    bool    // whatever else it is called was taken into account

	other digest.Digest // its digest by the other algorithm, where that is known
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
	if err := g.notKilled(ctx, caller, rt.repo, rt.digest); err != nil {
		return nil, err
	}
	ls, other, err := g.listersOf(ctx, rt.repo, rt.digest)
	if err == nil && len(ls) == 0 { // another replica may have served the manifest just now
		ls, other, err = g.listersOf(cache.Direct(ctx), rt.repo, rt.digest)
	}
	if err != nil {
		return nil, err
	}
	if err := g.notKilled(ctx, caller, rt.repo, rt.digest, other); err != nil {
		return nil, err
	}
	if len(ls) == 0 {
		return nil, unknownBlob(rt.repo, rt.digest)
	}
	if err := g.renew(ctx, rt.repo, ls); err != nil {
		return nil, err
	}
	c := newClaim(caller, rt.repo, rt.digest, ls)
	c.other = other
	return c, nil
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

// maxRenewed bounds the images that one blob request counts as a use of. In a relation's
// life even a request a day comes round to all that a blob can have.
const maxRenewed = 32

// renew has the images that list a blob remembered for longer, those first that were not
// for the longest, since to ask for it is to use them: who asks for a denied image's blobs
// and never for its manifest must not see the day when nobody knows whose they are.
func (g *Gateway) renew(ctx context.Context, repo Repo, ls []lister) error {
	n := 0
	for _, l := range slices.Backward(ls) {
		if n == maxRenewed || g.now().Sub(l.At) < relationRefresh {
			break
		}
		if l.Artifact {
			continue
		}
		if _, err := g.usedManifest(ctx, repo, l.Manifest); err != nil {
			return err
		}
		n++
	}
	return nil
}

// notKilled returns the denial of a blob that is itself on the kill list, by d or by
// others of its names.
func (g *Gateway) notKilled(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest, others ...digest.Digest) error {
	names := []string{d.String()}
	for _, o := range others {
		names = append(names, o.String())
	}
	if _, killed := g.policy(repo).Killed(names...); !killed {
		return nil
	}
	in := policy.Input{
		Request: policy.Request{Caller: caller.Name, Groups: append([]string{}, caller.Groups...), Action: "pull"},
		Image:   policy.Image{Reference: repo.String() + "@" + d.String(), Registry: repo.Upstream, Repository: repo.Name, Digest: d.String(), Aliases: names},
	}
	return standing{decision: g.opinion(ctx, repo, in), input: in}.denial()
}

func unknownBlob(repo Repo, d digest.Digest) *Error {
	return &Error{Status: http.StatusNotFound, Code: codeBlobUnknown,
		Message: fmt.Sprintf("no manifest of %s that was pulled through this gateway lists %s", repo, d)}
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
