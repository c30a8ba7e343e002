package proxytest

import (
	_ "crypto/sha256" // the algorithms of digests
	_ "crypto/sha512"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// store is everything that was pushed. Contents are immutable once they are in.
type store struct {
	mu       sync.RWMutex // guards everything below
	contents map[digest.Digest][]byte
	repos    map[string]*repository
	uploads  map[string]*upload
}

type repository struct {
	blobs     map[digest.Digest]bool
	manifests map[digest.Digest]manifest
	order     []digest.Digest // of manifests, as they came
	tags      map[string]digest.Digest
	history   map[string][]move // of tags, oldest first
}

type manifest struct {
	mediaType string
	data      []byte
}

// A move is what Chainguard's tag history tells of a tag.
type move struct {
	Updated time.Time     `json:"updateTimestamp"`
	Digest  digest.Digest `json:"digest"`
}

// An upload is a blob while it still arrives.
type upload struct {
	mu         sync.Mutex // guards data, and keeps chunks of one upload apart
	repository string
	data       []byte
}

func newStore() *store {
	return &store{
		contents: map[digest.Digest][]byte{},
		repos:    map[string]*repository{},
		uploads:  map[string]*upload{},
	}
}

// repo returns the repository of that name and makes it where there is none.
// The caller holds mu for writing.
func (s *store) repo(name string) *repository {
	r := s.repos[name]
	if r == nil {
		r = &repository{
			blobs:     map[digest.Digest]bool{},
			manifests: map[digest.Digest]manifest{},
			tags:      map[string]digest.Digest{},
			history:   map[string][]move{},
		}
		s.repos[name] = r
	}
	return r
}

func (s *store) putBlob(repo string, d digest.Digest, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contents[d] = data
	s.repo(repo).blobs[d] = true
}

func (s *store) blob(repo string, d digest.Digest) ([]byte, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.repos[repo]
	if r == nil || !r.blobs[d] {
		return nil, false
	}
	return s.contents[d], true
}

// mount links a blob of another repository, or of any where from is empty.
func (s *store) mount(repo, from string, d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, r := range s.repos {
		if r.blobs[d] && (from == "" || from == name) {
			s.repo(repo).blobs[d] = true
			return true
		}
	}
	return false
}

func (s *store) deleteBlob(repo string, d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[repo]
	if r == nil || !r.blobs[d] {
		return false
	}
	delete(r.blobs, d)
	for _, other := range s.repos {
		if other.blobs[d] {
			return true
		}
	}
	delete(s.contents, d)
	return true
}

func (s *store) putManifest(repo string, d digest.Digest, m manifest, tags ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repo(repo)
	if _, ok := r.manifests[d]; !ok {
		r.order = append(r.order, d)
	}
	r.manifests[d] = m
	for _, t := range tags {
		r.tags[t] = d
		r.history[t] = append(r.history[t], move{time.Now().UTC(), d})
	}
}

// manifest finds a manifest by tag or digest.
func (s *store) manifest(repo, reference string) (digest.Digest, manifest, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.repos[repo]
	if r == nil {
		return "", manifest{}, false
	}
	d, ok := r.tags[reference]
	if !ok {
		d = digest.Digest(reference)
	}
	m, ok := r.manifests[d]
	return d, m, ok
}

// deleteManifest removes a tag, or a manifest with all of its tags.
func (s *store) deleteManifest(repo, reference string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repos[repo]
	if r == nil {
		return false
	}
	if _, ok := r.tags[reference]; ok {
		delete(r.tags, reference)
		return true
	}
	d := digest.Digest(reference)
	if _, ok := r.manifests[d]; !ok {
		return false
	}
	delete(r.manifests, d)
	r.order = slices.DeleteFunc(r.order, func(o digest.Digest) bool { return o == d })
	maps.DeleteFunc(r.tags, func(_ string, t digest.Digest) bool { return t == d })
	return true
}

// tags returns the tags of a repository in the specification's order, which
// regards case only to break ties.
func (s *store) tags(repo string) ([]string, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.repos[repo]
	if r == nil {
		return nil, false
	}
	return slices.SortedFunc(maps.Keys(r.tags), compareTags), true
}

func compareTags(a, b string) int {
	if c := strings.Compare(strings.ToLower(a), strings.ToLower(b)); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

func (s *store) history(repo, tag string) ([]move, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.repos[repo]
	if r == nil || len(r.history[tag]) == 0 {
		return nil, false
	}
	return slices.Clone(r.history[tag]), true
}

// referrers lists the manifests whose subject is d, as they came.
func (s *store) referrers(repo string, d digest.Digest) []ocispec.Descriptor {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := []ocispec.Descriptor{}
	r := s.repos[repo]
	if r == nil {
		return list
	}
	for _, id := range r.order {
		m := r.manifests[id]
		f := readFields(m.data)
		if f.Subject == nil || f.Subject.Digest != d {
			continue
		}
		list = append(list, ocispec.Descriptor{
			MediaType:    m.mediaType,
			ArtifactType: f.artifactType(),
			Digest:       id,
			Size:         int64(len(m.data)),
			Annotations:  f.Annotations,
		})
	}
	return list
}

// fields is what the registry itself reads of a manifest.
type fields struct {
	SchemaVersion int                 `json:"schemaVersion"`
	MediaType     string              `json:"mediaType"`
	ArtifactType  string              `json:"artifactType"`
	Config        *ocispec.Descriptor `json:"config"`
	Manifests     json.RawMessage     `json:"manifests"`
	Subject       *ocispec.Descriptor `json:"subject"`
	Annotations   map[string]string   `json:"annotations"`
}

// readFields reads what it can: a manifest that is invalid has fewer fields.
func readFields(data []byte) fields {
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		return fields{}
	}
	return f
}

// artifactType is the type that referrers are filtered by: the manifest's own, else
// its config's media type.
func (f fields) artifactType() string {
	if f.ArtifactType == "" && f.Config != nil {
		return f.Config.MediaType
	}
	return f.ArtifactType
}

// mediaType guesses the type of a manifest that was put without one.
func (f fields) mediaType() string {
	switch {
	case f.MediaType != "":
		return f.MediaType
	case f.SchemaVersion == 1:
		return "application/vnd.docker.distribution.manifest.v1+prettyjws"
	case f.Manifests != nil && f.Config == nil:
		return ocispec.MediaTypeImageIndex
	}
	return ocispec.MediaTypeImageManifest
}
