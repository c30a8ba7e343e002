package upstream

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

func TestResolve(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	d := s.PutManifest(repo, "latest", "", []byte(plainManifest))
	want := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(plainManifest))}
	head := proxytest.Request{Kind: proxytest.KindManifest, Method: http.MethodHead}.Matches
	for _, tt := range []struct {
		what  string
		fault proxytest.Fault
	}{
		{"HEAD", nil},
		{"HEAD without the digest header", proxytest.SetHeader("Docker-Content-Digest", "")},
		{"no HEAD at all", proxytest.Status(405, "UNSUPPORTED")},
	} {
		remove := func() {}
		if tt.fault != nil {
			remove = s.Inject(0, head, tt.fault)
		}
		for _, ref := range []string{"latest", d.String()} {
			got, err := r.Resolve(t.Context(), repo, ref)
			if err != nil || got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
				t.Errorf("%s of %s: got %+v, %v", tt.what, ref, got, err)
			}
		}
		remove()
	}
	// A denial has its reason in the GET, since a HEAD has no body.
	defer s.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, proxytest.Status(403, "DENIED"))()
	if _, err := r.Resolve(t.Context(), repo, "latest"); !Denied(err) || !strings.Contains(err.Error(), "403 DENIED: Forbidden") {
		t.Errorf("got %v, want the registry's own reason", err)
	}
}

func TestManifestIsVerified(t *testing.T) {
	other := digest.FromString("other")
	big := append([]byte(`{"schemaVersion":2,"x":"`), bytes.Repeat([]byte("x"), maxManifest)...)
	oci, docker := ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json"
	sha512 := digest.SHA512.FromString(plainManifest)
	for _, tt := range []struct {
		what      string
		body      []byte
		mediaType string
		byTag     bool
		fault     proxytest.Fault
		as        digest.Digest
		want      string // part of the error, "" is success
	}{
		{what: "as it should be", body: []byte(plainManifest), mediaType: oci},
		{what: "by tag", body: []byte(plainManifest), mediaType: oci, byTag: true},
		{what: "by sha512", body: []byte(plainManifest), mediaType: oci, as: sha512},
		{what: "type with a parameter", body: []byte(plainManifest), mediaType: oci, fault: proxytest.SetHeader("Content-Type", "Application/VND.oci.image.manifest.v1+json; charset=utf-8")},
		{what: "no type of its own", body: []byte(plainManifest), mediaType: oci, fault: proxytest.SetHeader("Content-Type", "application/json")},
		{what: "another digest", body: []byte(plainManifest), mediaType: oci, as: other, want: "its digest is sha256:"},
		{what: "another digest by tag", body: []byte(plainManifest), mediaType: oci, byTag: true, fault: proxytest.SetHeader("Docker-Content-Digest", other.String()), want: "the registry says"},
		{what: "a byte turned", body: []byte(plainManifest), mediaType: oci, fault: proxytest.Corrupt(20), want: "its digest is"},
		{what: "another type", body: []byte(plainManifest), mediaType: docker, want: "calls itself"},
		{what: "no JSON", body: []byte("<html>"), mediaType: oci, want: "no JSON object"},
		{what: "too large", body: big, mediaType: oci, want: "more than 4194304"},
		{what: "too large without a length", body: big, mediaType: oci, fault: proxytest.SetHeader("Content-Length", ""), want: "longer than 4194304"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s, r := start(t, proxytest.Origin{})
			d := digest.FromBytes(tt.body)
			if tt.as != "" {
				d = tt.as
			}
			s.PutManifestAs(repo, "latest", tt.mediaType, d, tt.body)
			if tt.fault != nil {
				s.Inject(0, nil, tt.fault)
			}
			ref := d.String()
			if tt.byTag {
				ref = "latest"
			}
			m, err := r.Manifest(t.Context(), repo, ref)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || Unavailable(err) {
					t.Fatalf("got %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil || m.Digest != d || m.MediaType != oci || !bytes.Equal(m.Body, tt.body) || m.Size != int64(len(tt.body)) {
				t.Errorf("got %+v, %v", m.Descriptor, err)
			}
		})
	}
}
