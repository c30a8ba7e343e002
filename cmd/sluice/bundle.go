package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/policy/remote"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// openBundle brings the bundle of policies into dir, where it is not a file anyway.
func (h *house) openBundle(ctx context.Context, dir string) error {
	b := h.config.Policy.Bundle
	if h.bundle.file = b.Source; !b.Remote() {
		return nil
	}
	fetch, err := h.fetchBundle(b)
	if err != nil {
		return err
	}
	from, keys := shownSource(b), bundleKeys(b)
	sum := sha256.Sum256([]byte(b.Source))
	m := &remote.Mirror{
		From: from, Fetch: fetch, Every: b.Every, Log: h.log,
		File:  filepath.Join(dir, hex.EncodeToString(sum[:8])+".tar.gz"),
		Check: func(ctx context.Context, body []byte) error { return policy.CheckBundle(ctx, from, body, keys) },
	}
	if h.local != nil {
		m.Store = h.local
	}
	h.bundle = bundleSource{file: m.File, mirror: m}
	return m.Open(ctx)
}

// checkBundle fetches the bundle of the configuration into a folder that lasts for a check.
func (h *house) checkBundle(ctx context.Context, work string) (err error) {
	if _, _, _, ok := h.config.Policy.Bundle.Artifact(); ok {
		if h.store, err = scanStore(ctx, h.config); err != nil {
			return err
		}
		defer h.store.Close()
		if err := h.openConnections(); err != nil {
			return err
		}
	}
	return h.openBundle(ctx, work)
}

// A bundleSource is where the engine reads a bundle, and what brings it there.
type bundleSource struct {
	file   string
	mirror *remote.Mirror // nil for a file of the configuration
}

// configure has an engine read the bundle of b.
func (s bundleSource) configure(c *policy.Config, b configs.Bundle) {
	c.Dir, c.Bundle, c.BundleKeys, c.Origin = "", s.file, bundleKeys(b), shownSource(b)
	if s.mirror != nil {
		c.Behind = s.mirror.Behind
	}
}

func bundleKeys(b configs.Bundle) []policy.BundleKey {
	var keys []policy.BundleKey
	for _, k := range b.Keys {
		keys = append(keys, policy.BundleKey{Name: k.Name, File: k.File, Algorithm: k.Algorithm})
	}
	return keys
}

// shownSource names a source without its query, which may be signed.
func shownSource(b configs.Bundle) string {
	u, err := url.Parse(b.Source)
	if err != nil || !b.Remote() {
		return b.Source
	}
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}

func (h *house) fetchBundle(b configs.Bundle) (remote.Fetch, error) {
	name, repo, reference, ok := b.Artifact()
	if !ok {
		return remote.Web{URL: b.Source, CAFile: b.CAFile, TokenFile: b.TokenFile, Max: policy.MaxBundle}.Fetch, nil
	}
	i := slices.IndexFunc(h.config.Upstreams, func(u configs.Upstream) bool { return u.Name == name })
	r, err := h.registry(h.config.Upstreams[i]) // Validate has found it there
	if err != nil {
		return nil, err
	}
	return artifact{r, repo, reference}.fetch, nil
}

// An artifact is a bundle in a registry: a manifest of one layer, the tar.gz, as `oras
// push` makes it.
type artifact struct {
	registry   *upstream.Registry
	repository string
	reference  string
}

// fetch is a remote.Fetch; the manifest's digest is the tag.
func (a artifact) fetch(ctx context.Context, seen string) ([]byte, string, error) {
	d, err := a.registry.Resolve(ctx, a.repository, a.reference)
	if err != nil {
		return nil, "", err
	}
	if d.Digest.String() == seen {
		return nil, seen, nil
	}
	m, err := a.registry.Manifest(ctx, a.repository, d.Digest.String())
	if err != nil {
		return nil, "", err
	}
	var doc ocispec.Manifest
	if err := json.Unmarshal(m.Body, &doc); err != nil {
		return nil, "", fmt.Errorf("its manifest: %w", err)
	}
	if len(doc.Layers) != 1 || !strings.HasSuffix(doc.Layers[0].MediaType, "gzip") {
		return nil, "", fmt.Errorf("it is no bundle: its manifest (%s) has %s, want one of a type that ends in gzip; push it with `oras push REF b.tar.gz:application/vnd.oci.image.layer.v1.tar+gzip`",
			m.MediaType, plural(len(doc.Layers), "layer"))
	}
	if size := doc.Layers[0].Size; size > policy.MaxBundle {
		return nil, "", fmt.Errorf("it has %d bytes, at most %d are taken", size, policy.MaxBundle)
	}
	r, err := a.registry.Blob(ctx, a.repository, doc.Layers[0])
	if err != nil {
		return nil, "", err
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	return body, d.Digest.String(), err
}
