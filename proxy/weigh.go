package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

const (
	maxBegun = 4 // pulls that one blob request begins
	maxAsked = 4 // manifests that one blob request fetches again; they are remembered as long as what they list
)

// weigh decides a claim. A layer is released when some scanned, runnable image that
// lists it is allowed for the caller; a config only by the decision on an image whose
// config it is; what nothing runnable lists, by the artifacts that do, if all images
// that list it could be asked. It returns the
// denial as an error, and leaves the claim pending where an image that could release
// it is.
func (g *Gateway) weigh(ctx context.Context, c *claim, u urgency) error {
	deciders, others, artifacts, more := c.split(g.Gate.Listers)
	var t tally
	for _, ls := range [][]lister{deciders, others, artifacts} {
		if err := g.count(ctx, c, ls, u, &t); err != nil {
			return err
		}
		if t.released || t.denied != nil || len(t.pulls) > 0 || t.gone || t.full != nil {
			break // the next group only matters where nothing here would run
		}
	}
	if c.config && !t.released && !t.config {
		if err := g.countLayer(ctx, c, others, &t); err != nil {
			return err
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
	case more:
		return g.crowded(c)
	case !t.inert || t.gone:
		return unknownBlob(c.repo, c.desc.Digest)
	}
	c.desc.Size = g.sizeOf(c.desc.Digest, t.size)
	if u != high || c.pending() || c.bare {
		return nil
	}
	c.bare = true
	if again, err := g.unmask(ctx, c); err != nil || !again {
		return err
	}
	return g.weigh(ctx, c, u)
}

// crowded denies a blob that more images list than are asked, none of which lets it pass
// or runs. It is no 404, which sends a mirror's client to its next host, past the gate.
func (g *Gateway) crowded(c *claim) *Error {
	return &Error{Status: http.StatusForbidden, Code: codeDenied,
		Message: fmt.Sprintf("blocked by policy: over %d images of %s list %s, and the latest of them do not run; pull your image by its tag or digest again",
			g.Gate.Listers, c.repo, shortDigests(c.desc.Digest.String())),
		Detail: map[string]any{"cause": scan.CauseScanFailed}}
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
	config   bool    // an image was scanned with it as its config
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
		if err == nil && l.Config && !l.Artifact && (s.input.Scan.State == scan.Complete || s.input.Scan.State == scan.Partial) {
			t.config = true
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

// countLayer releases what is a layer and no config, though a manifest says so of it: some
// image that lists it among its layers is allowed, and was scanned completely, so that it
// was read as a file system; and none was scanned with it as its config. One bad manifest
// would else take a good image from everybody.
func (g *Gateway) countLayer(ctx context.Context, c *claim, ls []lister, t *tally) error {
	for _, l := range ls {
		m, err := g.listing(ctx, c.repo, l, t)
		if err != nil {
			return err
		}
		if m == nil {
			continue
		}
		s, err := g.stand(ctx, c.caller, c.repo, m, look)
		if err != nil {
			return err
		}
		if !s.pending() && !s.blocked() && s.runnable && s.input.Scan.State == scan.Complete && s.input.Scan.Cause == scan.CauseNone {
			t.released, t.size, t.warning = true, l.Size, s.warning()
			return nil
		}
	}
	return nil
}

// split parts the listers into the images whose decision releases the blob, the other
// images that list it, and artifacts, at most so many of each. more says that there are
// images besides.
func (c *claim) split(most int) (deciders, others, artifacts []lister, more bool) {
	for _, l := range c.listers {
		group := &deciders
		switch {
		case l.Artifact:
			group = &artifacts
		case c.config && !l.Config:
			group = &others
		}
		if len(*group) < most {
			*group = append(*group, l)
		} else if !l.Artifact {
			more = true
		}
	}
	return deciders, others, artifacts, more
}
