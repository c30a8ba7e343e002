package proxy

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
)

// serveManifest answers GET and HEAD of a manifest, by tag or digest, alike.
func (g *Gateway) serveManifest(w http.ResponseWriter, r *http.Request, caller auth.Caller, rt route) error {
	ctx := r.Context()
	m, err := g.findManifest(ctx, rt)
	if err != nil {
		return err
	}
	u := high
	if r.Method == http.MethodHead {
		u = low
	}
	var p passage
	if m.kind == kindIndex {
		p, err = g.passIndex(ctx, caller, rt.repo, m)
	} else {
		p, err = g.passImage(ctx, caller, rt.repo, m, u)
	}
	if err != nil {
		return err
	}
	if !p.decided {
		r.Header.Del("If-None-Match") // a 304 would vouch for what the client holds
	}
	setWarning(w, p.warning)
	h := w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("ETag", `"`+m.Digest.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.Body))
	return nil
}

// findManifest returns what rt asks for, within the time that clients wait for headers.
func (g *Gateway) findManifest(ctx context.Context, rt route) (*manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, g.Gate.UpstreamTimeout)
	defer cancel()
	d, err := g.resolve(ctx, rt)
	if err != nil {
		return nil, err
	}
	return g.fetchManifest(ctx, rt.repo, d)
}

// A passage is leave to serve a manifest.
type passage struct {
	decided bool // on a decision, and not because there is none yet
	warning string
}

// passImage returns no error when the manifest of an image or artifact may be served now:
// its image is allowed, or is still pending and its blobs will be held. It waits a
// little for the verdict, since a 403 here is what every client can show.
func (g *Gateway) passImage(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, u urgency) (passage, error) {
	s, err := g.stand(ctx, caller, repo, m, u)
	if err != nil {
		return passage{}, err
	}
	if s.pending() {
		deadline := s.pull.started.Add(g.Gate.ManifestWait)
		if m.inline { // with its content inside the manifest, there is no blob to hold
			deadline = g.now().Add(g.Gate.HeaderWait)
		}
		if s, err = g.await(ctx, caller, s.pull, deadline); err != nil {
			return passage{}, err
		}
	}
	if s.pending() && (m.inline || s.pull.overdue(g.now(), g.Gate.HoldCap)) {
		if s, err = g.timedOut(ctx, caller, repo, m); err != nil {
			return passage{}, err
		}
	}
	g.logDecision(caller, repo, m, s)
	if s.blocked() {
		return passage{}, s.denial()
	}
	return passage{decided: s.decision.ID != "", warning: s.warning()}, nil
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
	if _, killed := g.Policy.Killed(append(parents, index.Digest.String())...); killed {
		s, err := g.decide(ctx, caller, repo, index, unsupported())
		if err != nil {
			return passage{}, err
		}
		return passage{}, s.denial()
	}
	var t indexTally
	if err := g.countIndex(ctx, caller, repo, index, &t, 0); err != nil {
		return passage{}, err
	}
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
				_, err = g.begin(caller, repo, m, true)
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
}

// countIndex looks at the children that have been pulled before; it fetches none. A
// child that no runtime would run counts for nothing, whatever is decided on it.
func (g *Gateway) countIndex(ctx context.Context, caller auth.Caller, repo Repo, index *manifest, t *indexTally, depth int) error {
	if depth >= maxIndexDepth {
		return nil
	}
	for _, c := range index.children {
		m, err := g.knownManifest(ctx, repo, c.Digest)
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
	switch {
	case err != nil:
		return err
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
	m, err := g.storedManifest(ctx, repo, d)
	if isMiss(err) {
		return nil, nil
	}
	if err != nil {
		return nil, storeError(err)
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
		w.Header().Set("Warning", value)
	}
}
