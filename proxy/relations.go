package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/sluicegate/sluice/cache"
)

// What the gateway remembers of manifests. All of it is in the Store, so that it
// survives a restart and is shared by replicas.
const (
	kindManifest cache.Kind = "manifest" // digest → media type and exact bytes
	kindConfig   cache.Kind = "config"   // digest → config blob of an image, verified
	kindServed   cache.Kind = "served"   // repository, digest → when its relations were last written
	kindListing  cache.Kind = "listing"  // repository, blob → manifests that list it, and its other digest
	kindVouched  cache.Kind = "vouched"  // repository, blob → upstream has it there
	kindParents  cache.Kind = "parents"  // repository, digest → indexes that list it
	kindMixed    cache.Kind = "mixed"    // repository → images there list blobs by sha512
	kindMissed   cache.Kind = "missed"   // digest, database → when its verdict was first missed
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
// when all of them are stored: before that nothing of the manifest may be served. They
// are written side by side, since a Store takes many writes in the time of one.
func (g *Gateway) remember(ctx context.Context, repo Repo, m *manifest) error {
	now := g.now()
	served := cache.Name(kindServed, repo.String(), m.Digest.String())
	writes, wctx := errgroup.WithContext(ctx)
	writes.SetLimit(writesAtOnce)
	writes.Go(func() error {
		return g.Store.Put(wctx, cache.Name(kindManifest, m.Digest.String()), encodeManifest(m), g.Gate.RelationTTL)
	})
	writes.Go(func() error { return g.keepConfig(wctx, m) })
	writes.Go(func() error { return g.keepNames(wctx, repo, m) })
	writes.Go(func() error { return g.noteFirstSeen(wctx, repo, m, now) })
	for d, l := range listers(m, now) {
		writes.Go(func() error {
			return g.putJSON(wctx, cache.Name(kindListing, repo.String(), d.String()), m.Digest.String(), l)
		})
	}
	for _, c := range m.children {
		writes.Go(func() error {
			return g.putJSON(wctx, cache.Name(kindParents, repo.String(), c.Digest.String()), m.Digest.String(), now)
		})
	}
	if err := writes.Wait(); err != nil {
		return err
	}
	b, err := now.MarshalText()
	if err != nil {
		return err
	}
	return g.Store.Put(ctx, served, b, g.Gate.RelationTTL)
}

// writesAtOnce bounds the writes that one manifest has under way: few beside what a Store
// serves, and enough that an index of a thousand children takes no second.
const writesAtOnce = 32

// noteFirstSeen writes down when the repository first had m, where that isn't known.
func (g *Gateway) noteFirstSeen(ctx context.Context, repo Repo, m *manifest, now time.Time) error {
	key := cache.Name(kindHistory, repo.String(), m.Digest.String())
	f, err := g.Store.Fields(ctx, key)
	if err != nil || f[fieldFirstSeen] != nil {
		return err
	}
	return g.putJSON(ctx, key, fieldFirstSeen, now)
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

// listersBy returns the manifests of repo that list a blob by this digest, most recent
// first, and the blob's other digest where that is known.
func (g *Gateway) listersBy(ctx context.Context, repo Repo, blob digest.Digest) (ls []lister, other digest.Digest, err error) {
	key := cache.Name(kindListing, repo.String(), blob.String())
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return nil, "", storeDown(err)
	}
	other = g.otherName(key, fields)
	for d, b := range fields {
		if d == fieldName {
			continue
		}
		var l lister
		if err := l.decode(b); err != nil {
			g.damaged(key, err)
			listed := false
			if l, listed, err = g.relist(ctx, repo, blob, digest.Digest(d)); err != nil {
				return nil, "", err
			}
			if !listed {
				continue
			}
		}
		l.Manifest = digest.Digest(d)
		ls = append(ls, l)
	}
	slices.SortFunc(ls, mostRecent)
	var kinds [3]int // artifacts, images that list it as their config, other images: no kind pushes out another
	var old []string
	ls = slices.DeleteFunc(ls, func(l lister) bool {
		kind := 0
		switch {
		case l.Config && !l.Artifact:
			kind = 1
		case !l.Artifact:
			kind = 2
		}
		kinds[kind]++
		surplus := kinds[kind] > g.Gate.Listers+1 || g.lapsed(l.At) // one more tells that there were more
		if surplus {
			old = append(old, l.Manifest.String())
		}
		return surplus
	})
	if err := g.prune(ctx, key, old); err != nil {
		return nil, "", storeDown(err)
	}
	return ls, other, nil
}

func mostRecent(a, b lister) int {
	if c := b.At.Compare(a.At); c != 0 {
		return c
	}
	return cmpDigest(a.Manifest, b.Manifest)
}

// lapsed reports whether a relation was last written too long ago; the map that it stands
// in lives on with others' use.
func (g *Gateway) lapsed(at time.Time) bool {
	return g.now().Sub(at) > g.Gate.RelationTTL+relationRefresh
}

// maxPruned bounds the writes that one request makes for the sake of others.
const maxPruned = 16

// prune takes fields out of a map that has too many.
func (g *Gateway) prune(ctx context.Context, key cache.Key, fields []string) error {
	for _, f := range fields[:min(len(fields), maxPruned)] {
		if err := g.Store.DeleteField(ctx, key, f); err != nil {
			return err
		}
	}
	return nil
}

// parents returns the indexes of repo that list the manifest d, and those that list
// these.
func (g *Gateway) parents(ctx context.Context, repo Repo, d digest.Digest) ([]string, error) {
	found := map[string]bool{}
	level := []string{d.String()}
	for depth := 0; depth < maxIndexDepth && len(level) > 0; depth++ {
		var above []string
		for _, d := range level {
			ps, err := g.parentsOf(ctx, repo, d)
			if err != nil {
				return nil, err
			}
			for _, p := range ps {
				if !found[p] && len(found) < maxParents {
					found[p] = true
					above = append(above, p)
				}
			}
		}
		level = above
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// maxParents bounds the indexes that count as an image's: daily builds of most of a year.
const maxParents = 256

// parentsOf returns the indexes of repo that list d directly, most recent first.
func (g *Gateway) parentsOf(ctx context.Context, repo Repo, d string) ([]string, error) {
	key := cache.Name(kindParents, repo.String(), d)
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return nil, err
	}
	at := make(map[string]time.Time, len(fields))
	for p, b := range fields {
		var t time.Time
		if err := json.Unmarshal(b, &t); err != nil {
			return nil, fmt.Errorf("relation of %s and its index %s: %w", d, p, err)
		}
		at[p] = t
	}
	ps := slices.SortedFunc(maps.Keys(at), func(a, b string) int {
		return cmp.Or(at[b].Compare(at[a]), cmp.Compare(a, b))
	})
	n := min(len(ps), maxParents)
	for n > 0 && g.lapsed(at[ps[n-1]]) {
		n--
	}
	return ps[:n], g.prune(ctx, key, ps[n:])
}

// storedManifest returns a manifest that was remembered for this repository, or an
// error that wraps cache.ErrNotExist. That another repository has it says nothing. fresh
// is whether its relations were written lately enough.
func (g *Gateway) storedManifest(ctx context.Context, repo Repo, d digest.Digest) (m *manifest, fresh bool, err error) {
	b, err := g.Store.Get(ctx, cache.Name(kindServed, repo.String(), d.String()))
	if err != nil {
		return nil, false, err
	}
	var at time.Time
	fresh = at.UnmarshalText(b) == nil && g.now().Sub(at) < relationRefresh
	if m, ok := g.parsed.Get(d); ok {
		return m, fresh, nil
	}
	b, err = g.Store.Get(ctx, cache.Name(kindManifest, d.String()))
	if err != nil {
		return nil, false, err
	}
	m, err = decodeManifest(d, b)
	if err != nil { // what was refused was never stored
		return nil, false, g.unserve(ctx, repo, d, err)
	}
	g.parsed.Put(d, m, len(m.Body))
	return m, fresh, nil
}

const (
	relatedRefresh = 10 * time.Second       // how long relations that were found stored are taken to be
	relatedWait    = 250 * time.Millisecond // for the Store to find them
)

// related reports whether every blob and child that m lists is known to be of m in repo,
// so that who gets m gets these too: a Store that is short of memory may have dropped a
// relation and kept m. What can't be read now isn't lost, and holds up nobody. Of artifacts
// it doesn't look: where the line of a denied image is lost, nothing but an image is to say
// whose blobs these are.
func (g *Gateway) related(ctx context.Context, repo Repo, m *manifest) bool {
	if m.kind == kindArtifact || g.noted.fresh("related "+repo.String()+"@"+m.Digest.String(), g.now(), relatedRefresh) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, relatedWait)
	defer cancel()
	var lost atomic.Bool
	var reads errgroup.Group
	reads.SetLimit(writesAtOnce)
	look := func(kind cache.Kind, d digest.Digest, full int) { // a full map may have lost it to others
		reads.Go(func() error {
			f, err := g.Store.Fields(ctx, cache.Name(kind, repo.String(), d.String()))
			if err == nil && f[m.Digest.String()] == nil && len(f) < full {
				lost.Store(true)
			}
			return nil
		})
	}
	for d := range listers(m, g.now()) {
		look(kindListing, d, g.Gate.Listers+1)
	}
	for _, c := range m.children {
		look(kindParents, c.Digest, maxParents)
	}
	reads.Wait()
	return !lost.Load()
}

// A stored manifest is its media type, a newline, and its exact bytes.
func encodeManifest(m *manifest) []byte {
	return append([]byte(m.MediaType+"\n"), m.Body...)
}

func decodeManifest(d digest.Digest, b []byte) (*manifest, error) {
	i := slices.Index(b, '\n')
	if i < 0 || d.Algorithm().FromBytes(b[i+1:]) != d {
		return nil, errors.New("its bytes are not those of its digest")
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
