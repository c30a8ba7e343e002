package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// Tags come in pages that lead to one another by the path that the client uses.
func TestTagPages(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"upstream's pages": 0, "smaller pages of upstream's": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, fronts(proxytest.Origin{PageSize: size}))
			for _, tag := range []string{"a", "b", "c", "d", "e"} {
				l.artifact("acme/app", tag, l.empty("acme/app"))
			}
			page := func(repo, link string, tags ...string) exchange {
				b, err := json.Marshal(map[string]any{"name": repo, "tags": append([]string{}, tags...)})
				if err != nil {
					t.Fatal(err)
				}
				e := exchange{status: 200, body: b, want: []string{"Content-Type: application/json", "Link:"}}
				if link != "" {
					e.want[1] = fmt.Sprintf(`Link: </v2/%s/tags/list?%s>; rel="next"`, repo, link)
				}
				return e
			}
			tests := []struct {
				path string
				want exchange
			}{
				{"acme/app/tags/list?n=2", page("acme/app", "last=b&n=2", "a", "b")},
				{"acme/app/tags/list?n=2&last=b", page("acme/app", "last=d&n=2", "c", "d")},
				{"acme/app/tags/list?n=2&last=d", page("acme/app", "", "e")},
				{"acme/app/tags/list?n=2&last=bb", page("acme/app", "last=d&n=2", "c", "d")},
				{"acme/app/tags/list?n=2&last=zz", page("acme/app", "")},
				{"acme/app/tags/list?n=0", page("acme/app", "")},
				{"acme/app/tags/list?n=0&last=b", page("acme/app", "")},
				{"cgr.test/acme/app/tags/list?n=1", page("cgr.test/acme/app", "last=a&n=1", "a")},
				{"acme/app/tags/list?n=1&ns=cgr.test", page("acme/app", "last=a&n=1&ns=cgr.test", "a")},
				{"cgr.test/acme/app/tags/list?n=1&ns=", page("cgr.test/acme/app", "last=a&n=1", "a")},
			}
			if size == 0 {
				tests = append(tests, []struct {
					path string
					want exchange
				}{
					{"acme/app/tags/list", page("acme/app", "", "a", "b", "c", "d", "e")},
					{"acme/app/tags/list?n=99999999", page("acme/app", "", "a", "b", "c", "d", "e")},
				}...)
			} else {
				tests = append(tests, []struct {
					path string
					want exchange
				}{
					{"acme/app/tags/list", page("acme/app", "last=b", "a", "b")},
					{"acme/app/tags/list?last=b", page("acme/app", "last=d", "c", "d")},
				}...)
			}
			for _, tt := range tests {
				tt.want.what, tt.want.path = tt.path, "/v2/"+tt.path
				l.check(tt.want)
			}
		})
	}
}

// An upstream that knows no pages sends every tag each time: the gateway makes the pages,
// which end.
func TestTagsWithoutPages(t *testing.T) {
	t.Parallel()
	l := newLab(t, fronts(proxytest.Origin{}))
	l.artifact("acme/app", "one", l.empty("acme/app"))
	many := make([]string, 25_000)
	for i := range many {
		many[i] = fmt.Sprintf("t%06d", i)
	}
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindTags}.Matches, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		json.NewEncoder(w).Encode(map[string]any{"name": "acme/app", "tags": many})
	})
	for _, n := range []int{0, 4000} {
		path, got := "/v2/acme/app/tags/list", []string{}
		if n > 0 {
			path += fmt.Sprint("?n=", n)
		}
		for pages := 0; path != "" && pages < 20; pages++ {
			r := l.ask("GET", path)
			var doc struct{ Tags []string }
			if err := json.Unmarshal(r.body, &doc); err != nil || len(doc.Tags) > 10_000 || n > 0 && len(doc.Tags) > n {
				t.Fatalf("%s: %d tags, %v", path, len(doc.Tags), err)
			}
			got = append(got, doc.Tags...)
			path, _, _ = strings.Cut(strings.TrimPrefix(r.header.Get("Link"), "<"), ">")
		}
		if !slices.Equal(got, many) {
			t.Errorf("pages of %d: %d tags in all, want %d", n, len(got), len(many))
		}
	}
}

// fronts puts a lab in front of another origin that wants no token.
func fronts(o proxytest.Origin) change {
	return func(l *lab, _ *policy.Config) {
		origin, err := proxytest.Start(o)
		if err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { origin.Close() })
		l.origin = origin
		l.gateway.Upstreams[0].Registry.URL = origin.URL()
	}
}

// What refers to an image is listed and filtered, whether upstream filters, or has only
// the tag that stands in for the list, which is shorter than a sha512 digest.
func TestReferrers(t *testing.T) {
	t.Parallel()
	for _, fallback := range []bool{false, true} {
		t.Run(fmt.Sprint("fallback ", fallback), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, fronts(proxytest.Origin{NoReferrers: fallback}))
			long := odd(t, "sha512")
			long.Push(l.origin, "acme/app")
			short := l.push("acme/app", "one", 1000)
			for _, subject := range []digest.Digest{short.digest, long.Digest} {
				l.refer(subject, fallback)
				path := "/v2/acme/app/referrers/" + subject.String()
				for _, tt := range []struct {
					query   string
					types   []string
					applied string
				}{
					{"", []string{"application/x-sbom", "application/x-signature"}, ""},
					{"?artifactType=application/x-sbom", []string{"application/x-sbom"}, " artifactType"},
					{"?artifactType=application%2Fx-none&ns=cgr.test", nil, " artifactType"},
				} {
					l.check(exchange{what: "referrers" + tt.query, path: path + tt.query, status: 200, want: []string{"Content-Type: " + ocispec.MediaTypeImageIndex, "OCI-Filters-Applied:" + tt.applied}})
					var index ocispec.Index
					var types []string
					if err := json.Unmarshal(l.ask("GET", path+tt.query).body, &index); err != nil || index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex || index.Manifests == nil {
						t.Fatalf("%v, %+v", err, index)
					}
					for _, m := range index.Manifests {
						types = append(types, m.ArtifactType)
					}
					if slices.Sort(types); !slices.Equal(types, tt.types) {
						t.Errorf("%s: %v, want %v", tt.query, types, tt.types)
					}
				}
			}
			l.check(exchange{what: "referrers of nothing", path: "/v2/acme/app/referrers/sha256:" + strings.Repeat("0", 64), status: 200, want: []string{"OCI-Filters-Applied:"}})
		})
	}
}

// refer pushes two artifacts with a subject, and the tag that lists them where there is
// no API for that (distribution specification, "Referrers Tag Schema").
func (l *lab) refer(subject digest.Digest, fallback bool) {
	l.Helper()
	s, _ := l.origin.Descriptor("acme/app", subject.String())
	var list []ocispec.Descriptor
	for _, kind := range []string{"application/x-signature", "application/x-sbom"} {
		d := l.putJSON("acme/app", "", ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			ArtifactType: kind, Config: l.empty("acme/app"), Layers: []ocispec.Descriptor{l.empty("acme/app")}, Subject: &s,
		})
		desc, _ := l.origin.Descriptor("acme/app", d.String())
		desc.ArtifactType = kind
		list = append(list, desc)
	}
	if fallback {
		l.index("acme/app", subject.Algorithm().String()+"-"+subject.Encoded()[:64], list...)
	}
}
