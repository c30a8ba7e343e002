package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// Fields of an image's history in the Store. A field that starts with the prefix ends
// with the tag that it is about.
const (
	fieldFirstSeen   = "first_seen" // JSON time
	fieldLastAllowed = "last_allowed"
	prefixTag        = "tag:" // JSON time at which upstream last had the tag here
)

// A lastDecision is how an image was last decided for a caller.
type lastDecision struct {
	Allow bool      `json:"allow"`
	At    time.Time `json:"at"`
}

// input gathers what a decision about m for a caller is made from. Nothing in it
// depends on how the image was asked for.
func (g *Gateway) input(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, v *scan.Verdict) (policy.Input, error) {
	in := policy.Input{
		Request: policy.Request{Caller: caller.Name, Groups: caller.Groups, Action: "pull"},
		Image: policy.Image{
			Reference:  repo.String() + "@" + m.Digest.String(),
			Registry:   repo.Upstream,
			Repository: repo.Name,
			Digest:     m.Digest.String(),
			MediaType:  m.MediaType,
			Tags:       []string{},
		},
		Scan:     v.Scan,
		Findings: v.Findings,
		Now:      g.now().UTC(),
	}
	if in.Request.Groups == nil {
		in.Request.Groups = []string{}
	}
	parents, err := g.parents(ctx, repo, m.Digest)
	if err != nil {
		return in, err
	}
	in.Image.Indexes = parents
	if err := g.addHistory(ctx, &in, repo, m.Digest); err != nil {
		return in, err
	}
	return in, g.addConfig(ctx, &in.Image, m)
}

func (g *Gateway) addHistory(ctx context.Context, in *policy.Input, repo Repo, d digest.Digest) error {
	var tags []string
	for _, d := range append([]string{d.String()}, in.Image.Indexes...) {
		fields, err := g.Store.Fields(ctx, cache.Name(kindHistory, repo.String(), d))
		if err != nil {
			return err
		}
		for f := range fields {
			if tag, ok := strings.CutPrefix(f, prefixTag); ok {
				tags = append(tags, tag)
			}
		}
		if d == in.Image.Digest {
			in.History = history(fields)
		}
	}
	slices.Sort(tags)
	in.Image.Tags = append(in.Image.Tags, slices.Compact(tags)...)
	if len(tags) > 0 {
		in.Image.Reference = repo.String() + ":" + in.Image.Tags[0] + "@" + in.Image.Digest
	}
	return nil
}

func history(fields map[string][]byte) policy.History {
	var h policy.History
	var t time.Time
	if json.Unmarshal(fields[fieldFirstSeen], &t) == nil {
		h.FirstSeen = t.UTC().Format(time.RFC3339)
	}
	if json.Unmarshal(fields[fieldLastAllowed], &t) == nil {
		h.PreviouslyAllowed, h.LastAllowed = true, t.UTC().Format(time.RFC3339)
	}
	return h
}

// addConfig fills in what manifest and config claim. An image whose config is not at
// hand yet has none of it.
func (g *Gateway) addConfig(ctx context.Context, img *policy.Image, m *manifest) error {
	raw, err := g.Store.Get(ctx, cache.Name(kindConfig, m.config.Digest.String()))
	if err != nil && !errors.Is(err, cache.ErrNotExist) {
		return err
	}
	img.Describe(m.Body, raw)
	return nil
}

// noteTag writes down that upstream has a tag at d.
func (g *Gateway) noteTag(ctx context.Context, repo Repo, d digest.Digest, tag string) error {
	note := "tag " + repo.String() + ":" + tag + "@" + d.String()
	if g.noted.fresh(note, g.now(), relationRefresh) {
		return nil
	}
	err := g.putJSON(ctx, cache.Name(kindHistory, repo.String(), d.String()), prefixTag+tag, g.now())
	if err != nil {
		g.noted.forget(note)
	}
	return err
}

// decisionRefresh is how long an unchanged decision goes without being written down
// again, so that a warm pull writes nothing.
const decisionRefresh = time.Hour

// noteDecision writes down how m was decided for a caller. That it was denied must
// not be missing where it is read, whatever other replicas have written meanwhile, so
// only an allowance is spared by memory.
func (g *Gateway) noteDecision(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest, allow bool) error {
	note := "allow " + lastKey(caller, repo, d).String()
	if allow && g.noted.fresh(note, g.now(), decisionRefresh) {
		return nil
	}
	err := g.writeDecision(ctx, caller, repo, d, allow)
	if err != nil || !allow {
		g.noted.forget(note)
	}
	return err
}

func (g *Gateway) writeDecision(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest, allow bool) error {
	key := lastKey(caller, repo, d)
	if !allow {
		last, known, err := g.lastDecision(ctx, caller, repo, d)
		if err != nil || known && !last.Allow && g.now().Sub(last.At) < decisionRefresh {
			return err
		}
	}
	b, err := json.Marshal(lastDecision{allow, g.now()})
	if err != nil {
		return err
	}
	if err := g.Store.Put(ctx, key, b, g.Gate.RelationTTL); err != nil || !allow {
		return err
	}
	return g.putJSON(ctx, cache.Name(kindHistory, repo.String(), d.String()), fieldLastAllowed, g.now())
}

// lastDecision returns how an image was last decided for a caller, if it ever was.
func (g *Gateway) lastDecision(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest) (last lastDecision, known bool, err error) {
	b, err := g.Store.Get(ctx, lastKey(caller, repo, d))
	if errors.Is(err, cache.ErrNotExist) {
		return last, false, nil
	}
	if err != nil {
		return last, false, err
	}
	err = json.Unmarshal(b, &last)
	return last, err == nil, err
}

func lastKey(caller auth.Caller, repo Repo, d digest.Digest) cache.Key {
	return cache.Name(kindLast, repo.String(), d.String(), caller.Name)
}
