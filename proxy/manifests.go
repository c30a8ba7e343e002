package proxy

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// serveManifest answers GET and HEAD of a manifest, by tag or digest, alike, and whatever
// the request accepts: a digest stands for one representation, so that there is nothing
// to choose from, and RFC 9110 section 12.5.1 lets a server disregard Accept then. A 404,
// as distribution gives, or a 406 would send a mirror's client to its next host, past the
// gate. Upstream is asked for every type, since some registries choose by it.
func (g *Gateway) serveManifest(w http.ResponseWriter, r *http.Request, caller auth.Caller, rt route) error {
	start := g.now()
	ctx, cancel := g.beforeHeaders(r.Context(), start)
	defer cancel()
	u := high
	if r.Method == http.MethodHead {
		u = low
		rt.place = &place{heads: &g.heads, asker: caller.Name + " " + remoteHost(r)}
	}
	m, stale, err := g.findManifest(ctx, rt)
	if err != nil {
		return err
	}
	var p passage
	if m.kind == kindIndex {
		p, err = g.passIndex(ctx, caller, rt.repo, m)
	} else {
		p, err = g.passImage(ctx, caller, rt.repo, m, u, start)
	}
	if err != nil {
		return err
	}
	if !p.decided {
		r.Header.Del("If-None-Match") // a 304 would vouch for what the client holds
	}
	setWarning(w, stale)
	setWarning(w, p.warning)
	h := w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("ETag", `"`+m.Digest.String()+`"`)
	serveContent(w, r, bytes.NewReader(m.Body))
	return nil
}

// headerGrace is what answering may take once there is nothing left to wait for: reading
// the Store, and asking policy, which may need a second.
const headerGrace = 2 * time.Second

// beforeHeaders bounds the sum of all that a request which came at start waits for
// before its headers.
func (g *Gateway) beforeHeaders(ctx context.Context, start time.Time) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, g.latest(start).Add(headerGrace).Sub(g.now()))
}

// latest is how long a request which came at start may wait for anything at all.
func (g *Gateway) latest(start time.Time) time.Time {
	return start.Add(max(g.Gate.HeaderWait, g.Gate.UpstreamTimeout))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// findManifest returns what rt asks for, within the time that clients wait for headers,
// and what to tell the client where its tag is served from memory.
func (g *Gateway) findManifest(ctx context.Context, rt route) (m *manifest, warning string, err error) {
	ctx, cancel := context.WithTimeout(ctx, g.Gate.UpstreamTimeout)
	defer cancel()
	defer rt.place.leave()
	d, warning, err := g.resolve(ctx, rt)
	if err != nil {
		return nil, "", err
	}
	if rt.place != nil { // which what is known doesn't need
		if m, err = g.usedManifest(ctx, rt.repo, d); m != nil || err != nil {
			return m, warning, err
		}
		if _, err = rt.place.take(ctx, g.Gate.UpstreamTimeout/2); err != nil {
			return nil, "", err
		}
	}
	m, err = g.fetchManifest(ctx, rt.repo, d)
	return m, warning, err
}

// A passage is leave to serve a manifest.
type passage struct {
	decided bool // on a decision, and not because there is none yet
	warning string
}

// passImage returns no error when the manifest of an image or artifact may be served now:
// its image is allowed, or is still pending and its blobs will be held. It waits a
// little for the verdict, since a 403 here is what every client can show, and so is a
// warning in a mode that only warns. start is when the request came.
func (g *Gateway) passImage(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, u urgency, start time.Time) (passage, error) {
	s, err := g.stand(ctx, caller, repo, m, u)
	var full error
	if u == low && errors.Is(err, errQueueFull) { // most clients begin with a HEAD, and the GET that follows may find a place
		full = err
		s, err = g.stand(ctx, caller, repo, m, look)
	}
	if err != nil {
		return passage{}, err
	}
	whole := m.inline // with its content inside the manifest, or had by other manifests, there is no blob to hold
	if s.pending() && !whole {
		if whole, err = g.laidBare(ctx, caller, repo, m); err != nil {
			return passage{}, err
		}
	}
	if full != nil && s.pull == notBegun {
		if whole { // there is nothing to hold but the answer
			return passage{}, full
		}
		g.logDecision(caller, repo, m, s)
		return passage{}, nil
	}
	if p := s.awaited(); p != nil {
		deadline := p.started.Add(g.Gate.ManifestWait)
		if whole && s.pending() {
			deadline = start.Add(g.Gate.HeaderWait)
		}
		later, err := g.await(ctx, caller, p, earlier(deadline, g.latest(start)))
		if err != nil {
			return passage{}, err
		}
		if s.pending() || !later.pending() {
			s = later
		}
	}
	if s.pending() && (whole || s.pull.overdue(g.now(), g.Gate.HoldCap)) {
		if s, err = g.timedOut(ctx, caller, repo, m); err != nil {
			return passage{}, err
		}
	}
	g.logDecision(caller, repo, m, s)
	g.notePulled(ctx, caller, repo, m)
	if s.blocked() {
		return passage{}, s.denial()
	}
	return passage{decided: s.decision.ID != "", warning: s.warning()}, nil
}

// laidBare reports whether the manifest of m is all that is left to hold back: a caller
// may have its config by what nothing runs, or every blob by other manifests that list it.
func (g *Gateway) laidBare(ctx context.Context, caller auth.Caller, repo Repo, m *manifest) (bool, error) {
	for i, d := range m.descriptors() {
		known, err := g.nameKnown(ctx, repo, d, i == 0)
		if err != nil {
			return false, err
		}
		if !known { // it may have been had by the other
			if i == 0 {
				return true, nil
			}
			continue
		}
		ls, _, err := g.listersOf(ctx, repo, d.Digest)
		if err != nil {
			return false, err
		}
		ls = slices.DeleteFunc(ls, func(l lister) bool { return l.Manifest == m.Digest })
		if len(ls) == 0 {
			return false, nil
		}
		if slices.ContainsFunc(ls, func(l lister) bool { return l.Artifact }) { // it may have been had before any image that lists it was met
			if i == 0 && d.Digest != ocispec.DescriptorEmptyJSON.Digest { // which everybody has
				return true, nil // layers may yet come by other images, the config alone is this one's
			}
			continue
		}
		c := newClaim(caller, repo, d.Digest, ls)
		err = g.weigh(ctx, c, look)
		if e := (*Error)(nil); errors.As(err, &e) && e.Status < http.StatusInternalServerError || c.pending() {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if i == 0 && c.inert {
			return true, nil
		}
	}
	return true, nil
}

const maxIndexDepth = 4 // indexes within indexes

// passIndex returns no error when an index may be served. It passes while any runnable
// child that has a decision for the caller is allowed, or none has one. When all that
// have one are denied the index is denied too: a node that holds the image would else
// start it after a mere HEAD. Then the other children's pulls begin, so that a later
// try may find one that is allowed.
func (g *Gateway) passIndex(ctx context.Context, caller auth.Caller, repo Repo, index *manifest) (passage, error) {
	parents, err := g.parents(ctx, repo, index.Digest)
	if err != nil {
		return passage{}, storeDown(err)
	}
	if _, killed := g.policy(repo).Killed(append(parents, index.names...)...); killed {
		s, err := g.decide(ctx, caller, repo, index, unsupported())
		if err != nil {
			return passage{}, err
		}
		return passage{}, s.denial()
	}
	t := indexTally{seen: map[digest.Digest]bool{}}
	if err := g.countIndex(ctx, caller, repo, index, &t, 0); err != nil {
		return passage{}, err
	}
	g.beginChildren(caller, repo, t.waiting)
	if t.denied == nil || t.allowed {
		return passage{decided: t.allowed}, nil
	}
	g.beginChildren(caller, repo, t.undecided)
	return passage{}, t.denied
}

// maxBegunChildren bounds the pulls that one denied index begins: more platforms than
// images are built for.
const maxBegunChildren = 16

// beginChildren begins the pulls of an index's children, in the background since their
// manifests may have to be fetched.
func (g *Gateway) beginChildren(caller auth.Caller, repo Repo, children []digest.Digest) {
	children = slices.DeleteFunc(children, func(d digest.Digest) bool {
		return g.noted.fresh("child "+repo.String()+"@"+d.String(), g.now(), g.Gate.RetryAfter)
	})
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(children) == 0 {
		return
	}
	g.running.Go(func() {
		for _, d := range children[:min(len(children), maxBegunChildren)] {
			m, err := g.fetchManifest(g.ctx, repo, d)
			if err == nil && m.kind == kindImage {
				_, err = g.begin(g.ctx, caller, repo, m, true)
			}
			if err != nil {
				g.Log.Warn("pull of an index's child not begun", "repository", repo, "digest", d, "error", err)
			}
		}
	})
}

type indexTally struct {
	allowed   bool // a runnable child
	denied    *Error
	undecided []digest.Digest
	waiting   []digest.Digest // for a new match: it costs upstream nothing, and who holds the image asks for the index alone
	seen      map[digest.Digest]bool
}

// countIndex looks at the children that have been pulled before; it fetches none. A
// child that no runtime would run counts for nothing, whatever is decided on it.
func (g *Gateway) countIndex(ctx context.Context, caller auth.Caller, repo Repo, index *manifest, t *indexTally, depth int) error {
	if depth >= maxIndexDepth {
		if t.denied == nil {
			t.denied = refuse("its indexes are nested too deeply")
		}
		return nil
	}
	for _, c := range index.children {
		if t.seen[c.Digest] {
			continue
		}
		if len(t.seen) == maxChildren { // in indexes within indexes; what is left may be anything
			t.undecided = append(t.undecided, c.Digest)
			return nil
		}
		t.seen[c.Digest] = true
		m, err := g.usedManifest(ctx, repo, c.Digest) // by its index, which is all that some nodes ask for
		if err != nil {
			return err
		}
		switch {
		case m == nil:
			t.undecided = append(t.undecided, c.Digest)
		case m.kind == kindArtifact:
		case m.kind == kindIndex:
			err = g.countIndex(ctx, caller, repo, m, t, depth+1)
		default:
			err = g.countChild(ctx, caller, repo, m, t)
		}
		if err != nil || t.allowed {
			return err
		}
	}
	return nil
}

func (g *Gateway) countChild(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, t *indexTally) error {
	s, err := g.stand(ctx, caller, repo, m, look)
	if err != nil {
		return err
	}
	if (s.pending() || s.input.Scan.State == scan.Pending || s.decision.ID == "") && g.Scanner.Catalogued(ctx, m.Digest) {
		t.waiting = append(t.waiting, m.Digest)
	}
	switch {
	case s.pending():
		t.undecided = append(t.undecided, m.Digest)
	case !s.runnable:
	case s.blocked():
		if t.denied == nil {
			t.denied = s.denial()
		}
	default:
		t.allowed = true
	}
	return nil
}

// knownManifest returns a manifest that was pulled through this gateway, or nil.
func (g *Gateway) knownManifest(ctx context.Context, repo Repo, d digest.Digest) (*manifest, error) {
	m, _, err := g.storedManifest(ctx, repo, d)
	if isMiss(err) {
		return nil, nil
	}
	if err != nil {
		return nil, storeDown(err)
	}
	return m, nil
}

// usedManifest is knownManifest for who uses it: then it is remembered for longer.
func (g *Gateway) usedManifest(ctx context.Context, repo Repo, d digest.Digest) (*manifest, error) {
	m, fresh, err := g.storedManifest(ctx, repo, d)
	if isMiss(err) {
		return nil, nil
	}
	if err == nil && !(fresh && g.related(ctx, repo, m)) {
		err = g.remember(ctx, repo, m)
	}
	if err != nil {
		return nil, storeDown(err)
	}
	return m, nil
}

// warning is what a client is told with an image that is served all the same.
func (s standing) warning() string {
	if s.pull != nil || s.decision.ID == "" {
		return ""
	}
	return policy.Warnings(s.decision)
}

// setWarning adds a Warning header (distribution specification, "Warnings").
func setWarning(w http.ResponseWriter, value string) {
	if value != "" {
		w.Header().Add("Warning", value)
	}
}
