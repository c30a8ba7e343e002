package proxy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

const patience = 30 * time.Second

// scanned pulls a manifest and waits until its image is decided.
func (l *lab) scanned(img *image) reply {
	l.Helper()
	path := "/v2/" + img.repo + "/manifests/" + img.digest.String()
	var r reply
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if r = l.get("GET", path, patience); r.status != 200 {
			return r
		}
		// A config's headers wait for the decision, and its body can't be short of it.
		if b := l.get("GET", "/v2/"+img.repo+"/blobs/"+img.config.Digest.String(), patience); b.status != 200 || b.err == nil {
			return l.get("GET", path, patience)
		}
	}
	l.Fatalf("%s was not decided", img.digest)
	return r
}

// want sends a request and checks what it is answered with.
func (l *lab) want(status int, text, method, path string, header ...string) reply {
	l.Helper()
	r := l.get(method, path, patience, header...)
	if r.status != status || r.err != nil && status == 200 {
		l.Errorf("%s %s: got %d %s %v, want %d", method, path, r.status, r.message(), r.err, status)
	}
	if method == "GET" && !strings.Contains(r.message(), text) {
		l.Errorf("%s %s: the message is %q, it should have %q", method, path, r.message(), text)
	}
	return r
}

func manifestPath(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }

func blobPath(repo string, d ocispec.Descriptor) string {
	return "/v2/" + repo + "/blobs/" + d.Digest.String()
}

// artifact pushes a manifest that no runtime runs, of any layers.
func (l *lab) artifact(repo, tag string, config ocispec.Descriptor, layers ...ocispec.Descriptor) digest.Digest {
	l.Helper()
	return l.putJSON(repo, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/x-decoy", Config: config, Layers: layers,
	})
}

func (l *lab) index(repo, tag string, children ...ocispec.Descriptor) digest.Digest {
	l.Helper()
	return l.putJSON(repo, tag, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	})
}

func (l *lab) putJSON(repo, tag, mediaType string, v any) digest.Digest {
	l.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		l.Fatal(err)
	}
	return l.origin.PutManifest(repo, tag, mediaType, b)
}

// empty pushes the empty config that artifacts share.
func (l *lab) empty(repo string) ocispec.Descriptor {
	l.origin.PutBlob(repo, []byte("{}"))
	d := ocispec.DescriptorEmptyJSON
	d.Data, d.MediaType = nil, ocispec.MediaTypeEmptyJSON
	return d
}

func (l *lab) descriptor(img *image, arch string) ocispec.Descriptor {
	l.Helper()
	d, ok := l.origin.Descriptor(img.repo, img.digest.String())
	if !ok {
		l.Fatal("not pushed")
	}
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return d
}

// HEAD, GET, tag, digest and any way to the blobs agree on one decision.
func TestAgreement(t *testing.T) {
	t.Parallel()
	for _, bad := range []bool{false, true} {
		t.Run(fmt.Sprintf("denied %v", bad), func(t *testing.T) {
			l := newLab(t)
			img := l.push("acme/app", "one", 200_000)
			status := 200
			if bad {
				l.engine.condemn(img.digest)
				status = 403
			}
			l.scanned(img)
			for _, path := range []string{
				manifestPath("acme/app", "one"), manifestPath("acme/app", img.digest.String()), manifestPath("cgr.test/acme/app", "one"),
				manifestPath("acme/app", "one") + "?ns=cgr.test", blobPath("acme/app", img.config), blobPath("acme/app", img.layers[0]),
			} {
				l.want(status, "", "GET", path)
				l.want(status, "", "HEAD", path)
				l.want(status, "", "HEAD", path, "If-None-Match", `"another"`)
			}
		})
	}
}

// What the kill list names is served in no mode, be it an image, an index of it, an
// index of an index of it, or a blob.
func TestKillList(t *testing.T) {
	for _, mode := range []policy.Mode{policy.Enforce, policy.Warn, policy.DryRun, policy.Off} {
		t.Run(string(mode), func(t *testing.T) {
			var lists []string
			base := newLab(t) // only makes the images: their digests depend on the test's name alone
			images := pushKilled(base, &lists)
			l := newLab(t, func(_ *lab, c *policy.Config) { c.Mode, c.Kill = mode, lists })
			lists = nil
			pushKilled(l, &lists)
			for _, tag := range []string{"inner", "outer"} {
				l.get("GET", manifestPath("acme/app", tag), patience)
			}
			for i, img := range images {
				for _, path := range []string{manifestPath(img.repo, img.digest.String()), blobPath(img.repo, img.config), blobPath(img.repo, img.layers[0])} {
					r := l.get("GET", path, patience)
					if r.status != 403 && !(r.status == 404 && strings.Contains(path, "/blobs/")) {
						t.Errorf("killed image %d: %s: %d", i, path, r.status)
					}
				}
			}
			l.want(403, "kill list", "GET", blobPath(images[3].repo, images[3].layers[1]))
			good := l.allow("acme/app", "good", 500)
			l.want(200, "", "GET", blobPath(good.repo, good.layers[0]))
		})
	}
}

// pushKilled pushes an image that is to be killed by its own digest, one by its index,
// one by an index of that, and one of which a layer is killed.
func pushKilled(l *lab, kill *[]string) []*image {
	l.pushed = 0
	images := []*image{l.push("acme/app", "a", 1000), l.push("acme/app", "b", 1000), l.push("acme/app", "c", 1000), l.push("acme/app", "d", 1000, 1000)}
	index := l.index("acme/app", "b-index", l.descriptor(images[1], "amd64"))
	inner := l.index("acme/app", "inner", l.descriptor(images[2], "amd64"))
	d, _ := l.origin.Descriptor("acme/app", inner.String())
	outer := l.index("acme/app", "outer", d)
	*kill = []string{images[0].digest.String(), index.String(), outer.String() + " # withdrawn", images[3].layers[1].Digest.String()}
	l.get("GET", manifestPath("acme/app", "b-index"), patience)
	return images
}

// The modes that don't block serve a bad image at once and whole; only warn tells the
// client.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []policy.Mode{policy.Warn, policy.DryRun, policy.Off} {
		t.Run(string(mode), func(t *testing.T) {
			l := newLab(t, func(_ *lab, c *policy.Config) { c.Mode = mode })
			img := l.push("acme/app", "bad", 100_000)
			l.engine.condemn(img.digest)
			l.engine.hold()
			l.want(200, "", "GET", manifestPath("acme/app", "bad"))
			if r := l.want(200, "", "GET", blobPath("acme/app", img.layers[0])); digest.FromBytes(r.body) != img.layers[0].Digest {
				t.Error("the layer is not whole")
			}
			l.engine.release()
			var warning string
			for end := time.Now().Add(patience); warning == "" && time.Now().Before(end); {
				warning = l.want(200, "", "GET", manifestPath("acme/app", "bad")).header.Get("Warning")
				if mode != policy.Warn {
					break
				}
			}
			if (mode == policy.Warn) != strings.HasPrefix(warning, "299 - ") {
				t.Errorf("Warning: %q", warning)
			}
		})
	}
}

// A policy has a mode of its own in some repositories: what is only warned of there is
// served, and still held until it is known that nothing else is wrong with it.
func TestModeOfAPolicy(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(_ *lab, c *policy.Config) {
		c.Modes = []policy.ModeRule{{Policy: "known_*", Repository: "acme/dev/**", Mode: policy.Warn}, {Policy: "critical_fix_overdue", Repository: "acme/dev/*", Mode: policy.DryRun}, {Policy: "*", Repository: "acme/free", Mode: policy.Off}, {Policy: "scan_failed", Mode: policy.DryRun}}
	})
	img := l.push("acme/dev/app", "bad", 100_000)
	l.engine.condemn(img.digest)
	l.engine.hold()
	held := l.get("GET", blobPath("acme/dev/app", img.layers[0]), 300*time.Millisecond)
	if digest.FromBytes(held.body) == img.layers[0].Digest {
		t.Error("the layer was served whole before it was decided")
	}
	l.engine.release()
	var w string
	l.eventually("it is decided", func() bool {
		w = l.want(200, "", "GET", manifestPath("acme/dev/app", "bad")).header.Get("Warning")
		return w != ""
	})
	if !strings.Contains(w, "would be blocked by policy known_exploited") || strings.Contains(w, "fix_overdue") {
		t.Errorf("Warning: %q", w)
	}
	if r := l.want(200, "", "GET", blobPath("acme/dev/app", img.layers[0])); digest.FromBytes(r.body) != img.layers[0].Digest {
		t.Error("the layer is not whole")
	}
	for repo, status := range map[string]int{"acme/app": 403, "acme/free": 200} {
		l.pushed--
		again := l.push(repo, "bad", 100_000)
		l.engine.condemn(again.digest)
		l.want(status, "", "GET", manifestPath(repo, "bad"))
		l.want(status, "", "GET", blobPath(repo, again.layers[0]))
	}
	l.engine.fail(errors.New("a matcher's fault"))
	l.engine.renew()
	broken := l.push("acme/app", "broken", 1000)
	if w := l.want(200, "", "GET", manifestPath("acme/app", "broken")).header.Get("Warning"); w != "" {
		t.Errorf("Warning of a dry run: %q", w)
	}
	l.want(200, "", "GET", blobPath("acme/app", broken.layers[0]))
}

// An index passes while a runnable child is allowed or none is decided; else it is
// denied, also to who has it, and the other children are pulled.
func TestIndex(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	amd, arm := l.push("acme/app", "", 1000), l.push("acme/app", "", 1000)
	attestation := l.artifact("acme/app", "", l.empty("acme/app"))
	att, _ := l.origin.Descriptor("acme/app", attestation.String())
	index := l.index("acme/app", "multi", l.descriptor(amd, "amd64"), l.descriptor(arm, "arm64"), att)
	path, etag := manifestPath("acme/app", "multi"), `"`+index.String()+`"`

	l.want(200, "", "GET", path)
	l.want(200, "", "GET", path, "If-None-Match", etag) // none is decided: no 304
	l.want(200, "", "GET", manifestPath("acme/app", attestation.String()))
	l.want(200, "", "GET", path, "If-None-Match", etag) // an artifact counts for nothing
	l.engine.condemn(amd.digest)
	l.scanned(amd)
	l.engine.hold() // the other child, until the denials are seen
	l.want(403, "CVE-2021-44228", "GET", path)
	l.want(403, "", "HEAD", path)
	l.want(403, "", "HEAD", manifestPath("acme/app", index.String()), "If-None-Match", etag)
	// The denied index began the other child's pull, which turns out well.
	l.engine.release()
	passes := func() bool { return l.get("HEAD", path, patience).status == 200 }
	l.eventually("the index passes for its other child", passes)
	l.want(304, "", "HEAD", path, "If-None-Match", etag)
	l.want(403, "", "GET", manifestPath("acme/app", amd.digest.String()))
	l.want(200, "", "GET", manifestPath("acme/app", arm.digest.String()))
}

// eventually asks until the answer is yes.
func (l *lab) eventually(what string, ask func() bool) {
	l.Helper()
	for end := time.Now().Add(patience); !ask(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatal(what + ": not within " + patience.String())
		}
	}
}

// In a mode that decides nothing, a killed child takes its index and shared layers from
// nobody else.
func TestOffWithKilledChild(t *testing.T) {
	var kill []string
	shared := func(l *lab) (*image, *image) {
		l.pushed = 0
		a := l.push("acme/app", "", 1000, 2000)
		l.pushed = 0
		b := l.push("acme/app", "", 1000)
		l.index("acme/app", "multi", l.descriptor(a, "amd64"), l.descriptor(b, "arm64"))
		return a, b
	}
	first := newLab(t)
	a, b := shared(first)
	kill = []string{a.digest.String()}
	l := newLab(t, func(_ *lab, c *policy.Config) { c.Mode, c.Kill = policy.Off, kill })
	shared(l)
	l.want(403, "kill list", "GET", manifestPath("acme/app", a.digest.String()))
	l.want(200, "", "GET", manifestPath("acme/app", b.digest.String()))
	l.want(200, "", "GET", manifestPath("acme/app", "multi"))
	l.want(200, "", "GET", blobPath("acme/app", b.layers[0]))
	l.want(403, "", "GET", blobPath("acme/app", a.layers[1]))
}

// Two images share layers and one is denied: the shared ones serve, its own don't, and
// its config least of all.
func TestSharedLayers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 300_000, 2000)
	l.pushed = 0
	good := l.push("acme/app", "good", 300_000)
	if bad.layers[0].Digest != good.layers[0].Digest {
		t.Fatal("nothing is shared")
	}
	l.engine.condemn(bad.digest)
	l.scanned(bad)
	l.want(403, "", "GET", blobPath("acme/app", bad.layers[0]))
	l.scanned(good)
	l.want(200, "", "GET", blobPath("acme/app", bad.layers[0]))
	l.want(403, "", "GET", blobPath("acme/app", bad.layers[1]))
	l.want(403, "", "GET", blobPath("acme/app", bad.config))
	l.want(403, "", "GET", manifestPath("acme/app", "bad"))
}

// Manifests that nothing runs release no blob of a denied image, whatever they say of
// it, and however many they are.
func TestDecoys(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 300_000)
	l.engine.condemn(bad.digest)
	l.scanned(bad)
	lie := func(d ocispec.Descriptor, size int64) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: "application/x-decoy", Digest: d.Digest, Size: size}
	}
	layer, config := lie(bad.layers[0], bad.layers[0].Size), lie(bad.config, bad.config.Size)
	l.artifact("acme/app", "layer", l.empty("acme/app"), layer)
	l.artifact("acme/app", "config", config)
	l.artifact("acme/app", "config-as-layer", l.empty("acme/app"), config)
	l.artifact("acme/app", "small", l.empty("acme/app"), lie(layer, 1), lie(config, 1))
	l.artifact("acme/app", "large", l.empty("acme/app"), lie(layer, 1<<40), lie(config, 1<<40))
	// An image by its config type whose layers claim to be no file system.
	other := l.push("acme/app", "other", 500)
	l.putJSON("acme/app", "inert", ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, Config: other.config, Layers: []ocispec.Descriptor{config}})
	l.index("acme/app", "blobs", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: bad.config.Digest, Size: bad.config.Size},
		ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: bad.layers[0].Digest, Size: bad.layers[0].Size})
	for i := range 300 { // more than are asked
		l.artifact("acme/app", fmt.Sprintf("many%d", i), l.empty("acme/app"), layer, config, lie(l.empty("acme/app"), int64(i)))
	}
	tags := []string{"layer", "config", "config-as-layer", "small", "large", "inert", "blobs"}
	for i := range 300 {
		tags = append(tags, fmt.Sprintf("many%d", i))
	}
	for _, tag := range tags {
		if r := l.get("GET", manifestPath("acme/app", tag), patience); r.status != 200 {
			t.Errorf("decoy %s: %d %s", tag, r.status, r.message())
		}
	}
	for _, d := range append(bad.layers, bad.config) {
		l.want(403, "", "GET", blobPath("acme/app", d))
		l.want(403, "", "HEAD", blobPath("acme/app", d))
		l.want(404, "", "GET", manifestPath("acme/app", d.Digest.String()))
	}
	// And they do no harm to a good image that they lie about.
	good := l.push("acme/app", "good", 300_000)
	l.artifact("acme/app", "lies", l.empty("acme/app"), lie(good.layers[0], 1), lie(good.config, 7))
	l.want(200, "", "GET", manifestPath("acme/app", "lies"))
	l.scanned(good)
	for _, d := range append(good.layers, good.config) {
		if r := l.want(200, "", "GET", blobPath("acme/app", d)); digest.FromBytes(r.body) != d.Digest {
			t.Errorf("blob %s is not whole", d.Digest)
		}
		if r := l.want(200, "", "HEAD", blobPath("acme/app", d)); r.header.Get("Content-Length") != fmt.Sprint(d.Size) {
			t.Errorf("blob %s: Content-Length %s", d.Digest, r.header.Get("Content-Length"))
		}
	}
}

// What no runtime would run passes, blobs and all.
func TestArtifactsPass(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for _, name := range []string{"cosign-signature", "cosign-bundle", "sbom", "helm-chart", "wasm"} {
		o := odd(t, name)
		o.Push(l.origin, "acme/app")
		l.eventually(name+" passes", func() bool {
			if r := l.get("GET", manifestPath("acme/app", name), patience); r.status != 200 || digest.FromBytes(r.body) != o.Digest {
				t.Fatalf("%s: %d %s", name, r.status, r.message())
			}
			for d := range o.Blobs {
				if r := l.get("GET", "/v2/acme/app/blobs/"+d.String(), patience); r.err != nil || digest.FromBytes(r.body) != d {
					return false
				}
			}
			return true
		})
	}
}

// No blob is served that no manifest of the repository has listed, nor through another
// repository.
func TestUnlisted(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 1000)
	l.push("acme/other", "one", 1001)
	loose := l.origin.PutBlob("acme/app", []byte("listed by nobody"))
	l.want(404, "BLOB_UNKNOWN", "GET", blobPath("acme/app", img.layers[0])) // its manifest was never asked for
	l.scanned(img)
	l.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
	l.want(404, "BLOB_UNKNOWN", "GET", blobPath("acme/other", img.layers[0]))
	l.want(404, "MANIFEST_UNKNOWN", "GET", manifestPath("acme/other", img.digest.String()))
	l.want(404, "BLOB_UNKNOWN", "GET", "/v2/acme/app/blobs/"+loose.String())
	l.want(404, "BLOB_UNKNOWN", "GET", "/v2/acme/app/blobs/"+img.digest.String())
	if n := l.origin.Count(proxytest.Request{Reference: loose.String()}); n != 0 {
		t.Errorf("upstream was asked %d times for a blob that nobody lists", n)
	}
}

// The paths of the API, and what isn't one.
func TestRoutes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.push("acme/app", "one", 1000)
	tests := []struct {
		method, path string
		status       int
		text         string
	}{
		{"GET", "/v2/", 200, ""},
		{"GET", "/v2", 200, ""},
		{"GET", "/v2acme/app/manifests/one", 404, "UNSUPPORTED"},
		{"GET", "/v2/acme/app/manifests/one?ns=evil.example", 403, "does not front evil.example"},
		{"GET", "/v2/evil.example/acme/app/manifests/one", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/acme/app/manifests/two", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/acme/app/manifests/sha256:12", 400, "DIGEST_INVALID"},
		{"GET", "/v2/acme/app/blobs/sha256:12", 400, "DIGEST_INVALID"},
		{"GET", "/v2/Acme/manifests/one", 400, "NAME_INVALID"},
		{"GET", "/v2/acme/../app/manifests/one", 400, "NAME_INVALID"},
		{"GET", "/v2/acme/app/tags/list?n=many", 400, "UNSUPPORTED"},
		{"GET", "/v2/none/such/tags/list", 404, "NAME_UNKNOWN"},
		{"PUT", "/v2/acme/app/manifests/one", 405, ""},
		{"POST", "/v2/acme/app/blobs/uploads/", 405, ""},
		{"DELETE", "/v2/acme/app/manifests/one", 405, ""},
	}
	for _, tt := range tests {
		r := l.get(tt.method, strings.ReplaceAll(tt.path, "..", "%2e%2e"), patience)
		if r.status != tt.status || !strings.Contains(r.message(), tt.text) || r.status != 200 && r.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, r.status, r.message(), tt.status, tt.text)
		}
	}
	if r := l.want(200, "", "GET", "/v2/cgr.test/acme/app/tags/list?n=1&ns="); !strings.Contains(string(r.body), `"cgr.test/acme/app"`) {
		t.Errorf("tags: %s", r.body)
	}
}

// A manifest that clients could read differently, or that brings content past the gate,
// is refused, and says why.
func TestRefusedManifests(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "good", 1000)
	raw := string(l.scanned(img).body)
	child := l.descriptor(img, "amd64")
	inline := child
	inline.Data = []byte(raw)
	away := child
	away.URLs = []string{"https://elsewhere.example/manifest"}
	index := func(d ocispec.Descriptor) string {
		b, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	layers := raw[strings.Index(raw, `"layers":`):]
	v1 := `{"schemaVersion":1,"name":"acme/app","tag":"x","architecture":"amd64","fsLayers":[{"blobSum":"` + img.layers[0].Digest.String() + `"}],"history":[{"v1Compatibility":"{}"}]}`
	away.Digest = img.layers[0].Digest
	artifact := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/x","digest":%q,"size":5},"layers":[{"mediaType":"application/x","digest":%[1]q,"size":5,"urls":["https://elsewhere.example/l"]}]}`, away.Digest)
	tests := []struct{ name, mediaType, body, text string }{
		{"schema 1 by its type", "application/vnd.docker.distribution.manifest.v1+prettyjws", v1, "schema 1"},
		{"schema 1 by its body", ocispec.MediaTypeImageManifest, v1, "schema version 2"},
		{"schema 1 and 2 in one", "application/vnd.docker.distribution.manifest.v2+json", `{"fsLayers":[],` + strings.Replace(raw, ocispec.MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v2+json", 1)[1:], "schema version 2"},
		{"no manifests beside layers", ocispec.MediaTypeImageManifest, `{"manifests":[],` + raw[1:], "mixes"},
		{"null manifests beside layers", ocispec.MediaTypeImageManifest, `{"Manifests":null,` + raw[1:], "mixes"},
		{"a type of its own", ocispec.MediaTypeImageIndex, raw + "\n", "calls itself"},
		{"an artifact with a foreign layer", ocispec.MediaTypeImageManifest, artifact, "foreign"},
		{"an artifact manifest of old", "application/vnd.oci.artifact.manifest.v1+json", `{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}`, "does not know"},
		{"a descriptor's key twice", ocispec.MediaTypeImageManifest, strings.Replace(raw, `"config":{`, `"config":{"Digest":"`+img.layers[0].Digest.String()+`",`, 1), "twice"},
		{"inline child", ocispec.MediaTypeImageIndex, index(inline), "inline"},
		{"foreign child", ocispec.MediaTypeImageIndex, index(away), "foreign"},
		{"a key twice", ocispec.MediaTypeImageManifest, `{"layers":[],` + raw[1:], "twice"},
		{"a key in two cases", ocispec.MediaTypeImageManifest, `{"Layers":[],` + raw[1:], "twice"},
		{"a key that folds", ocispec.MediaTypeImageManifest, `{"layer\u017f":[],` + raw[1:], "letters"},
		{"layers in an index", ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[],` + layers, "mixes"},
		{"two documents", ocispec.MediaTypeImageManifest, raw + raw, "no JSON object"},
		{"foreign layer", ocispec.MediaTypeImageManifest, strings.Replace(raw, `"layers":[{`, `"layers":[{"urls":["https://elsewhere.example/l"],`, 1), "foreign"},
	}
	for i, tt := range tests {
		if tt.body == raw {
			t.Fatalf("%s: nothing was changed", tt.name)
		}
		tag := fmt.Sprintf("refused%d", i)
		l.origin.PutManifest("acme/app", tag, tt.mediaType, []byte(tt.body))
		r := l.get("GET", manifestPath("acme/app", tag), patience)
		if r.status/100 == 2 || !strings.Contains(r.message(), tt.text) || strings.Contains(r.message(), l.origin.Host()) {
			t.Errorf("%s: %d %s", tt.name, r.status, r.message())
		}
	}
}
