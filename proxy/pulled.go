package proxy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy/auth"
)

// kindPulled is where images that were pulled lately can be found: shard → repository and
// digest → lastPull. A Store can't list its keys, and its maps are for hundreds of fields:
// as many shards hold a hundred thousand images.
const kindPulled cache.Kind = "pulled"

// kindCallers is who pulled an image lately: repository and digest → "=" and the caller's
// name → lastPull.
const kindCallers cache.Kind = "callers"

const (
	// maxCallers bounds those that are kept of one image; the ones whose last pull is the
	// longest ago go first.
	maxCallers = 100
	// pulledFor is how long an image counts as pulled lately.
	pulledFor = 30 * 24 * time.Hour
	// pulledRefresh is how exact the time of a caller's last pull is, so that pulls of
	// one image all day write little.
	pulledRefresh = 10 * time.Minute
	// maxShard bounds the images of one shard; the ones pulled the longest ago go first.
	maxShard = 2000
)

// A lastPull is who asked for an image last, and how.
type lastPull struct {
	At     time.Time `json:"at"`
	Caller string    `json:"caller"`
	Groups []string  `json:"groups,omitempty"`

	repo   Repo
	digest digest.Digest
}

// String names the image as people write it, and the index too.
func (p lastPull) String() string { return p.repo.String() + "@" + p.digest.String() }

// notePulled writes down that a caller asked for an image. That it can't be is logged: it
// costs a re-evaluation, and no pull.
func (g *Gateway) notePulled(ctx context.Context, caller auth.Caller, repo Repo, m *manifest) {
	if m.kind != kindImage {
		return
	}
	field := lastPull{repo: repo, digest: m.Digest}.String()
	note := fmt.Sprintf("pulled %q %s", caller.Name, field)
	if g.noted.fresh(note, g.now(), pulledRefresh) {
		return
	}
	b, err := json.Marshal(lastPull{At: g.now().UTC(), Caller: caller.Name, Groups: caller.Groups})
	if err == nil {
		err = errors.Join(g.Store.PutField(ctx, pulledKey(field), field, b, 2*pulledFor), g.noteCaller(ctx, repo, m.Digest, caller, b))
	}
	if err != nil {
		g.noted.forget(note)
		g.Log.Warn("it is not written down that an image was pulled; a new vulnerability database may not raise an event for it", "image", field, "error", err)
	}
}

func callersKey(repo Repo, d digest.Digest) cache.Key {
	return cache.Name(kindCallers, repo.String(), d.String())
}

// noteCaller writes down a caller's last pull of an image, and forgets those of callers
// past maxCallers.
func (g *Gateway) noteCaller(ctx context.Context, repo Repo, d digest.Digest, caller auth.Caller, pull []byte) error {
	key := callersKey(repo, d)
	if err := g.Store.PutField(ctx, key, "="+caller.Name, pull, 2*pulledFor); err != nil {
		return err
	}
	all, err := g.callers(ctx, repo, d)
	if err != nil {
		return err
	}
	for _, p := range all[min(len(all), maxCallers):] {
		if err := g.Store.DeleteField(ctx, key, "="+p.Caller); err != nil {
			return err
		}
	}
	return nil
}

// callers returns who pulled an image lately, the latest first.
func (g *Gateway) callers(ctx context.Context, repo Repo, d digest.Digest) ([]lastPull, error) {
	key := callersKey(repo, d)
	fields, err := g.Store.Fields(ctx, key)
	if err != nil {
		return nil, err
	}
	var all []lastPull
	for name, b := range fields {
		p := lastPull{repo: repo, digest: d}
		if err := json.Unmarshal(b, &p); err != nil {
			g.damaged(key, err)
			continue
		}
		p.Caller = strings.TrimPrefix(name, "=")
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b lastPull) int {
		return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Caller, b.Caller))
	})
	return all, nil
}

func pulledKey(field string) cache.Key {
	sum := sha256.Sum256([]byte(field))
	return cache.Name(kindPulled, hex.EncodeToString(sum[:1]))
}

// pulledLately returns the images that were pulled lately, the latest first, and forgets
// the others.
func (g *Gateway) pulledLately(ctx context.Context) ([]lastPull, error) {
	var all []lastPull
	for shard := range 256 {
		key := cache.Name(kindPulled, fmt.Sprintf("%02x", shard))
		fields, err := g.Store.Fields(ctx, key)
		if err != nil {
			return nil, err
		}
		var here []lastPull
		for f, b := range fields {
			p, err := g.readPulled(f, b)
			if err != nil {
				g.damaged(key, err)
			}
			if err == nil && g.now().Sub(p.At) < pulledFor {
				here = append(here, p)
				continue
			}
			if err := g.Store.DeleteField(ctx, key, f); err != nil {
				return nil, err
			}
		}
		slices.SortFunc(here, latest)
		for _, p := range here[min(len(here), maxShard):] {
			if err := g.Store.DeleteField(ctx, key, p.String()); err != nil {
				return nil, err
			}
		}
		all = append(all, here[:min(len(here), maxShard)]...)
	}
	slices.SortFunc(all, latest)
	return all, nil
}

func latest(a, b lastPull) int {
	return cmp.Or(b.At.Compare(a.At), cmpDigest(a.digest, b.digest), strings.Compare(a.repo.String(), b.repo.String()))
}

// readPulled reads one field of the index.
func (g *Gateway) readPulled(field string, value []byte) (p lastPull, err error) {
	name, d, _ := strings.Cut(field, "@")
	upstream, repository, ok := strings.Cut(name, "/")
	p.repo, p.digest = Repo{Upstream: upstream, Name: repository}, digest.Digest(d)
	if !ok {
		return p, fmt.Errorf("pulled image %.100q: it names no repository", field)
	}
	if err := p.digest.Validate(); err != nil {
		return p, fmt.Errorf("pulled image %.100q: %w", field, err)
	}
	return p, json.Unmarshal(value, &p)
}
