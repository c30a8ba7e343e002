package proxy

import (
	"context"
	"errors"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
)

// vouch returns nil if upstream has a blob of the spool in this very repository. The
// spool holds what any repository brought, and a manifest may list what lies elsewhere:
// who may push to one repository could else read all of the others. Upstream is asked
// once for a repository and a blob that another one brought.
func (g *Gateway) vouch(ctx context.Context, repo Repo, blob *spool.Blob, desc ocispec.Descriptor) error {
	if blob.Source() == repo.String() {
		return nil
	}
	return g.vouchFor(ctx, repo, desc)
}

// vouchFor is vouch for a blob that isn't at hand, but what was found in it: the layers
// and the config that another image brought. They may be another repository's, and a
// verdict tells what is in them.
func (g *Gateway) vouchFor(ctx context.Context, repo Repo, desc ocispec.Descriptor) error {
	key := cache.Name(kindVouched, repo.String(), desc.Digest.String())
	_, err := g.Store.Get(ctx, key)
	if err == nil {
		return nil
	}
	if !isMiss(err) {
		return storeDown(err)
	}
	limited, cancel := context.WithTimeout(ctx, g.Gate.UpstreamTimeout/2) // the wait for a decision may have gone before
	defer cancel()
	_, err = g.flight(limited, "vouch "+key.String(), func(ctx context.Context) (any, error) {
		_, err := g.upstream(repo.Upstream).Registry.BlobHost(ctx, repo.Name, desc)
		if err == nil {
			g.noteVouched(ctx, repo, desc.Digest)
		}
		return nil, err
	})
	if err != nil {
		return fromUpstream(err, repo.String()+"@"+desc.Digest.String(), codeBlobUnknown)
	}
	return nil
}

// vouchForSpooled is vouch for a claim whose blob isn't opened: that the spool has it, and
// how long it is, is told to no other repository either.
func (g *Gateway) vouchForSpooled(ctx context.Context, c *claim) error {
	blob, err := g.Blobs.Open(c.desc.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer blob.Close()
	return g.vouch(ctx, c.repo, blob, c.desc)
}

// noteVouched writes down that upstream has a blob in a repository. That this can't be
// written costs only a repetition.
func (g *Gateway) noteVouched(ctx context.Context, repo Repo, d digest.Digest) {
	if err := g.Store.Put(ctx, cache.Name(kindVouched, repo.String(), d.String()), []byte{}, g.Gate.RelationTTL); err != nil {
		g.Log.Warn("that a repository has a blob is not remembered", "repository", repo, "digest", d, "error", err)
	}
}
