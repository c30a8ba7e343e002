package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// A tagRecord is where a tag pointed when upstream was last asked.
type tagRecord struct {
	Digest digest.Digest `json:"digest,omitempty"` // empty: upstream said 404
	At     time.Time     `json:"at"`
}

// resolve turns the reference of a request into a digest. A tag is asked for
// upstream by HEAD once its TTL has passed; what is remembered serves longer only
// while upstream can't be read (network, 5xx, 429): a tag that upstream says is
// gone or refused is not served from memory. warning is what to tell the client then.
func (g *Gateway) resolve(ctx context.Context, rt route) (d digest.Digest, warning string, err error) {
	if rt.digest != "" {
		return rt.digest, "", nil
	}
	key := cache.Name(kindTag, rt.repo.String(), rt.reference)
	rec, known, err := g.tag(ctx, key)
	if err != nil {
		return "", "", storeDown(err)
	}
	age := g.now().Sub(rec.At)
	if known && rec.Digest != "" && age < g.tagTTL(rt.repo) {
		return rec.Digest, "", nil
	}
	if known && rec.Digest == "" && age < g.Gate.NegativeTTL {
		return "", "", unknownManifest(rt, nil)
	}
	stale := known && rec.Digest != "" && age < g.Gate.StaleTags
	if stale && g.silent(rt.repo.Upstream) {
		return rec.Digest, g.staleTag(rt, age, nil), nil
	}
	patience := g.Gate.UpstreamTimeout / 2
	if stale {
		patience = min(patience, headPatience)
	}
	waited, err := rt.place.take(ctx, patience)
	switch {
	case err != nil && stale:
		return rec.Digest, fmt.Sprintf(`299 - "this gateway answers too many HEAD requests to ask for this tag: this is what it was %v ago"`, age.Round(time.Second)), nil
	case err != nil:
		return "", "", err
	case waited: // it may have been asked for meanwhile
		return g.resolve(ctx, rt)
	}
	limited, cancel := context.WithTimeout(ctx, g.Gate.UpstreamTimeout/2) // and the rest for the manifest
	defer cancel()
	got, err := g.flight(limited, "resolve "+key.String(), func(ctx context.Context) (any, error) {
		return g.resolveUpstream(ctx, rt, key)
	})
	if ctx.Err() == nil { // else it was the client who had enough
		g.noteSilence(rt.repo.Upstream, err != nil && limited.Err() != nil)
	}
	if err == nil {
		return got.(digest.Digest), "", nil
	}
	if stale && upstream.Unavailable(err) {
		return rec.Digest, g.staleTag(rt, age, err), nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return "", "", e
	}
	return "", "", fromUpstream(err, rt.repo.String()+":"+rt.reference, codeManifestUnknown)
}

// flight does what many ask for at a time once for all. It goes on when those who wait
// leave, or their time is up, for at most UpstreamTimeout: what comes of it is remembered.
func (g *Gateway) flight(ctx context.Context, key string, do func(context.Context) (any, error)) (any, error) {
	defer accountOf(ctx).asked(time.Now())
	flying := g.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.Gate.UpstreamTimeout)
		defer cancel()
		return do(ctx)
	})
	select {
	case r := <-flying:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *Gateway) resolveUpstream(ctx context.Context, rt route, key cache.Key) (digest.Digest, error) {
	desc, err := g.upstream(rt.repo.Upstream).Registry.Resolve(ctx, rt.repo.Name, rt.reference)
	if err == nil || upstream.NotFound(err) {
		if err := g.moveTag(ctx, rt, key, desc.Digest); err != nil {
			return "", storeDown(err)
		}
	}
	if upstream.NotFound(err) {
		if err := g.putTag(ctx, rt.repo, key, tagRecord{At: g.now()}); err != nil {
			return "", storeDown(err)
		}
	}
	if err != nil {
		return "", err
	}
	if err := g.putTag(ctx, rt.repo, key, tagRecord{Digest: desc.Digest, At: g.now()}); err != nil {
		return "", storeDown(err)
	}
	if err := g.noteTag(ctx, rt.repo, desc.Digest, rt.reference); err != nil {
		return "", storeDown(err)
	}
	return desc.Digest, nil
}

func (g *Gateway) tag(ctx context.Context, key cache.Key) (rec tagRecord, known bool, err error) {
	b, err := g.Store.Get(ctx, key)
	if errors.Is(err, cache.ErrNotExist) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, err
	}
	if err := rec.decode(b); err != nil {
		g.damaged(key, err)
		return tagRecord{}, false, nil
	}
	return rec, true, nil
}

func (g *Gateway) putTag(ctx context.Context, repo Repo, key cache.Key, rec tagRecord) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if rec.Digest != "" {
		// Longer than it serves: when the tag moves, what it pointed at must be known.
		return g.Store.Put(ctx, key, b, max(g.Gate.RelationTTL, g.Gate.StaleTags, g.tagTTL(repo))+time.Minute)
	}
	if g.Gate.NegativeTTL <= 0 {
		return g.Store.Delete(ctx, key)
	}
	return g.Store.Put(ctx, key, b, g.Gate.NegativeTTL) // no longer: anybody can ask for any tag
}

func unknownManifest(rt route, cause error) *Error {
	return &Error{Status: 404, Code: codeManifestUnknown, Message: rt.repo.String() + ":" + rt.reference + " is not known to the upstream registry", cause: cause}
}

// fetchManifest returns a manifest by digest: as remembered for the repository, else
// from upstream, verified, and remembered with all its relations before it returns.
func (g *Gateway) fetchManifest(ctx context.Context, repo Repo, d digest.Digest) (*manifest, error) {
	m, err := g.usedManifest(ctx, repo, d)
	if m != nil || err != nil {
		return m, err
	}
	v, err := g.flight(ctx, "manifest "+repo.String()+"@"+d.String(), func(ctx context.Context) (any, error) {
		return g.fetchManifestUpstream(ctx, repo, d)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fromUpstream(err, repo.String()+"@"+d.String(), codeManifestUnknown)
	}
	if err != nil {
		return nil, err
	}
	return v.(*manifest), nil
}

func (g *Gateway) fetchManifestUpstream(ctx context.Context, repo Repo, d digest.Digest) (*manifest, error) {
	got, err := g.upstream(repo.Upstream).Registry.Manifest(ctx, repo.Name, d.String())
	if err != nil {
		return nil, fromUpstream(err, repo.String()+"@"+d.String(), codeManifestUnknown)
	}
	m, err := parseManifest(got.MediaType, d, got.Body)
	if err != nil {
		return nil, err
	}
	if err := g.remember(ctx, repo, m); err != nil {
		return nil, storeDown(err)
	}
	return m, nil
}
