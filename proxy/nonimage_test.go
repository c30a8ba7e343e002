package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// Media types as cosign, notation, Helm, buildx and the WebAssembly tools write them.
const (
	typeBundle      = "application/vnd.dev.sigstore.bundle.v0.3+json"
	typeSimple      = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeDSSE        = "application/vnd.dsse.envelope.v1+json"
	typeInToto      = "application/vnd.in-toto+json"
	typeHelmConfig  = "application/vnd.cncf.helm.config.v1+json"
	typeHelmContent = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	typeHelmProof   = "application/vnd.cncf.helm.chart.provenance.v1.prov"
	typeNotation    = "application/vnd.cncf.notary.signature"
	typeAttestation = "application/vnd.docker.attestation.manifest.v1+json"
)

// A nonImage is a manifest as some program writes it, that is nothing a runtime runs.
type nonImage struct {
	what         string
	tag          string // where it is found by one; %s is for the hex digest of its subject
	artifactType string
	config       string   // media type; of an image's, the config lists the layers' digests
	inline       bool     // the config's content stands in the manifest too, as oras writes it
	layers       []packed // diffID is not used
	subject      bool
	annotations  map[string]string
}

func nonImages() []nonImage {
	statement := func(predicate string, n int) []byte {
		return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":%q,"subject":[],"predicate":{"padding":%q}}`, predicate, strings.Repeat("x", n))
	}
	envelope := fmt.Appendf(nil, `{"payloadType":%q,"payload":"e30=","signatures":[{"keyid":"","sig":"MEUCIQDx"}]}`, typeInToto)
	bundle := fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{},"dsseEnvelope":%s}`, typeBundle, envelope)
	signed := map[string]string{"dev.cosignproject.cosign/signature": "MEUCIQDxnotarealsignature", "dev.sigstore.cosign/certificate": "-----BEGIN CERTIFICATE-----\n"}
	payload := func(n int) []byte {
		return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"sha256:%064d"},"type":"cosign container image signature"},"optional":null}`, n)
	}
	return []nonImage{
		{what: "cosign .sig of two signers", tag: "sha256-%s.sig", config: ocispec.MediaTypeImageConfig,
			layers: []packed{{mediaType: typeSimple, data: payload(1), annotations: signed}, {mediaType: typeSimple, data: payload(2), annotations: signed}}},
		{what: "cosign .att", tag: "sha256-%s.att", config: ocispec.MediaTypeImageConfig,
			layers: []packed{{mediaType: typeDSSE, data: envelope, annotations: map[string]string{"predicateType": "https://spdx.dev/Document", "dev.cosignproject.cosign/signature": ""}}}},
		{what: "cosign .sbom", tag: "sha256-%s.sbom", config: ocispec.MediaTypeImageConfig,
			layers: []packed{{mediaType: "text/spdx+json", data: []byte(`{"spdxVersion":"SPDX-2.3","packages":[]}`)}}},
		{what: "Sigstore bundle", artifactType: typeBundle, config: ocispec.MediaTypeEmptyJSON, subject: true,
			layers:      []packed{{mediaType: typeBundle, data: bundle}},
			annotations: map[string]string{"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}},
		{what: "notation signature", config: typeNotation, subject: true, layers: []packed{{mediaType: "application/jose+json", data: []byte(`{"payload":"e30"}`)}}},
		{what: "SBOM that oras attached", artifactType: "application/spdx+json", config: ocispec.MediaTypeEmptyJSON, inline: true, subject: true,
			layers: []packed{{mediaType: "application/spdx+json", data: []byte(`{"spdxVersion":"SPDX-2.3"}`), annotations: map[string]string{"org.opencontainers.image.title": "sbom.spdx.json"}}}},
		{what: "buildx attestation", config: ocispec.MediaTypeImageConfig,
			layers: []packed{
				{mediaType: typeInToto, data: statement("https://spdx.dev/Document", 300_000), annotations: map[string]string{"in-toto.io/predicate-type": "https://spdx.dev/Document"}},
				{mediaType: typeInToto, data: statement("https://slsa.dev/provenance/v0.2", 10), annotations: map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}},
			}},
		{what: "buildx attestation as an OCI artifact", artifactType: typeAttestation, config: ocispec.MediaTypeEmptyJSON, subject: true,
			layers: []packed{{mediaType: typeInToto, data: statement("https://slsa.dev/provenance/v1", 10)}}},
		{what: "Helm chart", tag: "1.4.0", config: typeHelmConfig,
			layers: []packed{{mediaType: typeHelmContent}, {mediaType: typeHelmProof, data: []byte("-----BEGIN PGP SIGNED MESSAGE-----\n")}}},
		{what: "WebAssembly component", tag: "wasm", config: "application/vnd.wasm.config.v0+json", layers: []packed{{mediaType: "application/wasm", data: []byte("\x00asm\r\x00\x01\x00")}}},
		{what: "WebAssembly module of wasm-to-oci", tag: "wasm-module", config: "application/vnd.wasm.config.v1+json",
			layers: []packed{{mediaType: "application/vnd.wasm.content.layer.v1+wasm", data: []byte("\x00asm\x01\x00\x00\x00")}}},
	}
}

// pushed is a nonImage as it lies at the origin.
type pushed struct {
	*image
	desc ocispec.Descriptor
	body []byte
	tag  string
}

// pushNonImage pushes n, with a config that a runtime can read where disguised says so.
func (l *lab) pushNonImage(repo string, n nonImage, subject *image, disguised bool) pushed {
	l.Helper()
	p := &image{repo: repo, bytes: map[digest.Digest][]byte{}}
	put := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: l.origin.PutBlob(repo, data), Size: int64(len(data))}
		p.bytes[d.Digest] = data
		return d
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, layer := range n.layers {
		if layer.data == nil {
			layer.data, layer.diffID = l.chart(), "sha256:"+digest.Digest(strings.Repeat("0", 64))
		}
		d := put(layer.mediaType, layer.data)
		d.Annotations = layer.annotations
		p.layers = append(p.layers, d)
		if layer.diffID == "" {
			layer.diffID = d.Digest // it is not compressed
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
	}
	raw := []byte("{}")
	if n.config == ocispec.MediaTypeImageConfig || disguised {
		raw = l.json(config)
	}
	p.config = put(n.config, raw)
	if n.inline {
		p.config.Data = raw
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: n.artifactType, Config: p.config, Layers: p.layers, Annotations: n.annotations}
	if n.subject {
		d := l.descriptor(subject, "amd64")
		d.Platform = nil
		m.Subject = &d
	}
	out := pushed{image: p, body: l.json(m)}
	if strings.Contains(n.tag, "%s") {
		out.tag = fmt.Sprintf(n.tag, subject.digest.Encoded())
	} else {
		out.tag = n.tag
	}
	p.digest = l.origin.PutManifest(repo, out.tag, ocispec.MediaTypeImageManifest, out.body)
	out.desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: p.digest, Size: int64(len(out.body))}
	return out
}

func (l *lab) json(v any) []byte {
	l.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.Fatal(err)
	}
	return b
}

// chart is the packed folder of a Helm chart.
func (l *lab) chart() []byte {
	l.Helper()
	chart := odd(l.T, "helm-chart")
	var m ocispec.Manifest
	if err := json.Unmarshal(chart.Manifest, &m); err != nil {
		l.Fatal(err)
	}
	return chart.Blobs[m.Layers[0].Digest]
}

// passes checks that what was pushed comes through as it lies upstream, by every way.
func (l *lab) passes(p pushed) {
	l.Helper()
	etag := func(d digest.Digest) string { return `"` + d.String() + `"` }
	manifest := []string{"Content-Type: " + ocispec.MediaTypeImageManifest, fmt.Sprint("Content-Length: ", len(p.body)),
		"Docker-Content-Digest: " + p.digest.String(), "ETag: " + etag(p.digest), "Warning:"}
	refs := []string{p.digest.String()}
	if p.tag != "" {
		refs = append(refs, p.tag)
	}
	for range 2 { // cold, and then known
		for _, ref := range refs {
			l.check(exchange{what: "manifest", path: manifestPath(p.repo, ref), status: 200, want: manifest, body: p.body})
		}
		for _, d := range p.blobs() {
			data, path := p.bytes[d.Digest], blobPath(p.repo, d)
			whole := []string{"Content-Type: application/octet-stream", fmt.Sprint("Content-Length: ", len(data)), "Docker-Content-Digest: " + d.Digest.String(), "ETag: " + etag(d.Digest), "Warning:"}
			l.check(exchange{what: "blob, whole", path: path, status: 200, want: whole, body: data})
			l.check(exchange{what: "blob, its last byte", path: path, header: []string{"Range: bytes=-1"}, status: 206, body: data[len(data)-1:]})
			l.check(exchange{what: "blob, from its second byte", path: path, header: []string{"Range: bytes=1-"}, status: 206, body: data[1:]})
		}
	}
	for _, ref := range refs {
		l.check(exchange{what: "manifest held already", path: manifestPath(p.repo, ref), header: []string{"If-None-Match: " + etag(p.digest)}, status: http.StatusNotModified})
	}
	a, err := l.gateway.Answer(l.Context(), auth.Caller{}, p.repo+"@"+p.digest.String(), "linux/amd64", time.Now().Add(patience))
	if err != nil || a.Scan.State != scan.Unsupported || !a.Decision.Allow {
		l.Errorf("the answer is %+v %+v, %v", a.Scan, a.Decision, err)
	}
}

// What is no image passes as it is, however it is asked for, whatever becomes of the
// image that it is about, and with no vulnerability database to be had.
func TestNonImages(t *testing.T) {
	t.Parallel()
	for _, n := range nonImages() {
		for _, world := range []string{"all is well", "its image is denied", "no database", "blobs before the verdict"} {
			t.Run(n.what+"/"+world, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, func(l *lab, _ *policy.Config) {
					l.gateway.Gate.HeaderWait = patience
					switch world {
					case "no database":
						l.gateway.Scanner.Database = func(context.Context) (scan.Database, error) { return scan.Database{}, scan.ErrDatabaseMissing }
					case "blobs before the verdict":
						l.gateway.Gate.ManifestWait = 0
					}
				})
				subject := l.push("acme/app", "one", 1000)
				if world == "its image is denied" {
					l.engine.condemn(subject.digest)
					if r := l.scanned(subject); r.status != 403 {
						t.Fatalf("a bad image: %d", r.status)
					}
				}
				l.passes(l.pushNonImage("acme/app", n, subject, false))
				if n := l.engine.catalogued(); world == "no database" && n != 0 {
					t.Errorf("%d catalogues were made of what is no image", n)
				}
			})
		}
	}
}

func (e *engine) catalogued() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scans
}

// A root file system in the clothes of something that is no image does not pass,
// wherever a runtime would run it: by its config's type, by its layers' types or by
// their bytes.
func TestRootFileSystemInDisguise(t *testing.T) {
	t.Parallel()
	type disguise struct {
		what string
		wear func(*nonImage, packed)
	}
	disguises := []disguise{
		{"in the place of its layers", func(n *nonImage, fs packed) {
			n.config = ocispec.MediaTypeImageConfig // or nothing would run it
			fs.mediaType, fs.annotations = n.layers[0].mediaType, n.layers[0].annotations
			n.layers = []packed{fs}
		}},
		{"behind its layers", func(n *nonImage, fs packed) {
			n.config = ocispec.MediaTypeImageConfig
			fs.mediaType = n.layers[0].mediaType
			n.layers = append(n.layers, fs)
		}},
		{"by its own type under another's config", func(n *nonImage, fs packed) { n.layers = append(n.layers, fs) }},
		{"by Docker's type under another's config", func(n *nonImage, fs packed) {
			fs.mediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
			n.layers = []packed{fs}
		}},
	}
	for i, n := range nonImages() {
		for _, d := range disguises {
			t.Run(n.what+"/"+d.what, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
				subject := l.push("acme/app", "one", 1000)
				fs := l.tarOf(ocispec.MediaTypeImageLayerGzip, 200_000)
				n := nonImages()[i]
				d.wear(&n, fs)
				p := l.pushNonImage("acme/app", n, subject, true)
				l.engine.condemn(p.digest)
				led := newLedger()
				for _, ref := range []string{p.digest.String(), p.tag} {
					if ref != "" {
						l.get("GET", manifestPath(p.repo, ref), patience)
					}
				}
				for i, d := range p.layers {
					r := l.get("GET", blobPath(p.repo, d), patience)
					if bytes.Equal(r.body, p.bytes[d.Digest]) {
						t.Errorf("layer %d came whole", i)
					}
					if r.status == 200 {
						led.add(d.Digest, 0, int64(len(r.body)))
					}
					l.get("GET", blobPath(p.repo, d), patience, "Range", "bytes=-1")
				}
				l.kept(led, p.image)
				l.refused(p.image)
			})
		}
	}
}

// An index as buildx pushes it: the attestation of each image stands beside it, for a
// platform that no machine has. Clients fetch both.
func TestAttestationsInAnIndex(t *testing.T) {
	t.Parallel()
	for _, bad := range []bool{false, true} {
		t.Run(fmt.Sprint("denied ", bad), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
			img := l.push("acme/app", "", 1000)
			if bad {
				l.engine.condemn(img.digest)
			}
			children := []ocispec.Descriptor{l.descriptor(img, "amd64")}
			var attestations []pushed
			for _, n := range nonImages() {
				if !strings.HasPrefix(n.what, "buildx") {
					continue
				}
				p := l.pushNonImage("acme/app", n, img, false)
				p.desc.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
				p.desc.ArtifactType = n.artifactType
				p.desc.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": img.digest.String()}
				children, attestations = append(children, p.desc), append(attestations, p)
			}
			l.index("acme/app", "multi", children...)
			l.want(200, "", "GET", manifestPath("acme/app", "multi"))
			want := 200
			if bad {
				want = 403
			}
			if r := l.scanned(img); r.status != want {
				t.Fatalf("its image: %d %s", r.status, r.message())
			}
			for _, p := range attestations {
				l.passes(p)
			}
			l.want(want, "", "GET", manifestPath("acme/app", "multi"))
			l.want(want, "", "HEAD", manifestPath("acme/app", "multi"))
			l.want(want, "", "GET", manifestPath("acme/app", img.digest.String()))
		})
	}
}

// What a client's own verification asks for: the list of referrers, the tag that stands
// in for it, and what they name.
func TestReferrersOfADeniedImage(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
	img := l.deny("acme/app", "one", 1000)
	for _, n := range nonImages() {
		if !n.subject {
			continue
		}
		p := l.pushNonImage("acme/app", n, img, false)
		p.desc.ArtifactType, p.desc.Annotations = n.artifactType, n.annotations
		if p.desc.ArtifactType == "" {
			p.desc.ArtifactType = n.config // image specification, "Listing Referrers"
		}
		r := l.ask("GET", "/v2/acme/app/referrers/"+img.digest.String())
		var index ocispec.Index
		if err := json.Unmarshal(r.body, &index); err != nil || r.status != 200 {
			t.Fatalf("%d, %v", r.status, err)
		}
		found := false
		for _, d := range index.Manifests {
			found = found || string(l.json(d)) == string(l.json(p.desc))
		}
		if !found {
			t.Errorf("%s is not among the referrers: %s", n.what, r.body)
		}
		l.passes(p)
	}
	fallback := l.index("acme/app", "sha256-"+img.digest.Encoded(), l.pushNonImage("acme/app", nonImages()[3], img, false).desc)
	l.check(exchange{what: "the tag in place of the list", path: manifestPath("acme/app", "sha256-"+img.digest.Encoded()), status: 200, want: []string{"Docker-Content-Digest: " + fallback.String()}})
}
