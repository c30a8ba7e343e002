package proxy_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// Somebody asks for the config of an image that the gateway has never seen, by a manifest
// that lists it as something else, and asks for the image while that one is still being
// scanned. What comes of it has no say any more: the decision binds at release.
func TestImageServedWhileItsConfigIsHeld(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 1000)
	l.engine.condemn(bad.digest)
	raw, err := json.Marshal(ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{bad.config.Digest}}})
	if err != nil {
		t.Fatal(err)
	}
	config := ocispec.Descriptor{MediaType: ociConfig, Digest: l.origin.PutBlob("acme/app", raw), Size: int64(len(raw))}
	inert := l.putJSON("acme/app", "inert", ocispec.MediaTypeImageManifest, manifestOf(config, as("application/x", bad.config)...))
	scanned := make(chan struct{})
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: config.Digest.String()}.Matches, l.origin.Stall(5, scanned))
	l.engine.hold()

	l.want(200, "", "GET", manifestPath("acme/app", inert.String()))
	got := make(chan reply)
	go func() { got <- l.get("GET", blobPath("acme/app", bad.config), patience) }()
	l.eventually("the gateway has it", func() bool { n, _ := l.origin.Served(bad.config.Digest); return n > 0 })
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	close(scanned)
	time.AfterFunc(100*time.Millisecond, l.engine.release)
	if r := <-got; digest.FromBytes(r.body) == bad.config.Digest {
		t.Errorf("the config of a denied image is served whole: %d", r.status)
	}
	l.eventually("it is denied", func() bool { return l.get("GET", manifestPath("acme/app", "bad"), patience).status == 403 })
	l.want(403, "", "GET", blobPath("acme/app", bad.config))
}

// An image by its type, and nothing by its bytes, hands out the config of an image that
// the gateway has not met. The layers of that are those of good images, of which one is
// still being scanned: nobody gets the manifest, all that would be missing in the end.
func TestInertImageBesideAPendingImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.pushed = 0
	bad := l.push("acme/app", "bad", 200_000, 90_000)
	l.engine.condemn(bad.digest)
	l.pushed = 0
	allowed := l.push("acme/app", "allowed", 200_000)
	last := packed{mediaType: bad.layers[1].MediaType, data: bad.bytes[bad.layers[1].Digest], diffID: l.diffIDOf(bad, 1)}
	pending := l.pushPacked("acme/app", "pending", ociConfig, last)
	l.scanned(allowed)
	inert := l.pushPacked("acme/app", "inert", ociConfig, packed{mediaType: "application/x", data: bad.bytes[bad.config.Digest], diffID: bad.config.Digest})
	l.eventually("the config passes", func() bool {
		l.get("GET", manifestPath("acme/app", inert.digest.String()), patience)
		r := l.get("GET", blobPath("acme/app", bad.config), patience)
		return digest.FromBytes(r.body) == bad.config.Digest
	})
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "pending"))
	l.want(403, "scan_timeout", "GET", manifestPath("acme/app", "bad"))
	l.engine.release()
	l.scanned(pending)
	for _, d := range bad.layers {
		l.want(200, "", "GET", blobPath("acme/app", d))
	}
}

// diffIDOf returns what the config of an image says of a layer.
func (l *lab) diffIDOf(img *image, i int) digest.Digest {
	l.Helper()
	var config ocispec.Image
	if err := json.Unmarshal(img.bytes[img.config.Digest], &config); err != nil {
		l.Fatal(err)
	}
	return config.RootFS.DiffIDs[i]
}
