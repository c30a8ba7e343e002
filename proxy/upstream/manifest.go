package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest is the largest manifest in bytes, the least that the distribution
// specification asks registries to take, and what clients accept.
const maxManifest = 4 << 20

// accepted are the manifest types that are asked for. Docker's schema 1 is among
// them, last, so that an image that exists only so can be refused for what it is.
var accepted = []string{
	ocispec.MediaTypeImageIndex,
	ocispec.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.oci.artifact.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1",
	"application/vnd.docker.distribution.manifest.v1+json;q=0.1",
}

// A Manifest is a manifest or an index, and the exact bytes that its digest is of.
type Manifest struct {
	ocispec.Descriptor // MediaType, Digest, Size
	Body               []byte
}

// Resolve returns what a tag or digest stands for now, without its body where the
// registry can do so. Its Size is -1 where the registry doesn't tell.
func (r *Registry) Resolve(ctx context.Context, repo, reference string) (ocispec.Descriptor, error) {
	if err := checkReference(reference); err != nil {
		return ocispec.Descriptor{}, err
	}
	resp, err := r.open(ctx, manifestCall(http.MethodHead, repo, reference))
	switch {
	case Denied(err), hasStatus(err, http.StatusMethodNotAllowed):
		// A HEAD carries no reason, and some registries know no HEAD.
		m, err := r.Manifest(ctx, repo, reference)
		return m.Descriptor, err
	case err != nil:
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if !usable(d) {
		m, err := r.Manifest(ctx, repo, reference)
		return m.Descriptor, err
	}
	if want := digest.Digest(reference); usable(want) && want.Algorithm() == d.Algorithm() && want != d {
		return ocispec.Descriptor{}, &Error{Op: opManifest, URL: shown(resp.Request.URL), Err: contentError("the registry says that its digest is %s", d)}
	}
	return ocispec.Descriptor{MediaType: mediaType(resp.Header), Digest: d, Size: resp.ContentLength}, nil
}

// Manifest fetches a manifest of at most 4 MiB by tag or digest, and verifies it: its
// digest against the reference and against the registry's own, its media type against
// what the body says. The digest returned is the reference, where that is one, else of
// the registry's algorithm, else sha256.
func (r *Registry) Manifest(ctx context.Context, repo, reference string) (Manifest, error) {
	if err := checkReference(reference); err != nil {
		return Manifest{}, err
	}
	resp, body, err := r.read(ctx, manifestCall(http.MethodGet, repo, reference), maxManifest)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Body: body}
	m.Size = int64(len(body))
	if err := m.verify(digest.Digest(reference), digest.Digest(resp.Header.Get("Docker-Content-Digest")), mediaType(resp.Header)); err != nil {
		return Manifest{}, &Error{Op: opManifest, URL: shown(resp.Request.URL), Err: err}
	}
	return m, nil
}

func (m *Manifest) verify(want, claimed digest.Digest, contentType string) error {
	m.Digest = digest.FromBytes(m.Body)
	if usable(claimed) {
		m.Digest = claimed.Algorithm().FromBytes(m.Body)
		if claimed != m.Digest {
			return contentError("its digest is %s, and the registry says %s", m.Digest, claimed)
		}
	}
	if usable(want) {
		m.Digest = want.Algorithm().FromBytes(m.Body)
		if want != m.Digest {
			return contentError("its digest is %s", m.Digest)
		}
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(m.Body, &doc); err != nil {
		return contentError("it is no JSON object")
	}
	m.MediaType = contentType
	switch {
	case doc.MediaType == "" || doc.MediaType == contentType:
	case slices.Contains([]string{"", "application/json", "application/octet-stream", "text/plain"}, contentType):
		m.MediaType = doc.MediaType // a registry that keeps no types
	default:
		return contentError("it is served as %q and calls itself %q", clean(contentType, 100, nil), clean(doc.MediaType, 100, nil))
	}
	return nil
}

func manifestCall(method, repo, reference string) call {
	c := pull(opManifest, method, repo, "manifests", reference)
	c.header.Set("Accept", strings.Join(accepted, ", "))
	return c
}

// checkReference refuses digests that could not be verified.
func checkReference(reference string) error {
	if strings.Contains(reference, ":") && !usable(digest.Digest(reference)) {
		return fmt.Errorf("not a sha256 or sha512 digest: %q", clean(reference, 150, nil))
	}
	return nil
}

// mediaType returns the Content-Type without parameters, in lower case.
func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// usable reports whether d is a digest that we can compute.
func usable(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}
