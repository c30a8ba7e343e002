package proxy_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// Somebody who may push to one repository lists there the blobs of an image of another,
// which his own doesn't have: an artifact that nothing runs, so that it passes. What
// the gateway fetched for the one repository it serves for no other, while the image
// is pending, denied or allowed, in the same registry or in another.
func TestBlobsListedByAnotherRepository(t *testing.T) {
	t.Parallel()
	for _, other := range []string{"acme/thief", "evil.test/acme/app"} {
		for _, state := range []string{"pending", "denied", "allowed"} {
			t.Run(other+" "+state, func(t *testing.T) {
				t.Parallel()
				origin := startOrigin(t, proxytest.Origin{})
				l := newLab(t, besides("evil.test", origin), waitForUpstream)
				img := l.push("acme/app", "one", 400_000, 900)
				if state == "denied" {
					l.engine.condemn(img.digest)
				}
				if state == "pending" {
					l.engine.hold()
					l.want(200, "", "GET", manifestPath("acme/app", "one"))
					for _, d := range img.blobs() {
						l.eventually("the blob is here", func() bool { n, _ := l.origin.Served(d.Digest); return n > 0 })
					}
				} else {
					l.scanned(img)
				}
				decoy := &lab{T: t, origin: l.origin}
				if other != "acme/thief" {
					decoy.origin = origin
				}
				repo := map[bool]string{true: "acme/thief", false: "acme/app"}[other == "acme/thief"]
				decoy.artifact(repo, "decoy", decoy.empty(repo), as("application/x-decoy", img.blobs()...)...)
				l.want(200, "", "GET", manifestPath(other, "decoy"))
				for _, d := range img.blobs() {
					for _, header := range [][]string{nil, {"Range", "bytes=100-"}, {"Range", "bytes=-5"}} {
						if r := l.get("GET", blobPath(other, d), patience, header...); r.status != 404 {
							t.Errorf("a blob through %s: %d, %d bytes", other, r.status, len(r.body))
						}
					}
					if r := l.get("HEAD", blobPath(other, d), patience); r.status != 404 {
						t.Errorf("whether there is a blob, through %s: %d, length %s", other, r.status, r.header.Get("Content-Length"))
					}
				}
			})
		}
	}
}

// A repository that has a blob itself may serve what another has fetched; upstream is
// asked once whether it does, and not for the bytes again.
func TestSharedBlobIsVouchedFor(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.allow("acme/app", "one", 400_000)
	l.pushed = 0
	again := l.allow("acme/other", "one", 400_000)
	for range 3 {
		for _, d := range again.blobs() {
			if r := l.want(200, "", "GET", blobPath("acme/other", d)); digest.FromBytes(r.body) != d.Digest {
				t.Error("not the blob")
			}
		}
	}
	for _, d := range img.blobs() {
		n, sent := l.origin.Served(d.Digest)
		if asked := l.origin.Count(proxytest.Request{Kind: proxytest.KindBlob, Repository: "acme/other", Reference: d.Digest.String()}); n > 2 || sent > d.Size+1 || asked != 1 {
			t.Errorf("blob of %d bytes: %d were sent in %d answers, %d requests for the other repository", d.Size, sent, n, asked)
		}
	}
}

// An artifact lists the blobs of an image that the gateway has not met, and they pass.
// With them in hand only the manifest is missing: that waits for the verdict then.
func TestDecoyServedBeforeTheImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	l.artifact("acme/app", "sha256-"+bad.digest.Encoded()+".sig", l.empty("acme/app"), as("application/vnd.dev.cosign.simplesigning.v1+json", bad.blobs()...)...)
	l.want(200, "", "GET", manifestPath("acme/app", "sha256-"+bad.digest.Encoded()+".sig"))
	for _, d := range bad.blobs() {
		l.want(200, "", "GET", blobPath("acme/app", d)) // of an artifact, as far as anybody knows
	}
	for _, ref := range []string{"bad", bad.digest.String()} {
		l.want(403, "scan_timeout", "GET", manifestPath("acme/app", ref))
		l.want(403, "", "HEAD", manifestPath("acme/app", ref))
	}
	led := newLedger()
	for _, d := range bad.blobs() { // and from now on it has no say
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		l.steal(ctx, led, bad, d)
		cancel()
	}
	l.kept(led, bad)
	l.engine.release()
	l.eventually("it is denied", func() bool {
		return l.get("GET", manifestPath("acme/app", "bad"), patience).message() != "" && l.get("HEAD", blobPath("acme/app", bad.config), patience).status == 403
	})
	l.refused(bad)
}

// The same, with an image that was good: it passes once that is known.
func TestDecoyOfAGoodImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	good := l.push("acme/app", "good", 400_000, 900)
	l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x", good.blobs()...)...)
	l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
	l.eventually("it passes", func() bool { return l.get("GET", manifestPath("acme/app", "good"), patience).status == 200 })
	l.scanned(good)
	for _, d := range good.blobs() {
		l.want(200, "", "GET", blobPath("acme/app", d))
	}
}

// More images than are asked for one blob, none of which runs, list the config of a
// denied one: by its config's type each of them must be scanned, and is found to hold
// no file system. They crowd the denied one out of sight and release nothing for that.
func TestManyInertImages(t *testing.T) {
	t.Parallel()
	const asked = 8
	l := newLab(t, waitForUpstream, func(l *lab, _ *policy.Config) { l.gateway.Gate.Listers = asked })
	bad := l.deny("acme/app", "bad", 400_000)
	note := l.origin.PutBlob("acme/app", []byte("no file system"))
	for i := range asked + 4 {
		tag := fmt.Sprint("inert", i)
		m := manifestOf(bad.config, ocispec.Descriptor{MediaType: "application/x", Digest: note, Size: 14})
		m.Annotations = map[string]string{"n": tag}
		l.putJSON("acme/app", tag, ocispec.MediaTypeImageManifest, m)
		l.want(200, "", "GET", manifestPath("acme/app", tag))
	}
	l.eventually("all are scanned", func() bool {
		r := l.get("GET", blobPath("acme/app", bad.config), patience, "Range", "bytes=-1")
		return r.status != 200 && r.status != 206 || r.err == nil
	})
	led := newLedger()
	for range 3 {
		l.steal(t.Context(), led, bad, bad.config)
	}
	l.kept(led, bad)
	for _, method := range []string{"GET", "HEAD"} { // no 404, which sends a client to the next mirror
		l.want(403, "blocked by policy", method, blobPath("acme/app", bad.config))
	}
	l.want(403, "", "GET", manifestPath("acme/app", "bad"))
}

// Two images have the same config, and their layers unpack to the same: one of them is
// allowed by a waiver for its digest. Its config is its own, and the other's layers are
// the other's.
func TestSameConfigOtherLayers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	layer := l.tarOf(ocispec.MediaTypeImageLayerGzip, 400_000)
	plain := packed{mediaType: ocispec.MediaTypeImageLayer, data: unpacked(layer.data), diffID: layer.diffID}
	bad := l.pushPacked("acme/app", "bad", ociConfig, layer)
	waived := l.pushPacked("acme/app", "waived", ociConfig, plain)
	if bad.config.Digest != waived.config.Digest || bad.layers[0].Digest == waived.layers[0].Digest {
		t.Fatal("not the same config, or the same layer")
	}
	l.engine.condemn(bad.digest)
	l.engine.condemn(waived.digest)
	l.scanned(bad)
	l.scanned(waived)
	for _, img := range []*image{bad, waived} {
		l.refused(img)
	}
	next := l.another(waive(l, waived.digest, time.Now().Add(time.Hour)))
	for _, d := range waived.blobs() {
		next.want(200, "", "GET", blobPath("acme/app", d))
	}
	next.want(200, "", "GET", manifestPath("acme/app", "waived"))
	next.want(403, "", "GET", manifestPath("acme/app", "bad"))
	next.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", bad.layers[0]))
	next.want(403, "", "GET", blobPath("acme/app", bad.layers[0]), "Range", "bytes=0-0")
	// One that has that config and other layers altogether is no image at all.
	lie := l.putJSON("acme/app", "lie", ocispec.MediaTypeImageManifest, manifestOf(bad.config, l.push("acme/app", "", 5000).layers...))
	l.eventually("it is refused", func() bool {
		return l.get("GET", manifestPath("acme/app", lie.String()), patience).status == 403
	})
	l.want(403, "", "GET", blobPath("acme/app", bad.config))
}

// waive writes a waiver for a digest that ends some time, and returns the change that
// reads it.
func waive(l *lab, d digest.Digest, end time.Time) change {
	l.Helper()
	file := filepath.Join(l.dir, "waivers.json")
	writeJSONFile(l.T, file, map[string]any{"waivers": []map[string]any{{"id": "w", "owner": "o", "reason": "r", "expires": end.UTC().Format(time.RFC3339), "scope": map[string]any{"digest": d.String()}}}})
	return func(_ *lab, c *policy.Config) { c.WaiverFile = file }
}

// A layer serves while an image that has it is allowed. When a new database denies that
// one too, nothing of either is left.
func TestSharedLayersOfAnImageThatTurnsBad(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.deny("acme/app", "bad", 400_000, 2000)
	l.pushed = 0
	good := l.allow("acme/app", "good", 400_000)
	l.want(200, "", "GET", blobPath("acme/app", bad.layers[0]))
	l.want(206, "", "GET", blobPath("acme/app", bad.layers[0]), "Range", "bytes=-5")
	l.want(403, "", "GET", blobPath("acme/app", bad.layers[1]))
	l.want(403, "", "GET", blobPath("acme/app", bad.config))
	l.want(200, "", "GET", blobPath("acme/app", good.config))
	l.engine.condemn(good.digest)
	l.engine.renew()
	for _, img := range []*image{good, bad} {
		l.eventually("it is denied", func() bool {
			return l.get("GET", manifestPath("acme/app", img.digest.String()), patience).status == 403
		})
	}
	l.refused(good)
	l.refused(bad)
}

// Upstream deletes what was served: the denied stays denied, for it is known what it is,
// and what is pending is told so.
func TestDeletedUpstreamAfterItWasServed(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.TagTTL = 0 })
	bad := l.deny("acme/app", "bad", 400_000, 900)
	l.index("acme/app", "multi", l.descriptor(bad, "amd64"))
	l.want(403, "", "GET", manifestPath("acme/app", "multi"))
	for _, d := range bad.blobs() {
		l.origin.DeleteBlob("acme/app", d.Digest)
	}
	l.origin.Delete("acme/app", bad.digest.String())
	l.refused(bad)
	l.want(403, "", "HEAD", manifestPath("acme/app", "multi"))
	l.want(404, "MANIFEST_UNKNOWN", "GET", manifestPath("acme/app", "bad"))
	l.refused(bad)
	next := l.another()
	next.refused(bad)
}

// A manifest declares a denied image's blobs smaller or larger than they are, to lower
// or raise what is kept back of them; as an artifact, and as an image that must be
// scanned itself.
func TestDeclaredSizesThatLie(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 64, 399_000, 402_000, 500_000, 10 << 20, 1 << 39} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			bad := l.push("acme/app", "bad", 400_000, 900)
			l.engine.condemn(bad.digest)
			l.engine.hold()
			lie := func(mediaType string) []ocispec.Descriptor {
				ds := as(mediaType, bad.blobs()...)
				for i := range ds {
					ds[i].Size = size
				}
				return ds
			}
			images := lie(ocispec.MediaTypeImageLayerGzip)
			images[0].MediaType = ociConfig
			l.engine.condemn(l.putJSON("acme/app", "image", ocispec.MediaTypeImageManifest, manifestOf(images[0], images[1:]...)))
			led := newLedger()
			steal := func() {
				l.playFor(150*time.Millisecond, take((*image).blobs), led, bad)
				l.playFor(150*time.Millisecond, take((*image).blobs, "Range", "bytes=5-"), led, bad)
				l.kept(led, bad)
			}
			l.get("GET", manifestPath("acme/app", "image"), patience) // before the image itself is known
			steal()
			l.get("GET", manifestPath("acme/app", "bad"), patience)
			steal()
			l.artifact("acme/app", "artifact", l.empty("acme/app"), lie("application/x")...)
			l.want(200, "", "GET", manifestPath("acme/app", "artifact"))
			steal()
			l.engine.release()
			steal()
			l.eventually("it is denied", func() bool { return l.get("GET", manifestPath("acme/app", "bad"), patience).status == 403 })
			steal()
		})
	}
}

// Another registry, or another repository, fails or stalls on a blob that an image has:
// the image's pull doesn't wait for it, and doesn't fail with it.
func TestAnotherRepositoryHoldsNothingUp(t *testing.T) {
	t.Parallel()
	evil := startOrigin(t, proxytest.Origin{})
	l := newLab(t, besides("evil.test", evil))
	img := l.push("acme/app", "one", 400_000, 900)
	there := &lab{T: t, origin: evil}
	there.artifact("acme/app", "decoy", there.empty("acme/app"), as("application/x", img.blobs()...)...)
	evil.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, evil.Stall(0, nil))
	l.want(200, "", "GET", manifestPath("evil.test/acme/app", "decoy"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for _, d := range img.blobs() {
		clients.Go(func() { l.raw(ctx, "GET "+blobPath("evil.test/acme/app", d)+" HTTP/1.1", "Host: x") })
		l.eventually("the other registry is asked", func() bool {
			for _, q := range evil.Requests() {
				if q.Reference == d.Digest.String() {
					return true
				}
			}
			return false
		})
	}
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	for _, d := range img.blobs() {
		if r := l.want(200, "", "GET", blobPath("acme/app", d)); digest.FromBytes(r.body) != d.Digest {
			t.Error("not the blob")
		}
	}
}
