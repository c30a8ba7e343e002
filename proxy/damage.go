package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
)

// A Store returns what was written, but what was written may be of another version, or
// of a hand that meant well. A record that can't be read is no reason to deny for ever:
// it is logged and made again. Until then it counts for the answer that releases least.

// damaged logs a record of the Store that can't be read.
func (g *Gateway) damaged(k cache.Key, err error) {
	g.Log.Warn("a stored record can't be read; it is made again", "key", fmt.Sprintf("%q", k), "error", err)
}

// decode reads a tag's record.
func (r *tagRecord) decode(b []byte) error {
	if err := json.Unmarshal(b, r); err != nil {
		return err
	}
	if r.At.IsZero() {
		return errors.New("it has no date")
	}
	if r.Digest == "" {
		return nil
	}
	_, err := parseDigest(r.Digest.String())
	return err
}

// decode reads how an image was last decided.
func (l *lastDecision) decode(b []byte) error {
	if err := json.Unmarshal(b, l); err != nil {
		return err
	}
	if l.At.IsZero() {
		return errors.New("it has no date")
	}
	return nil
}

// decode reads a relation.
func (l *lister) decode(b []byte) error {
	if err := json.Unmarshal(b, l); err != nil {
		return err
	}
	if l.At.IsZero() || l.Size < 0 || !l.Config && !l.Layer {
		return errors.New("it is no relation")
	}
	return nil
}

// relist writes the relation of a blob and a manifest anew, from the manifest. listed is
// false where that doesn't list the blob. Where upstream has it no more, nobody knows as
// what it lists the blob: then as its config too, which nothing else releases.
func (g *Gateway) relist(ctx context.Context, repo Repo, blob, d digest.Digest) (l lister, listed bool, err error) {
	key := cache.Name(kindListing, repo.String(), blob.String())
	m, err := g.fetchManifest(ctx, repo, d)
	switch e := (*Error)(nil); {
	case err == nil:
		l, listed = listers(m, g.now())[blob]
	case errors.As(err, &e) && e.Code == codeManifestUnknown:
		l, listed = lister{Config: true, Layer: true, At: g.now()}, true
	default:
		return l, false, err
	}
	if !listed {
		err = g.Store.DeleteField(ctx, key, d.String())
	} else {
		err = g.putJSON(ctx, key, d.String(), l)
	}
	if err != nil {
		return l, false, storeDown(err)
	}
	return l, listed, nil
}

// unserve forgets that a manifest was served for a repository, and so is at hand.
func (g *Gateway) unserve(ctx context.Context, repo Repo, d digest.Digest, why error) error {
	g.damaged(cache.Name(kindManifest, d.String()), why)
	if err := g.Store.Delete(ctx, cache.Name(kindServed, repo.String(), d.String())); err != nil {
		return err
	}
	return fmt.Errorf("stored manifest %s: %w", d, cache.ErrNotExist)
}
