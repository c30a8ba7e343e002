package proxy

import (
	"bytes"
	"context"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
)

// serveManifest answers GET and HEAD of a manifest, by tag or digest, alike.
func (g *Gateway) serveManifest(w http.ResponseWriter, r *http.Request, caller auth.Caller, rt route) error {
	ctx := r.Context()
	d, err := g.resolve(ctx, rt)
	if err != nil {
		return err
	}
	m, err := g.fetchManifest(ctx, rt.repo, d)
	if err != nil {
		return err
	}
	u := high
	if r.Method == http.MethodHead {
		u = low
	}
	warning := ""
	if m.kind == kindIndex {
		err = g.passIndex(ctx, caller, rt.repo, m, u)
	} else {
		warning, err = g.passImage(ctx, caller, rt.repo, m, u)
	}
	if err != nil {
		return err
	}
	setWarning(w, warning)
	h := w.Header()
	h.Set("Content-Type", m.MediaType)
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("ETag", `"`+m.Digest.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.Body))
	return nil
}

// passImage returns nil when the manifest of an image or artifact may be served now:
// its image is allowed, or is still pending and its blobs will be held. It waits a
// little for the verdict, since a 403 here is what every client can show.
func (g *Gateway) passImage(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, u urgency) (warning string, err error) {
	s, err := g.stand(ctx, caller, repo, m, u)
	if err != nil {
		return "", err
	}
	if s.pending() {
		deadline := s.pull.started.Add(g.Gate.ManifestWait)
		if m.inline { // with its content inside the manifest, there is no blob to hold
			deadline = g.now().Add(g.Gate.HeaderWait)
		}
		if s, err = g.await(ctx, caller, s.pull, deadline); err != nil {
			return "", err
		}
	}
	if s.pending() && m.inline {
		if s, err = g.timedOut(ctx, caller, repo, m); err != nil {
			return "", err
		}
	}
	g.logDecision(caller, repo, m, s)
	if s.blocked() {
		return "", s.denial()
	}
	return s.warning(), nil
}

const maxIndexDepth = 4 // indexes within indexes

// passIndex returns nil when an index may be served. It passes while any runnable
// child that has a decision for the caller is allowed, or none has one. When all that
// have one are denied the index is denied too: a node that holds the image would else
// start it after a mere HEAD. Then the other children's pulls begin, so that a later
// try may find one that is allowed.
func (g *Gateway) passIndex(ctx context.Context, caller auth.Caller, repo Repo, index *manifest, u urgency) error {
	if _, killed := g.Policy.Killed(index.Digest.String()); killed {
		s, err := g.decide(ctx, caller, repo, index, unsupported())
		if err != nil {
			return err
		}
		return s.denial()
	}
	var t indexTally
	if err := g.countIndex(ctx, caller, repo, index, &t, 0); err != nil {
		return err
	}
	if t.denied == nil || t.allowed {
		return nil
	}
	for _, m := range t.undecided {
		if _, err := g.begin(caller, repo, m, true); err != nil {
			g.Log.Warn("pull of an index's child not begun", "repository", repo, "digest", m.Digest, "error", err)
		}
	}
	return t.denied
}

type indexTally struct {
	allowed   bool // a runnable child
	denied    *Error
	undecided []*manifest
}

// countIndex looks at the children that have been pulled before; it fetches none.
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
		case m == nil || m.kind == kindArtifact:
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
		t.undecided = append(t.undecided, m)
	case s.blocked():
		if t.denied == nil {
			t.denied = s.denial()
		}
	default:
		t.allowed = t.allowed || s.runnable
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
		w.Header().Set("Warning", value)
	}
}
