package proxy_test

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An artifact lists the blobs of an image that the gateway has not met, and they pass.
// That two images list them, both of them pending, gives out the manifest of neither.
func TestDecoyOfTwins(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.engine.condemn(bad.digest)
	m := manifestOf(bad.config, bad.layers...)
	m.Annotations = map[string]string{"twin": "yes"}
	twin := l.putJSON("acme/app", "twin", ocispec.MediaTypeImageManifest, m)
	l.engine.condemn(twin)
	l.engine.hold()
	l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x", bad.blobs()...)...)
	l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
	for _, d := range bad.blobs() {
		l.want(200, "", "GET", blobPath("acme/app", d)) // of an artifact, as far as anybody knows
	}
	for range 2 {
		for _, ref := range []string{"bad", "twin"} {
			l.want(403, "scan_timeout", "GET", manifestPath("acme/app", ref))
		}
	}
}

// The artifact lists all but the layer that the image shares with a good one, which
// passes once that is known.
func TestDecoyOfAllButTheSharedLayer(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.pushed = 0
	good := l.push("acme/app", "good", 400_000)
	if good.layers[0].Digest != bad.layers[0].Digest {
		t.Fatal("nothing is shared")
	}
	l.engine.condemn(bad.digest)
	l.engine.hold()
	own := []ocispec.Descriptor{bad.config, bad.layers[1]}
	l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x", own...)...)
	l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
	for _, d := range own {
		l.want(200, "", "GET", blobPath("acme/app", d))
	}
	l.want(403, "scan_timeout", "GET", manifestPath("acme/app", "bad"))
	l.engine.release()
	l.scanned(good)
	l.want(200, "", "GET", blobPath("acme/app", bad.layers[0]))
	l.eventually("it is denied", func() bool {
		return strings.Contains(l.get("GET", manifestPath("acme/app", "bad"), patience).message(), "CVE-2021-44228")
	})
}
