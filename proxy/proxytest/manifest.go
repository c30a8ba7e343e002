package proxytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxManifest bounds a manifest that is put over HTTP. The specification asks for
// 4 MiB at least; PutManifest has no bound, for tests of those that are larger.
const maxManifest = 8 << 20

func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request, q Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return s.getManifest(w, r, q)
	case http.MethodPut:
		return s.putManifest(w, r, q)
	case http.MethodDelete:
		if !s.registry.deleteManifest(q.Repository, q.Reference) {
			return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "no manifest %s in %s", q.Reference, q.Repository)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	return notAllowed(r)
}

func (s *Server) getManifest(w http.ResponseWriter, r *http.Request, q Request) error {
	d, m, ok := s.registry.manifest(q.Repository, q.Reference)
	if !ok {
		return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "no manifest %s in %s", q.Reference, q.Repository)
	}
	h := w.Header()
	h.Set("Content-Type", m.mediaType)
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", `"`+d.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.data))
	return nil
}

func (s *Server) putManifest(w http.ResponseWriter, r *http.Request, q Request) error {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		return refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "manifest: %v", err)
	}
	if !json.Valid(data) {
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "manifest is no JSON")
	}
	f := readFields(data)
	mediaType := r.Header.Get("Content-Type")
	if mediaType == "" {
		mediaType = f.mediaType()
	}
	if f.MediaType != "" && f.MediaType != mediaType {
		return refuse(http.StatusBadRequest, "MANIFEST_INVALID", "Content-Type %s, but the manifest says %s", mediaType, f.MediaType)
	}
	d, tags, err := nameManifest(q.Reference, r.URL.Query()["tag"], data)
	if err != nil {
		return err
	}
	s.registry.putManifest(q.Repository, d, manifest{mediaType, data}, tags...)
	h := w.Header()
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Location", "/v2/"+q.Repository+"/manifests/"+d.String())
	if f.Subject != nil {
		h.Set("OCI-Subject", f.Subject.Digest.String())
	}
	for _, t := range r.URL.Query()["tag"] {
		h.Add("OCI-Tag", t)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// nameManifest returns the digest and the tags under which a manifest is put, by
// tag, or by digest with tags as parameters.
func nameManifest(reference string, params []string, data []byte) (digest.Digest, []string, error) {
	tags := params
	d, err := digest.Parse(reference)
	if err != nil {
		d = digest.FromBytes(data)
		tags = append([]string{reference}, params...)
	} else if d != d.Algorithm().FromBytes(data) {
		return "", nil, refuse(http.StatusBadRequest, "DIGEST_INVALID", "manifest is not %s", d)
	}
	if bad := slices.IndexFunc(tags, func(t string) bool { return !tagRE.MatchString(t) }); bad >= 0 {
		return "", nil, refuse(http.StatusBadRequest, "MANIFEST_INVALID", "%q is no tag", tags[bad])
	}
	return d, tags, nil
}

func (s *Server) serveTags(w http.ResponseWriter, r *http.Request, q Request) error {
	tags, ok := s.registry.tags(q.Repository)
	if !ok {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "no repository %s", q.Repository)
	}
	query := r.URL.Query()
	if last := query.Get("last"); last != "" {
		tags = tags[upper(tags, last):]
	}
	limit := s.origin.PageSize
	if text := query.Get("n"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%s", text)
		}
		if limit == 0 || n < limit {
			limit = n
		}
		tags = tags[:min(len(tags), max(limit, 0))]
	} else if limit > 0 {
		tags = tags[:min(len(tags), limit)]
	}
	if all, _ := s.registry.tags(q.Repository); len(tags) > 0 && tags[len(tags)-1] != all[len(all)-1] {
		next := url.Values{"n": {fmt.Sprint(limit)}, "last": {tags[len(tags)-1]}}
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, q.Repository, next.Encode()))
	}
	return writeJSON(w, http.StatusOK, "application/json", map[string]any{"name": q.Repository, "tags": tags})
}

// upper returns the index of the first tag behind last, which need not be there.
func upper(tags []string, last string) int {
	at, found := slices.BinarySearchFunc(tags, last, compareTags)
	if found {
		at++
	}
	return at
}

func (s *Server) serveReferrers(w http.ResponseWriter, r *http.Request, q Request) error {
	if s.origin.NoReferrers {
		return refuse(http.StatusNotFound, "NOT_FOUND", "no referrers API here")
	}
	d, err := digest.Parse(q.Reference)
	if err != nil {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "%q is no digest", q.Reference)
	}
	list := s.registry.referrers(q.Repository, d)
	if t := r.URL.Query().Get("artifactType"); t != "" {
		list = slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != t })
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, http.StatusOK, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: list,
	})
}

func (s *Server) serveHistory(w http.ResponseWriter, q Request) error {
	moves, ok := s.registry.history(q.Repository, q.Reference)
	if !ok {
		return refuse(http.StatusNotFound, "MANIFEST_UNKNOWN", "no tag %s in %s", q.Reference, q.Repository)
	}
	return writeJSON(w, http.StatusOK, "application/json", map[string]any{"history": moves})
}
