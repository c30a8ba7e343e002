package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

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
	fieldCompared    = "compared" // JSON scan.Database by whose verdict Reevaluate last compared it
	prefixTag        = "tag:"     // JSON time at which upstream last had the tag here
)

// A lastDecision is how an image was last decided for a caller.
type lastDecision struct {
	Allow    bool      `json:"allow"`
	Warned   bool      `json:"warned,omitempty"` // not allowed, and served all the same: nothing of it was enforced
	At       time.Time `json:"at"`
	Revision string    `json:"revision,omitempty"` // of the policies and waivers that decided
	Until    time.Time `json:"until,omitzero"`     // the end of the first waiver that it rests on; zero: on none
}

// stands reports whether the policies and waivers of revision would, at now, still say
// what was said, but for the verdict.
func (l lastDecision) stands(revision string, now time.Time) bool {
	return l.Revision == revision && (l.Until.IsZero() || now.Before(l.Until))
}

// input gathers what a decision about m for a caller is made from. Nothing in it
// depends on how the image was asked for. parents are the indexes that list it.
func (g *Gateway) input(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, parents []string, v *scan.Verdict) (policy.Input, error) {
	return g.inputFor(ctx, g.policy(repo), caller, repo, m, parents, v)
}

// inputFor is input for policies that may not be those which decide about the image.
func (g *Gateway) inputFor(ctx context.Context, engine *policy.Engine, caller auth.Caller, repo Repo, m *manifest, parents []string, v *scan.Verdict) (policy.Input, error) {
	img, err := g.claims(ctx, m)
	if err != nil {
		return policy.Input{}, err
	}
	img.Reference = repo.String() + "@" + m.Digest.String()
	img.Registry, img.Repository, img.Digest = repo.Upstream, repo.Name, m.Digest.String()
	img.Aliases, img.MediaType, img.Tags, img.Indexes = m.names, m.MediaType, []string{}, parents
	in := policy.Input{
		Request:  policy.Request{Caller: caller.Name, Groups: caller.Groups, Action: "pull"},
		Image:    img,
		Scan:     v.Scan,
		Findings: v.Findings,
		Sum:      v.Sum,
		Now:      g.now().UTC(),
	}
	if in.Request.Groups == nil {
		in.Request.Groups = []string{}
	}
	if err := in.AddPackages(ctx, engine, g.Scanner); err != nil {
		return in, err
	}
	if err := g.addBase(ctx, engine, &in, m); err != nil {
		return in, err
	}
	if err := g.addSignatures(ctx, engine, &in, repo, m); err != nil {
		return in, err
	}
	return in, g.addHistory(ctx, &in, repo, m.Digest)
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

// claims returns what manifest and config claim of an image. Where its config is not at
// hand yet it has none of that.
func (g *Gateway) claims(ctx context.Context, m *manifest) (img policy.Image, err error) {
	if img, ok := g.claimed.Get(m.Digest); ok {
		return img, nil
	}
	raw, err := g.Store.Get(ctx, cache.Name(kindConfig, m.config.Digest.String()))
	if err != nil && !errors.Is(err, cache.ErrNotExist) {
		return img, err
	}
	img.Describe(m.Body, raw)
	if err == nil && m.config.Digest.Algorithm().FromBytes(raw) == m.config.Digest {
		g.claimed.Put(m.Digest, img, len(m.Body)+len(raw))
	}
	return img, nil
}

// noteTag writes down that upstream has a tag at d.
func (g *Gateway) noteTag(ctx context.Context, repo Repo, d digest.Digest, tag string) error {
	note := tagNote(repo, d, tag)
	if g.noted.fresh(note, g.now(), relationRefresh) {
		return nil
	}
	err := g.putJSON(ctx, cache.Name(kindHistory, repo.String(), d.String()), prefixTag+tag, g.now())
	if err != nil {
		g.noted.forget(note)
	}
	return err
}

// moveTag takes a tag off the image that it pointed at when upstream was last asked, if
// that is not to. Replicas may remember for relationRefresh that they have noted it.
func (g *Gateway) moveTag(ctx context.Context, rt route, key cache.Key, to digest.Digest) error {
	was, known, err := g.tag(ctx, key)
	if err != nil || !known || was.Digest == "" || was.Digest == to {
		return err
	}
	g.noted.forget(tagNote(rt.repo, was.Digest, rt.reference))
	return g.Store.DeleteField(ctx, cache.Name(kindHistory, rt.repo.String(), was.Digest.String()), prefixTag+rt.reference)
}

func tagNote(repo Repo, d digest.Digest, tag string) string {
	return "tag " + repo.String() + ":" + tag + "@" + d.String()
}

// decisionRefresh is how long an unchanged decision goes without being written down
// again, so that a warm pull writes nothing.
const decisionRefresh = time.Hour

// noteDecision writes down how m was decided for a caller. That it was denied must
// not be missing where it is read, whatever other replicas have written meanwhile, so
// only an allowance is spared by memory.
func (g *Gateway) noteDecision(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest, made policy.Decision) error {
	note := "allow " + lastKey(caller, repo, d).String()
	if made.Allow {
		written := g.noted.fresh(note, g.now(), decisionRefresh)
		if g.noted.fresh(note+" "+made.Revision, g.now(), decisionRefresh) && written {
			return nil
		}
	}
	err := g.writeDecision(ctx, caller, repo, d, made)
	if err != nil || !made.Allow {
		g.noted.forget(note)
	}
	return err
}

func (g *Gateway) writeDecision(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest, made policy.Decision) error {
	key := lastKey(caller, repo, d)
	warned := !made.Allow && !made.Blocks()
	if !made.Allow {
		last, known, err := g.lastDecision(ctx, caller, repo, d)
		if err != nil || known && !last.Allow && last.Warned == warned && last.Revision == made.Revision && g.now().Sub(last.At) < decisionRefresh {
			return err
		}
	}
	b, err := json.Marshal(lastDecision{made.Allow, warned, g.now(), made.Revision, firstExpiry(made.Waived)})
	if err != nil {
		return err
	}
	writes, wctx := errgroup.WithContext(ctx)
	writes.Go(func() error { return g.Store.Put(wctx, key, b, g.Gate.RelationTTL) })
	if made.Allow {
		writes.Go(func() error {
			return g.putJSON(wctx, cache.Name(kindHistory, repo.String(), d.String()), fieldLastAllowed, g.now())
		})
	}
	return writes.Wait()
}

// firstExpiry returns when the first of the waivers that a decision rests on ends, zero
// where there is none.
func firstExpiry(ws []policy.Waived) (first time.Time) {
	for _, w := range ws {
		if w.VEX != "" { // which has no end
			continue
		}
		t, err := time.Parse(time.RFC3339, w.Expires)
		if err != nil {
			t = time.Unix(0, 0) // which nothing outlasts
		}
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	return first
}

// lastDecision returns how an image was last decided for a caller, if it ever was.
func (g *Gateway) lastDecision(ctx context.Context, caller auth.Caller, repo Repo, d digest.Digest) (last lastDecision, known bool, err error) {
	key := lastKey(caller, repo, d)
	b, err := g.Store.Get(ctx, key)
	switch {
	case errors.Is(err, cache.ErrNotExist):
		return last, false, nil
	case err == nil:
		err = last.decode(b)
	case !errors.Is(err, cache.ErrDamaged):
		return last, false, err
	}
	if err != nil {
		g.damaged(key, err)
		last = lastDecision{At: g.now()} // denied, until it is decided again
		if b, err = json.Marshal(last); err == nil {
			err = g.Store.Delete(ctx, key) // what is of another type is not written over
		}
		if err == nil {
			err = g.Store.Put(ctx, key, b, g.Gate.RelationTTL)
		}
	}
	return last, true, err
}

func lastKey(caller auth.Caller, repo Repo, d digest.Digest) cache.Key {
	return cache.Name(kindLast, repo.String(), d.String(), caller.Name)
}
