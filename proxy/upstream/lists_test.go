package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

func TestTags(t *testing.T) {
	s, r := start(t, guarded)
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprintf("v%02d", i))
		s.PutManifest(repo, want[i], "", []byte(plainManifest))
	}
	var got []string
	last, pages := "", 0
	for {
		page, err := r.Tags(t.Context(), repo, 10, last)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, page.Tags...)
		pages++
		if last = page.Next; last == "" {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 3 {
		t.Errorf("%d pages: %s", pages, diff)
	}
	if all, err := r.Tags(t.Context(), repo, 0, ""); err != nil || len(all.Tags) != 25 || all.Next != "" || all.Name != repo {
		t.Errorf("got %+v, %v", all, err)
	}
	if _, err := r.Tags(t.Context(), "no.such/repo", 0, ""); !NotFound(err) {
		t.Errorf("no such repository: %v", err)
	}
}

func TestTagsLinks(t *testing.T) {
	for _, tt := range []struct{ link, next string }{
		{`</v2/a/tags/list?n=2&last=b>; rel="next"`, "b"},
		{`<https://other.example/v2/a/tags/list?last=b%2Fc&n=2>; rel=next`, "b/c"},
		{`<x?cursor=opaque>; rel="next"`, "z"},       // the last tag of the page
		{`</v2/a/tags/list?last=a>; rel="next"`, ""}, // the page that was asked for: a loop
		{`</v2/a/tags/list?last=b>; rel="prev"`, ""},
		{"", ""},
	} {
		s, r := start(t, proxytest.Origin{})
		s.Inject(0, nil, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			w.Header().Set("Link", tt.link)
			proxytest.Body("application/json", []byte(`{"name":"x","tags":["y","z"]}`))(w, q, next)
		})
		if page, err := r.Tags(t.Context(), repo, 2, "a"); err != nil || page.Next != tt.next {
			t.Errorf("Link %s: next is %q, want %q; %v", tt.link, page.Next, tt.next, err)
		}
	}
}

// artifact is a manifest with a subject, of some artifact type.
func artifact(subject ocispec.Descriptor, artifactType string) []byte {
	b, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "artifactType": artifactType,
		"config": ocispec.DescriptorEmptyJSON, "layers": []ocispec.Descriptor{ocispec.DescriptorEmptyJSON}, "subject": subject,
	})
	if err != nil {
		panic(err)
	}
	return b
}

func typesOf(t *testing.T, index []byte) []string {
	t.Helper()
	var doc ocispec.Index
	if err := json.Unmarshal(index, &doc); err != nil || doc.SchemaVersion != 2 || doc.MediaType != ocispec.MediaTypeImageIndex || doc.Manifests == nil {
		t.Fatalf("no index: %s, %v", index, err)
	}
	types := []string{}
	for _, d := range doc.Manifests {
		types = append(types, d.ArtifactType)
	}
	return types
}

func TestReferrers(t *testing.T) {
	s, r := start(t, guarded)
	subject := s.PutManifest(repo, "latest", "", []byte(plainManifest))
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: int64(len(plainManifest))}
	if refs, err := r.Referrers(t.Context(), repo, subject, ""); err != nil || len(typesOf(t, refs.Index)) != 0 {
		t.Errorf("no referrers: %s, %v", refs.Index, err)
	}
	s.PutManifest(repo, "", "", artifact(desc, "application/sbom"))
	s.PutManifest(repo, "", "", artifact(desc, "application/signature"))
	if refs, err := r.Referrers(t.Context(), repo, subject, ""); err != nil || len(typesOf(t, refs.Index)) != 2 || refs.FiltersApplied {
		t.Errorf("all: %s, %v", refs.Index, err)
	}
	refs, err := r.Referrers(t.Context(), repo, subject, "application/sbom")
	if err != nil || !cmp.Equal(typesOf(t, refs.Index), []string{"application/sbom"}) || !refs.FiltersApplied {
		t.Errorf("one type: %s, filtered %t, %v", refs.Index, refs.FiltersApplied, err)
	}
}

func TestReferrersTag(t *testing.T) {
	o := guarded
	o.NoReferrers = true
	s, r := start(t, o)
	subject := s.PutManifest(repo, "latest", "", []byte(plainManifest))
	refs, err := r.Referrers(t.Context(), repo, subject, "")
	if err != nil || len(typesOf(t, refs.Index)) != 0 {
		t.Errorf("no tag: %s, %v", refs.Index, err)
	}
	index := `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"mediaType":"x","digest":"` + subject.String() + `","size":1,"artifactType":"application/sbom"}]}`
	s.PutManifest(repo, "sha256-"+subject.Encoded(), "", []byte(index))
	refs, err = r.Referrers(t.Context(), repo, subject, "application/signature")
	if err != nil || string(refs.Index) != index || refs.FiltersApplied {
		t.Errorf("by tag: %s, %v", refs.Index, err)
	}
	s.Inject(0, proxytest.Request{Kind: proxytest.KindReferrers}.Matches, proxytest.Status(503, ""))
	if _, err = r.Referrers(t.Context(), repo, subject, ""); !Unavailable(err) {
		t.Errorf("a registry that is down is taken for one without referrers: %v", err)
	}
}

func TestReferrersPages(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	subject := s.PutManifest(repo, "latest", "", []byte(plainManifest))
	endless := false
	s.Inject(0, proxytest.Request{Kind: proxytest.KindReferrers}.Matches, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		page := len(q.URL.Query().Get("page"))
		if page < 2 || endless {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%s>; rel="next"`, q.URL.Path, strings.Repeat("x", page+1)))
		}
		proxytest.Body(ocispec.MediaTypeImageIndex, fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"artifactType":"p%d"}]}`, ocispec.MediaTypeImageIndex, page))(w, q, next)
	})
	refs, err := r.Referrers(t.Context(), repo, subject, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"p0", "p1", "p2"}, typesOf(t, refs.Index)); diff != "" {
		t.Error(diff)
	}
	endless = true
	if _, err := r.Referrers(t.Context(), repo, subject, ""); !errors.Is(err, ErrContent) {
		t.Errorf("pages without end: %v", err)
	}
}
