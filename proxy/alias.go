package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
)

// The same bytes have a sha256 and a sha512 digest, and a registry serves them by both. A
// denied image lists its blobs by one, and somebody else lists them by the other: what
// one name is denied must not pass by the other. That two names are of one blob is known
// only once its bytes were read, so they are before it is released where it matters.

// fieldName is the field of a listing that holds the blob's other digest, as JSON. It stands
// beside the manifests that list the blob, so that a request reads no more for it.
const fieldName = "name"

// otherName returns a blob's digest by the other algorithm as far as fields, a listing,
// hold it, else "".
func (g *Gateway) otherName(key cache.Key, fields map[string][]byte) (other digest.Digest) {
	b, ok := fields[fieldName]
	if !ok {
		return ""
	}
	err := json.Unmarshal(b, &other)
	if err == nil {
		_, err = parseDigest(other.String())
	}
	if err != nil {
		g.damaged(key, err)
		return "" // and learnt again
	}
	return other
}

// unmask learns a released claim's other name, if what is listed by that might deny it,
// and takes who lists it by that name into the claim: it returns true where the claim has
// to be weighed again. A sha512 name may always hide another; a sha256 name only where
// nothing that runs has released it, and images of the repository list by sha512.
func (g *Gateway) unmask(ctx context.Context, c *claim) (bool, error) {
	if c.other != "" {
		return false, nil // it was weighed by both
	}
	if c.desc.Digest.Algorithm() == digest.SHA256 {
		if !c.inert {
			return false, nil
		}
		_, err := g.Store.Get(ctx, cache.Name(kindMixed, c.repo.String()))
		if isMiss(err) {
			return false, nil
		}
		if err != nil {
			return false, storeDown(err)
		}
	}
	other, err := g.learnName(ctx, c.repo, c.desc)
	if err != nil {
		return false, err
	}
	c.other = other
	if err := g.notKilled(ctx, c.caller, c.repo, c.desc.Digest, other); err != nil {
		return false, err
	}
	return true, g.relook(ctx, c)
}

// learnName returns a blob's digest by the other algorithm and writes it down. It reads
// all of the blob, fetching it where it isn't there; that goes on when ctx ends, so that
// a later try is quick.
func (g *Gateway) learnName(ctx context.Context, repo Repo, desc ocispec.Descriptor) (digest.Digest, error) {
	flying := g.flights.DoChan("name "+repo.String()+"@"+desc.Digest.String(), func() (any, error) {
		blob, err := g.fetchBlob(repo, desc, nil)
		if err != nil {
			return nil, notFetched(err, repo, desc.Digest)
		}
		defer blob.Close()
		r := blob.NewReader(g.ctx)
		defer r.Close()
		other := otherAlgorithm(desc.Digest).Digester()
		if _, err := io.Copy(struct{ io.Writer }{other.Hash()}, struct{ io.Reader }{r}); err != nil {
			return nil, notFetched(err, repo, desc.Digest)
		}
		return other.Digest(), g.putNames(g.ctx, repo, desc.Digest, other.Digest())
	})
	select {
	case r := <-flying:
		if r.Err != nil {
			return "", r.Err
		}
		return r.Val.(digest.Digest), nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return "", ctx.Err()
		}
		return "", &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 10 * time.Second,
			Message: "the gateway is still reading this blob, to see whether a denied image has it by another digest; try again in a moment"}
	}
}

func otherAlgorithm(d digest.Digest) digest.Algorithm {
	if d.Algorithm() == digest.SHA256 {
		return digest.SHA512
	}
	return digest.SHA256
}

// putNames writes down, both ways, that two digests are of one blob.
func (g *Gateway) putNames(ctx context.Context, repo Repo, a, b digest.Digest) error {
	for _, p := range [][2]digest.Digest{{a, b}, {b, a}} {
		if err := g.putJSON(ctx, cache.Name(kindListing, repo.String(), p[0].String()), fieldName, p[1]); err != nil {
			return storeDown(err)
		}
	}
	return nil
}

// keepNames has other names remembered for as long as a manifest that lists by sha512,
// and that the repository has such images.
func (g *Gateway) keepNames(ctx context.Context, repo Repo, m *manifest) error {
	mixed := false
	for _, d := range m.descriptors() {
		if d.Digest.Algorithm() == digest.SHA256 {
			continue
		}
		mixed = true
		key := cache.Name(kindListing, repo.String(), d.Digest.String())
		fields, err := g.Store.Fields(ctx, key)
		if err != nil {
			return err
		}
		if other := g.otherName(key, fields); other != "" {
			if err := g.putNames(ctx, repo, d.Digest, other); err != nil {
				return err
			}
		}
	}
	if !mixed || m.kind != kindImage {
		return nil
	}
	return g.Store.Put(ctx, cache.Name(kindMixed, repo.String()), []byte{}, g.Gate.RelationTTL)
}

// nameKnown reports whether a blob of a manifest can be told to have been had by its other
// name
// already. It reads a config to know, since nothing else is an image's alone; of a layer
// that nobody has asked for by both it says that it doesn't know.
func (g *Gateway) nameKnown(ctx context.Context, repo Repo, desc ocispec.Descriptor, config bool) (bool, error) {
	if desc.Digest.Algorithm() == digest.SHA256 {
		return true, nil // whoever lists it by sha512 got it only once its sha256 was known
	}
	_, other, err := g.listersBy(ctx, repo, desc.Digest)
	if err != nil || other != "" || !config || desc.Size > maxConfig {
		return other != "", err
	}
	limited, cancel := context.WithTimeout(ctx, g.Gate.ManifestWait)
	defer cancel()
	_, err = g.learnName(limited, repo, desc)
	return err == nil, nil
}

// listersOf returns the manifests of repo that list a blob, by whichever of its names,
// most recent first, and its other name where that is known. None means that the blob does
// not exist by this name as far as this repository's callers go.
func (g *Gateway) listersOf(ctx context.Context, repo Repo, blob digest.Digest) (ls []lister, other digest.Digest, err error) {
	ls, other, err = g.listersBy(ctx, repo, blob)
	if err != nil || len(ls) == 0 || other == "" {
		return ls, other, err
	}
	more, _, err := g.listersBy(ctx, repo, other)
	if err != nil {
		return nil, "", err
	}
	ls = append(ls, more...)
	slices.SortStableFunc(ls, mostRecent)
	return ls, other, nil
}
