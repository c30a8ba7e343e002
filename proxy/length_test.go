package proxy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// lying pushes an image whose manifest says that the layers of img are larger than they
// are, and so would move the floor past their ends.
func (l *lab) lying(img *image, repo, tag string) digest.Digest {
	l.Helper()
	for d, b := range img.bytes {
		l.origin.PutBlobAs(repo, d, b)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: img.config}
	for _, d := range img.layers {
		d.Size *= 40
		m.Layers = append(m.Layers, d)
	}
	return l.putJSON(repo, tag, ocispec.MediaTypeImageManifest, m)
}

// A manifest that declares a layer larger than it is gets nobody past the true floor:
// not where upstream doesn't say how long the layer is, and not where it is there already.
func TestLyingSize(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.Pulls = 1 })
		img := l.push("acme/app", "honest", 300_000)
		d := img.layers[0]
		lie := l.lying(img, "acme/lies", "one")
		l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage}.Matches, proxytest.SetHeader("Content-Length", ""))
		if known { // brought by the honest image, in another repository
			l.scanned(img)
			l.want(200, "", "GET", blobPath("acme/app", d))
		}
		l.engine.hold() // the only place to run is taken, so that the lie isn't found out yet
		l.push("acme/app", "other", 100)
		l.want(200, "", "GET", manifestPath("acme/app", "other"))
		l.get("GET", manifestPath("acme/lies", lie.String()), patience)
		for _, header := range [][]string{nil, {"Range", "bytes=0-"}, {"Range", "bytes=200000-"}, {"Range", "bytes=299000-"}} {
			r := l.get("GET", blobPath("acme/lies", d), 300*time.Millisecond, header...)
			start := map[string]int64{"bytes=200000-": 200000, "bytes=299000-": 299000}[strings.Join(header[min(1, len(header)):], "")]
			if end := start + int64(len(r.body)); r.status/100 == 2 && len(r.body) > 0 && end > floorOf(d.Size, false) {
				t.Errorf("known %v, %v: %d bytes up to %d, the true floor is %d", known, header, len(r.body), end, floorOf(d.Size, false))
			}
		}
	}
}

// An upstream that doesn't say how long its blobs are is served all the same.
func TestNoContentLength(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 300_000, 1000)
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage}.Matches, proxytest.SetHeader("Content-Length", ""))
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	time.AfterFunc(200*time.Millisecond, l.engine.release)
	l.whole(img)
}
