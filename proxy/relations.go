package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
)

// What the gateway remembers of manifests. All of it is in the Store, so that it
// survives a restart and is shared by replicas.
const (
	kindManifest cache.Kind = "manifest" // digest → media type and exact bytes
	kindConfig   cache.Kind = "config"   // digest → config blob of an image, verified
	kindServed   cache.Kind = "served"   // repository, digest → when its relations were last written
	kindListing  cache.Kind = "listing"  // repository, blob → manifests that list it
	kindParents  cache.Kind = "parents"  // repository, digest → indexes that list it
	kindTag      cache.Kind = "tag"      // repository, tag → digest
	kindHistory  cache.Kind = "history"  // repository, digest → first seen, tags, last allowed
	kindLast     cache.Kind = "last"     // repository, digest, caller → how it was last decided
)

// relationRefresh is how stale the written relations of a manifest may be before
// they are written again: often enough against a life of 30 days, and rare enough
// that a warm pull writes nothing.
const relationRefresh = 24 * time.Hour

// A lister is a manifest that lists a blob, and as what.
type lister struct {
	Manifest digest.Digest `json:"-"`
	Config   bool          `json:"config,omitempty"` // as its config, else as a layer
	Layer    bool          `json:"layer,omitempty"`
	Artifact bool          `json:"artifact,omitempty"` // the manifest is nothing that a runtime would run
	Size     int64         `json:"size"`               // as declared there
	At       time.Time     `json:"at"`                 // when this was last written
}

// remember writes down a manifest and every relation that it makes. It returns only
// when all of them are stored: before that nothing of the manifest may be served.
func (g *Gateway) remember(ctx context.Context, repo Repo, m *manifest) error {
	now := g.now()
	served := cache.Name(kindServed, repo.String(), m.Digest.String())
	if b, err := g.Store.Get(ctx, served); err == nil {
		var at time.Time
		if at.UnmarshalText(b) == nil && now.Sub(at) < relationRefresh {
			return nil
		}
	} else if !errors.Is(err, cache.ErrNotExist) {
		return err
	}
	if err := g.Store.Put(ctx, cache.Name(kindManifest, m.Digest.String()), encodeManifest(m), g.Gate.RelationTTL); err != nil {
		return err
	}
	for d, l := range listers(m, now) {
		if err := g.putJSON(ctx, cache.Name(kindListing, repo.String(), d.String()), m.Digest.String(), l); err != nil {
			return err
		}
	}
	for _, c := range m.children {
		if err := g.putJSON(ctx, cache.Name(kindParents, repo.String(), c.Digest.String()), m.Digest.String(), now); err != nil {
			return err
		}
	}
	if err := g.keepConfig(ctx, m); err != nil {
		return err
	}
	history := cache.Name(kindHistory, repo.String(), m.Digest.String())
	if f, err := g.Store.Fields(ctx, history); err != nil {
		return err
	} else if f[fieldFirstSeen] == nil {
		if err := g.putJSON(ctx, history, fieldFirstSeen, now); err != nil {
			return err
		}
	}
	b, err := now.MarshalText()
	if err != nil {
		return err
	}
	return g.Store.Put(ctx, served, b, g.Gate.RelationTTL)
}

// keepConfig keeps an image's config in the Store for as long as its manifest: what it
// claims is part of every decision, and only a scan fetches it.
func (g *Gateway) keepConfig(ctx context.Context, m *manifest) error {
	if m.kind == kindIndex {
		return nil
	}
	key := cache.Name(kindConfig, m.config.Digest.String())
	b, err := g.Store.Get(ctx, key)
	if isMiss(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return g.Store.Put(ctx, key, b, g.Gate.RelationTTL)
}

// listers returns what m says of each blob that it lists.
func listers(m *manifest, now time.Time) map[digest.Digest]lister {
	ls := map[digest.Digest]lister{}
	for i, d := range m.descriptors() {
		l, again := ls[d.Digest]
		if !again || d.Size < l.Size { // the smaller claim gives the lower floor
			l.Size = d.Size
		}
		l.Config = l.Config || i == 0
		l.Layer = l.Layer || i > 0
		l.Artifact, l.At = m.kind == kindArtifact, now
		ls[d.Digest] = l
	}
	return ls
}

// listersOf returns the manifests of repo that list a blob, most recent first. None
// means that the blob does not exist as far as this repository's callers go.
func (g *Gateway) listersOf(ctx context.Context, repo Repo, blob digest.Digest) ([]lister, error) {
	key := cache.Name(kindListing, repo.String(), blob.String())
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return nil, storeDown(err)
	}
	var ls []lister
	for d, b := range fields {
		var l lister
		if err := json.Unmarshal(b, &l); err != nil {
			return nil, storeDown(fmt.Errorf("relation of %s and %s: %w", blob, d, err))
		}
		if g.now().Sub(l.At) > g.Gate.RelationTTL+relationRefresh { // the map lives on with other manifests' use
			if err := g.Store.DeleteField(ctx, key, d); err != nil {
				return nil, storeDown(err)
			}
			continue
		}
		l.Manifest = digest.Digest(d)
		ls = append(ls, l)
	}
	slices.SortFunc(ls, func(a, b lister) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return cmpDigest(a.Manifest, b.Manifest)
	})
	return ls, nil
}

// parents returns the indexes of repo that list the manifest d, and those that list
// these.
func (g *Gateway) parents(ctx context.Context, repo Repo, d digest.Digest) ([]string, error) {
	found := map[string]bool{}
	level := []string{d.String()}
	for depth := 0; depth < maxIndexDepth && len(level) > 0; depth++ {
		var above []string
		for _, d := range level {
			fields, err := g.Store.Fields(ctx, cache.Name(kindParents, repo.String(), d))
			if err != nil {
				return nil, err
			}
			for p := range fields {
				if !found[p] {
					found[p] = true
					above = append(above, p)
				}
			}
		}
		level = above
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// storedManifest returns a manifest that was remembered for this repository, or an
// error that wraps cache.ErrNotExist. That another repository has it says nothing.
func (g *Gateway) storedManifest(ctx context.Context, repo Repo, d digest.Digest) (*manifest, error) {
	if _, err := g.Store.Get(ctx, cache.Name(kindServed, repo.String(), d.String())); err != nil {
		return nil, err
	}
	if m := g.parsed.get(d); m != nil {
		return m, nil
	}
	b, err := g.Store.Get(ctx, cache.Name(kindManifest, d.String()))
	if err != nil {
		return nil, err
	}
	m, err := decodeManifest(d, b)
	if err != nil {
		return nil, err
	}
	g.parsed.put(m)
	return m, nil
}

// A stored manifest is its media type, a newline, and its exact bytes.
func encodeManifest(m *manifest) []byte {
	return append([]byte(m.MediaType+"\n"), m.Body...)
}

func decodeManifest(d digest.Digest, b []byte) (*manifest, error) {
	i := slices.Index(b, '\n')
	if i < 0 || d.Algorithm().FromBytes(b[i+1:]) != d {
		return nil, fmt.Errorf("stored manifest %s is damaged", d)
	}
	return parseManifest(string(b[:i]), d, b[i+1:])
}

func (g *Gateway) putJSON(ctx context.Context, k cache.Key, field string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return g.Store.PutField(ctx, k, field, b, g.Gate.RelationTTL)
}
