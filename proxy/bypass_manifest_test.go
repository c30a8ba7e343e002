package proxy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

const (
	ociConfig = ocispec.MediaTypeImageConfig
	helm      = "application/vnd.cncf.helm.config.v1+json"
	wasm      = "application/vnd.wasm.config.v0+json"
)

// tarOf returns a layer of about n random bytes, under a media type.
func (l *lab) tarOf(mediaType string, n int) packed {
	l.Helper()
	layers, err := l.random(n).Layers()
	if err != nil {
		l.Fatal(err)
	}
	data, diffID := l.layerBytes(layers[0])
	return packed{mediaType: mediaType, data: data, diffID: diffID}
}

// A manifest says by its types that it is no image, and a runtime takes it for one all
// the same. Each of these is scanned, and so denied for what it holds.
func TestTypesThatLie(t *testing.T) {
	t.Parallel()
	note := packed{mediaType: "application/vnd.dev.cosign.simplesigning.v1+json", data: []byte("no file system"), diffID: digest.FromString("no file system")}
	for _, configType := range []string{
		ociConfig, "application/vnd.docker.container.image.v1+json", strings.ToUpper(ociConfig), ociConfig + "; charset=utf-8", " " + ociConfig,
		// What docker takes for an image's config besides, since registries once wrote it.
		"", "application/octet-stream", "application/json", "text/html", "text/html; charset=utf-8", "Application/Octet-Stream",
	} {
		for _, layerType := range []string{ocispec.MediaTypeImageLayerGzip, "application/x-decoy", "", helm} {
			t.Run("config "+configType+" layer "+layerType, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				bad := l.pushPacked("acme/app", "bad", configType, l.tarOf(layerType, 90_000), l.tarOf(layerType, 400_000))
				l.engine.condemn(bad.digest)
				l.scanned(bad)
				l.refused(bad)
				mixed := l.pushPacked("acme/app", "mixed", configType, l.tarOf(layerType, 90_000), note)
				l.scanned(mixed)
				l.refused(mixed)
			})
		}
	}
	for _, configType := range []string{helm, wasm, ocispec.MediaTypeEmptyJSON, "application/vnd.docker.plugin.v1+json", "application/x"} {
		for _, layerType := range []string{
			ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerZstd, "application/vnd.docker.image.rootfs.diff.tar.gzip",
			"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "APPLICATION/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip; q=1",
		} {
			t.Run("config "+configType+" layer "+layerType, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				bad := l.pushPacked("acme/app", "bad", configType, note, l.tarOf(layerType, 90_000)) // a real layer beside a decoy
				l.engine.condemn(bad.digest)
				l.scanned(bad)
				l.refused(bad)
			})
		}
	}
	// And what carries such a config and holds no file system passes.
	l := newLab(t)
	for i, configType := range []string{ociConfig, "", "application/octet-stream", "text/html"} {
		inert := l.pushPacked("acme/app", fmt.Sprint("inert", i), configType, note)
		if r := l.scanned(inert); r.status != 200 {
			t.Errorf("config type %q over no file system: %d %s", configType, r.status, r.message())
		}
		l.want(200, "", "GET", blobPath("acme/app", inert.layers[0]))
	}
}

// A signature, as its manifest says, by cosign's tag or as a referrer, that lists a
// denied image's config and layers, as its own config or as layers: it passes, and no
// blob of the image with it.
func TestSignatureThatListsADeniedImage(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"pending", "denied"} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			bad := l.push("acme/app", "bad", 400_000, 900)
			l.engine.condemn(bad.digest)
			l.engine.hold()
			l.want(200, "", "GET", manifestPath("acme/app", "bad"))
			if state == "denied" {
				l.engine.release()
				l.scanned(bad)
			}
			subject := l.descriptor(bad, "amd64")
			subject.Platform = nil
			sigTag := strings.Replace(bad.digest.String(), ":", "-", 1)
			for tag, config := range map[string]ocispec.Descriptor{
				sigTag + ".sig": l.empty("acme/app"),
				sigTag + ".att": as(ocispec.MediaTypeEmptyJSON, bad.config)[0],
				"referrer":      as("application/vnd.dev.sigstore.bundle.v0.3+json", bad.config)[0],
			} {
				m := manifestOf(config, as("application/vnd.dev.cosign.simplesigning.v1+json", bad.blobs()...)...)
				m.Subject = &subject
				d := l.putJSON("acme/app", tag, m.MediaType, m)
				l.want(200, "", "GET", manifestPath("acme/app", tag))
				l.want(200, "", "HEAD", manifestPath("acme/app", d.String()))
			}
			if r := l.want(200, "", "GET", "/v2/acme/app/referrers/"+bad.digest.String()); strings.Count(string(r.body), `"digest"`) != 3 {
				t.Errorf("referrers: %s", r.body)
			}
			led := newLedger()
			l.playFor(200*time.Millisecond, take((*image).blobs), led, bad)
			l.engine.release()
			l.playFor(patience, take((*image).blobs), led, bad)
			l.kept(led, bad)
			l.refused(bad)
		})
	}
}

// A list of referrers describes; it brings nothing inline. Whoever may push the tag that
// stands in for the list, where a registry has none, could put content there.
func TestReferrersBringNothingInline(t *testing.T) {
	t.Parallel()
	old := startOrigin(t, proxytest.Origin{NoReferrers: true})
	l := newLab(t, besides("old.test", old))
	there := &lab{T: t, origin: old}
	subject := digest.FromString("some image")
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x", Digest: digest.FromString("a referrer"), Size: 10}
	inline, away := desc, desc
	inline.Data = []byte("0123456789")
	away.URLs = []string{"https://elsewhere.example/"}
	for _, query := range []string{"", "?artifactType=application/x"} {
		path := "/v2/old.test/acme/app/referrers/" + subject.String() + query
		there.index("acme/app", strings.Replace(subject.String(), ":", "-", 1), desc)
		if r := l.want(200, "", "GET", path); !strings.Contains(string(r.body), desc.Digest.String()) {
			t.Errorf("referrers: %s", r.body)
		}
		there.index("acme/app", strings.Replace(subject.String(), ":", "-", 1), desc, inline)
		l.want(403, "inline", "GET", path)
		there.index("acme/app", strings.Replace(subject.String(), ":", "-", 1), away)
		l.want(403, "foreign", "GET", path)
	}
}

// What names a killed image by another algorithm names it all the same.
func TestKilledByAnotherAlgorithm(t *testing.T) {
	t.Parallel()
	base := newLab(t)
	first := base.push("acme/app", "one", 1000)
	raw := string(base.scanned(first).body)
	l := newLab(t, func(l *lab, c *policy.Config) {
		c.Kill = []string{first.digest.String(), digest.SHA512.FromString(raw + " ").String()}
	})
	img := l.push("acme/app", "one", 1000)
	long := digest.SHA512.FromString(raw)
	l.origin.PutManifestAs("acme/app", "long", ocispec.MediaTypeImageManifest, long, []byte(raw))
	l.origin.PutManifestAs("acme/app", "short", ocispec.MediaTypeImageManifest, digest.FromString(raw+" "), []byte(raw+" "))
	for _, ref := range []string{img.digest.String(), long.String(), digest.FromString(raw + " ").String(), "one", "long", "short"} {
		l.want(403, "kill list", "GET", manifestPath("acme/app", ref))
		l.want(403, "", "HEAD", manifestPath("acme/app", ref))
	}
}

// A denied image has a second name by SHA-512: it is scanned under it, and nothing of it
// passes its floor meanwhile.
func TestDeniedByAnotherAlgorithm(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	body := l.want(200, "", "GET", manifestPath("acme/app", "bad")).body
	long := digest.SHA512.FromBytes(body)
	l.origin.PutManifestAs("acme/app", "long", ocispec.MediaTypeImageManifest, long, body)
	l.engine.condemn(long)
	l.engine.release()
	l.scanned(bad)
	l.scanner.replace(&upgraded{l.engine}) // else its SBOM tells at once
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", long.String())) // pending
	led := newLedger()
	l.playFor(200*time.Millisecond, take((*image).blobs), led, bad)
	l.engine.release()
	l.playFor(patience, take((*image).blobs), led, bad)
	l.kept(led, bad)
	l.refused(bad)
	l.want(403, "", "GET", manifestPath("acme/app", long.String()))
	for _, d := range []string{strings.ToUpper(bad.digest.String()), "sha256:" + strings.ToUpper(bad.digest.Encoded()), "sha384:" + strings.Repeat("0", 96), "sha256:" + long.Encoded(), "md5:" + strings.Repeat("0", 32), "sha256:" + bad.digest.Encoded() + "0"} {
		l.want(400, "DIGEST_INVALID", "GET", manifestPath("acme/app", d))
		l.want(400, "DIGEST_INVALID", "GET", "/v2/acme/app/blobs/"+d)
	}
}

// Indexes within indexes hide a denied image no deeper than the gateway looks: a chain
// that goes on is denied, and one that lists the same index a thousand times in each
// link costs no more than one that lists it once.
func TestIndexesWithinIndexes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.deny("acme/app", "bad", 1000)
	child := l.descriptor(bad, "amd64")
	for depth := range 7 {
		same := make([]ocispec.Descriptor, 1000)
		for i := range same {
			same[i] = child
		}
		tag := fmt.Sprint("depth", depth)
		d := l.index("acme/app", tag, same...)
		began := time.Now()
		for _, ref := range []string{tag, d.String()} {
			l.want(403, "", "HEAD", manifestPath("acme/app", ref))
			l.want(403, "", "GET", manifestPath("acme/app", ref))
		}
		if took := time.Since(began); took > patience/2 {
			t.Errorf("depth %d took %v", depth, took)
		}
		child, _ = l.origin.Descriptor("acme/app", d.String())
	}
	l.index("acme/app", "other", child, l.descriptor(l.allow("acme/app", "good", 500), "arm64"))
	l.want(200, "", "HEAD", manifestPath("acme/app", "other"))
}

// containerd asks for a child's manifest among the blobs where it isn't found among the
// manifests. It isn't there either, whoever lists it as what; and no blob is a manifest.
func TestManifestsAreNoBlobs(t *testing.T) {
	t.Parallel()
	l := newLab(t, waitForUpstream)
	bad := l.push("acme/app", "bad", 1000)
	index := l.index("acme/app", "multi", l.descriptor(bad, "amd64"))
	l.want(200, "", "GET", manifestPath("acme/app", "multi"))
	l.engine.condemn(bad.digest)
	for _, scanned := range []bool{false, true} {
		if scanned {
			l.scanned(bad)
		}
		for _, d := range []digest.Digest{bad.digest, index} {
			l.want(404, "BLOB_UNKNOWN", "GET", "/v2/acme/app/blobs/"+d.String())
			l.want(404, "", "HEAD", "/v2/acme/app/blobs/"+d.String())
		}
	}
	// An artifact may list a manifest as a blob: it is as upstream has it, and no more than its text.
	m := l.descriptor(bad, "amd64")
	l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x", m)...)
	l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
	l.want(404, "", "GET", "/v2/acme/app/blobs/"+bad.digest.String())
	l.refused(bad)
	for _, d := range bad.blobs() {
		l.want(404, "", "GET", manifestPath("acme/app", d.Digest.String()))
	}
}

// An artifact's subject says nothing of what it points to: the denied image stays so, an
// allowed one too, and the artifact is what it is.
func TestSubjectOfADeniedImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.deny("acme/app", "bad", 1000)
	subject := l.descriptor(bad, "amd64")
	note := ocispec.Descriptor{MediaType: "application/spdx+json", Digest: l.origin.PutBlob("acme/app", []byte(`{"spdxVersion":"SPDX-2.3"}`)), Size: 26}
	m := manifestOf(l.empty("acme/app"), note)
	m.ArtifactType, m.Subject = "application/spdx+json", &subject
	l.putJSON("acme/app", "sbom", m.MediaType, m)
	l.want(200, "", "GET", manifestPath("acme/app", "sbom"))
	l.want(200, "", "GET", blobPath("acme/app", note))
	l.refused(bad)
	// An image with a subject is an image.
	raw, err := json.Marshal(manifestOf(bad.config, bad.layers...))
	if err != nil {
		t.Fatal(err)
	}
	again := strings.Replace(string(raw), `"config"`, `"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+bad.digest.String()+`","size":1},"artifactType":"application/x","config"`, 1)
	d := l.origin.PutManifest("acme/app", "again", ocispec.MediaTypeImageManifest, []byte(again))
	l.engine.condemn(d)
	l.eventually("it is denied", func() bool { return l.get("GET", manifestPath("acme/app", "again"), patience).status == 403 })
	l.refused(bad)
}

// With its content inside the manifest there is no blob to hold: the manifest waits.
func TestInlineData(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	o := odd(t, "inline-data")
	o.Push(l.origin, "acme/app")
	l.engine.hold()
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		l.want(403, "scan_timeout", method, manifestPath("acme/app", o.Name))
	}
	l.engine.release()
	l.eventually("the image is allowed", func() bool { return l.get("GET", manifestPath("acme/app", o.Name), patience).status == 200 })
}

// The config alone inline, or one layer, of an image that is denied: the manifest is
// what is held back, before the decision and after it.
func TestInlineDataOfADeniedImage(t *testing.T) {
	t.Parallel()
	for i, what := range []string{"config", "layer"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			bad := l.push("acme/app", "", 20_000, 90_000)
			ds := bad.blobs()
			ds[i].Data = bad.bytes[ds[i].Digest]
			d := l.putJSON("acme/app", "inline", ocispec.MediaTypeImageManifest, manifestOf(ds[0], ds[1:]...))
			l.engine.condemn(d)
			l.engine.hold()
			for range 2 {
				for _, ref := range []string{"inline", d.String()} {
					l.want(403, "scan_timeout", "GET", manifestPath("acme/app", ref))
					l.want(403, "", "GET", manifestPath("acme/app", ref), "Range", "bytes=0-99", "If-None-Match", `"`+d.String()+`"`)
					l.want(403, "", "HEAD", manifestPath("acme/app", ref))
				}
			}
			l.engine.release()
			l.eventually("it is denied for what it holds", func() bool {
				return strings.Contains(l.get("GET", manifestPath("acme/app", "inline"), patience).message(), "CVE-2021-44228")
			})
		})
	}
}
