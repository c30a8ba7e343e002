package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/policy/signature"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// openImage opens what IMAGE names, and begins the policies' input with what the name
// says.
func openImage(ctx context.Context, h *house, ref, platform, work string) (v1.Image, policy.Input, error) {
	in := policy.Input{Request: policy.Request{Groups: []string{}, Action: "check"}}
	in.Image = policy.Image{Reference: ref, Tags: []string{}}
	p, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, in, usage("--platform: %w", err)
	}
	kind, path, _ := strings.Cut(ref, ":")
	var img v1.Image
	switch kind {
	case "docker-archive":
		img, err = tarball.ImageFromPath(path, nil)
	case "oci":
		img, err = imageInLayout(path, *p)
	case "oci-archive":
		dir := filepath.Join(work, "layout")
		if err = untar(path, dir); err == nil {
			img, err = imageInLayout(dir, *p)
		}
	default:
		return openRemote(ctx, h, ref, *p, in)
	}
	if err != nil {
		return nil, in, fmt.Errorf("%s: %w", ref, err)
	}
	return img, in, nil
}

func openRemote(ctx context.Context, h *house, ref string, p v1.Platform, in policy.Input) (v1.Image, policy.Input, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, in, usage("IMAGE: %w", err)
	}
	host := r.Context().RegistryStr()
	in.Image.Registry, in.Image.Repository = host, r.Context().RepositoryStr()
	if t, ok := r.(name.Tag); ok {
		in.Image.Tags = []string{t.TagStr()}
	}
	r, auth, err := asConfigured(ctx, h, r)
	if err != nil {
		return nil, in, err
	}
	var img v1.Image
	desc, err := remote.Get(r, append(auth, remote.WithContext(ctx), remote.WithPlatform(p))...)
	if err == nil {
		img, err = desc.Image() // the child for the platform, where it is an index
	}
	if err != nil && h.forgetful && slices.ContainsFunc(h.config.Upstreams, func(u configs.Upstream) bool { return u.Name == host }) {
		user, password := connection.EnvNames(host)
		return nil, in, fmt.Errorf("%s: %w\na gateway is running here and holds the pull tokens that were set: ask it with sluice verdict, or set %s and %s", ref, err, user, password)
	}
	if err != nil {
		return nil, in, fmt.Errorf("%s: %w", ref, err)
	}
	if desc.MediaType.IsIndex() {
		in.Image.Indexes = []string{desc.Digest.String()}
	}
	return img, in, nil
}

// addSignatures tells of the signatures and attestations of an image of a registry, where a
// policy refers to them. Of one in a file there are none.
func (h *house) addSignatures(ctx context.Context, engine *policy.Engine, in *policy.Input) error {
	signatures, attestations := engine.Needs(policy.NeedSignatures), engine.Needs(policy.NeedAttestations)
	if in.Image.Registry == "" || !signatures && !attestations {
		return nil
	}
	u := configs.Upstream{Name: in.Image.Registry}
	if i := slices.IndexFunc(h.config.Upstreams, func(c configs.Upstream) bool { return c.Name == u.Name }); i >= 0 {
		u = h.config.Upstreams[i]
	}
	r := newRegistry(u, h.log)
	var err error
	if r.RootCAs, err = authorities(u); err != nil {
		return err
	}
	r.Credentials = func(ctx context.Context) (upstream.Credentials, error) { return h.credentialsOf(ctx, u.Name) }
	trust, err := signature.Load(trustOf(h.config.Trust))
	if err != nil {
		return err
	}
	var subjects []digest.Digest
	for _, d := range append([]string{in.Image.Digest}, in.Image.Indexes...) {
		subjects = append(subjects, digest.Digest(d))
	}
	facts := proxy.FindSignatures(ctx, r, proxy.Repo{Upstream: u.Name, Name: in.Image.Repository}, trust, h.log, subjects...)
	if signatures {
		in.Image.Signatures = facts.Signatures
	}
	if attestations {
		in.Image.Attestations = facts.Attestations
	}
	return nil
}

// credentialsOf returns the pull token of a configured upstream, or Docker's login.
func (h *house) credentialsOf(ctx context.Context, name string) (c upstream.Credentials, err error) {
	if slices.ContainsFunc(h.config.Upstreams, func(u configs.Upstream) bool { return u.Name == name }) {
		return storedCredentials(ctx, h, name)
	}
	auth, err := authn.DefaultKeychain.Resolve(registryName(name))
	if err != nil {
		return c, err
	}
	a, err := auth.Authorization()
	if err != nil {
		return c, err
	}
	return upstream.Credentials{Username: a.Username, Password: a.Password}, nil
}

// A registryName is what Docker's logins are looked up by.
type registryName string

func (r registryName) String() string      { return string(r) }
func (r registryName) RegistryStr() string { return string(r) }

// asConfigured returns where an image is read from, and how: from a configured
// upstream at its URL with its pull token, from any other registry with Docker's login.
func asConfigured(ctx context.Context, h *house, r name.Reference) (name.Reference, []remote.Option, error) {
	i := slices.IndexFunc(h.config.Upstreams, func(u configs.Upstream) bool { return u.Name == r.Context().RegistryStr() })
	if i < 0 {
		return r, []remote.Option{remote.WithAuthFromKeychain(authn.DefaultKeychain)}, nil
	}
	u := h.config.Upstreams[i]
	creds, err := storedCredentials(ctx, h, u.Name)
	if err != nil {
		return nil, nil, err
	}
	roots, err := authorities(u)
	if err != nil {
		return nil, nil, err
	}
	options := []remote.Option{remote.WithTransport(upstream.NewTransport(roots))}
	if !creds.Anonymous() {
		options = append(options, remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: creds.Username, Password: creds.Password})))
	}
	base, err := newRegistry(u, nil).Base()
	if err != nil {
		return nil, nil, err
	}
	text := base.Host + "/" + r.Context().RepositoryStr()
	if d, ok := r.(name.Digest); ok {
		text += "@" + d.DigestStr()
	} else {
		text += ":" + r.Identifier()
	}
	var scheme []name.Option
	if base.Scheme == "http" {
		scheme = append(scheme, name.Insecure)
	}
	at, err := name.ParseReference(text, scheme...)
	return at, options, err
}

func storedCredentials(ctx context.Context, h *house, name string) (upstream.Credentials, error) {
	v, err := openVault(h.config, h.store, slog.New(slog.DiscardHandler))
	if err != nil {
		return upstream.Credentials{}, err
	}
	return v.Credentials(ctx, name)
}

// imageInLayout returns the image of an OCI layout: the only one, or the one for the
// platform.
func imageInLayout(dir string, p v1.Platform) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	return imageInIndex(index, p, 0)
}

func imageInIndex(index v1.ImageIndex, p v1.Platform, depth int) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	fits := match.Platforms(p)
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex() && depth < 4:
			child, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			return imageInIndex(child, p, depth+1)
		case d.MediaType.IsImage() && (fits(d) || len(m.Manifests) == 1):
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("it holds no image for %s", p)
}

// maxArchive bounds what an OCI archive may unpack to, in bytes.
const maxArchive = 64 << 30

// untar unpacks the regular files of an OCI archive: a layout has no others.
func untar(file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	left := int64(maxArchive)
	for r := tar.NewReader(f); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("no tar archive: %w", err)
		}
		if head.Typeflag != tar.TypeReg {
			continue
		}
		if left -= head.Size; left < 0 {
			return fmt.Errorf("it unpacks to more than %s", bytesText(maxArchive))
		}
		if err := unpackFile(root, head, r); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, head *tar.Header, r io.Reader) error {
	path := filepath.Clean(head.Name)
	if dir := filepath.Dir(path); dir != "." {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	f, err := root.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// A countingReader reports how many bytes were read.
type countingReader struct {
	r      io.Reader
	n      int64
	report func(int64)
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.report(c.n)
	return n, err
}

func unmarshal(what string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("its %s can't be read: %w", what, err)
	}
	return nil
}
