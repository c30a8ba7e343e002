package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// What the Store has of base images.
const (
	kindBase       cache.Kind = "base"       // repository, tag → baseRecord
	kindBaseLayers cache.Kind = "baselayers" // repository, digest, platform → baseLayers
)

const (
	baseRefresh = 10 * time.Minute // how old what is known of a base may be before it is asked for again
	basesAtOnce = 2                // bases asked for at once; others are asked for by the next decision
	maxVariants = 4                // images for one platform that an index is read for
)

// A baseRecord is what the tag of a base image pointed at when upstream was asked.
type baseRecord struct {
	Digest   digest.Digest   `json:"digest"`
	Children []digest.Digest `json:"children,omitempty"` // where that is an index
	At       time.Time       `json:"at"`
}

// has reports whether an image that names a base by d was built on what the tag points at.
func (r baseRecord) has(d string) bool {
	return r.Digest.String() == d || slices.Contains(r.Children, digest.Digest(d))
}

// baseLayers are the layers of a base's images for one platform: those of one image, or
// of the children of an index.
type baseLayers struct {
	Images [][]digest.Digest `json:"images"`
}

// below reports whether an image of these layers stands on one of the base's.
func (b baseLayers) below(layers []ocispec.Descriptor) bool {
	return slices.ContainsFunc(b.Images, func(base []digest.Digest) bool {
		return len(base) > 0 && len(base) <= len(layers) &&
			slices.EqualFunc(base, layers[:len(base)], func(d digest.Digest, l ocispec.Descriptor) bool { return d == l.Digest })
	})
}

// addBase tells of the image's base what its tag points at now, and whether the image has
// its layers, where a policy refers to that and the base's registry is one of the
// gateway's. What is not known yet, or is older than a tag may be, is left out, and asked
// for meanwhile: no pull waits for it.
func (g *Gateway) addBase(ctx context.Context, p *policy.Engine, in *policy.Input, m *manifest) error {
	if in.Image.Base == nil {
		return nil
	}
	b := *in.Image.Base // which is shared
	base, tag, ok := g.baseOf(b.Name)
	if !ok {
		return nil
	}
	if p.Needs(policy.NeedBaseOutdated) || p.Needs(policy.NeedBaseLatest) {
		if err := g.addLatest(ctx, &b, base, tag); err != nil {
			return err
		}
	}
	if p.Needs(policy.NeedBaseVerified) {
		if err := g.addVerified(ctx, &b, base, in.Image.Platform, m.layers); err != nil {
			return err
		}
	}
	in.Image.Base = &b
	return nil
}

func (g *Gateway) addLatest(ctx context.Context, b *policy.Base, base Repo, tag string) error {
	rec, known, err := g.baseRecord(ctx, base, tag)
	if err != nil {
		return err
	}
	age := g.now().Sub(rec.At)
	if !known || age >= baseRefresh {
		g.inquire(base.String()+":"+tag, func(ctx context.Context) error { return g.refreshBase(ctx, base, tag) })
	}
	if !known || age >= g.Gate.StaleTags {
		return nil
	}
	b.LatestDigest = rec.Digest.String()
	if b.Digest != "" {
		outdated := !rec.has(b.Digest)
		b.Outdated = &outdated
	}
	return nil
}

func (g *Gateway) addVerified(ctx context.Context, b *policy.Base, base Repo, platform string, layers []ocispec.Descriptor) error {
	d, err := parseDigest(b.Digest)
	if err != nil || len(platform) > maxPlatform {
		return nil
	}
	key := cache.Name(kindBaseLayers, base.String(), d.String(), platform)
	raw, err := g.Store.Get(ctx, key)
	if errors.Is(err, cache.ErrNotExist) {
		g.inquire(base.String()+"@"+d.String()+" "+platform, func(ctx context.Context) error { return g.learnBase(ctx, key, base, d, platform) })
		return nil
	}
	if err != nil {
		return err
	}
	var known baseLayers
	if err := json.Unmarshal(raw, &known); err != nil {
		g.damaged(key, err)
		return nil
	}
	verified := known.below(layers)
	b.Verified = &verified
	return nil
}

// maxPlatform bounds an image's platform, in bytes: it is part of a key.
const maxPlatform = 100

// expectBase asks for the base of an image on its way, so that it may be known when the
// image is decided.
func (g *Gateway) expectBase(ctx context.Context, repo Repo, m *manifest) {
	img, err := g.claims(ctx, m)
	if err == nil {
		err = g.addBase(ctx, g.policy(repo), &policy.Input{Image: img}, m)
	}
	if err != nil {
		g.Log.Debug("a base image is not asked for", "error", err)
	}
}

// baseOf returns what a base image's name stands for. It is false where the gateway has
// no such upstream, or may not read the repository.
func (g *Gateway) baseOf(name string) (repo Repo, tag string, ok bool) {
	name, _, _ = strings.Cut(name, "@")
	host, path, ok := strings.Cut(name, "/")
	if !ok || g.upstream(host) == nil {
		return repo, "", false
	}
	path, tag, tagged := strings.Cut(path, ":")
	if !tagged {
		tag = "latest"
	}
	repo, err := g.repo(path, host)
	return repo, tag, err == nil && tagForm.MatchString(tag)
}

func baseKey(repo Repo, tag string) cache.Key { return cache.Name(kindBase, repo.String(), tag) }

func (g *Gateway) baseRecord(ctx context.Context, repo Repo, tag string) (rec baseRecord, known bool, err error) {
	b, err := g.Store.Get(ctx, baseKey(repo, tag))
	if errors.Is(err, cache.ErrNotExist) {
		return rec, false, nil
	}
	if err != nil {
		return rec, false, err
	}
	if err = json.Unmarshal(b, &rec); err == nil {
		err = rec.Digest.Validate()
	}
	if err != nil {
		g.damaged(baseKey(repo, tag), err)
		return baseRecord{}, false, nil
	}
	return rec, true, nil
}

// inquire asks upstream about a base image in the background, unless that was done lately
// or others are being asked for: images say themselves what their base is.
func (g *Gateway) inquire(what string, ask func(context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.asking >= basesAtOnce || g.noted.fresh("base "+what, g.now(), g.Gate.RetryAfter) {
		return
	}
	g.asking++
	g.running.Go(func() {
		ctx, cancel := context.WithTimeout(g.ctx, g.Gate.UpstreamTimeout)
		defer cancel()
		if err := ask(ctx); err != nil {
			g.Log.Info("nothing can be told of a base image", "base", what, "error", err)
		}
		g.mu.Lock()
		g.asking--
		g.mu.Unlock()
	})
}

func (g *Gateway) refreshBase(ctx context.Context, repo Repo, tag string) error {
	desc, err := g.upstream(repo.Upstream).Registry.Resolve(ctx, repo.Name, tag)
	if upstream.NotFound(err) { // what it was is no longer the latest of anything
		return errors.Join(err, g.Store.Delete(ctx, baseKey(repo, tag)))
	}
	if err != nil {
		return err
	}
	rec, known, err := g.baseRecord(ctx, repo, tag)
	if err != nil {
		return err
	}
	if !known || rec.Digest != desc.Digest {
		m, err := g.readManifest(ctx, repo, desc.Digest)
		if err != nil {
			return err
		}
		rec = baseRecord{Digest: desc.Digest}
		for _, child := range m.children {
			rec.Children = append(rec.Children, child.Digest)
		}
	}
	rec.At = g.now()
	return g.putBase(ctx, baseKey(repo, tag), rec, g.Gate.StaleTags+time.Minute)
}

// learnBase reads the layers of a base's images for a platform. They are the digest's for
// ever.
func (g *Gateway) learnBase(ctx context.Context, key cache.Key, repo Repo, d digest.Digest, platform string) error {
	m, err := g.readManifest(ctx, repo, d)
	if err != nil {
		return err
	}
	images := []*manifest{m}
	if m.kind == kindIndex {
		images = nil
		for _, child := range m.children {
			if child.Platform == nil || policy.Platform(*child.Platform) != platform || len(images) == maxVariants {
				continue
			}
			c, err := g.readManifest(ctx, repo, child.Digest)
			if err != nil {
				return err
			}
			images = append(images, c)
		}
	}
	rec := baseLayers{Images: [][]digest.Digest{}}
	for _, image := range images {
		var layers []digest.Digest
		for _, l := range image.layers {
			layers = append(layers, l.Digest)
		}
		rec.Images = append(rec.Images, layers)
	}
	return g.putBase(ctx, key, rec, g.Gate.RelationTTL)
}

// readManifest reads a manifest that nobody is served, so that nothing is remembered of
// what it lists.
func (g *Gateway) readManifest(ctx context.Context, repo Repo, d digest.Digest) (*manifest, error) {
	got, err := g.upstream(repo.Upstream).Registry.Manifest(ctx, repo.Name, d.String())
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(got.MediaType, d, got.Body)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return m, nil
}

func (g *Gateway) putBase(ctx context.Context, key cache.Key, rec any, ttl time.Duration) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return g.Store.Put(ctx, key, b, ttl)
}
