package proxy_test

import (
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
)

// aliases puts the blobs of an image there under their sha512 digests too, and returns
// what an artifact lists then.
func (l *lab) aliases(img *image) (ds []ocispec.Descriptor) {
	for _, d := range img.blobs() {
		n := digest.SHA512.FromBytes(img.bytes[d.Digest])
		l.origin.PutBlobAs(img.repo, n, img.bytes[d.Digest])
		ds = append(ds, ocispec.Descriptor{MediaType: "application/x", Digest: n, Size: d.Size})
	}
	return ds
}

// pushSHA512 pushes a manifest that lists an image's blobs by sha512 and nothing else.
func (l *lab) pushSHA512(repo, tag string, sizes ...int) *image {
	l.Helper()
	plain := l.push(repo, "", sizes...)
	p := &image{repo: repo, bytes: map[digest.Digest][]byte{}}
	for i, d := range l.aliases(plain) {
		d.MediaType = plain.blobs()[i].MediaType
		p.bytes[d.Digest] = plain.bytes[plain.blobs()[i].Digest]
		if i == 0 {
			p.config = d
		} else {
			p.layers = append(p.layers, d)
		}
	}
	p.digest = l.putJSON(repo, tag, ocispec.MediaTypeImageManifest, manifestOf(p.config, p.layers...))
	return p
}

// An artifact lists a denied image's blobs by their other digests.
func TestDeniedBlobsByTheirOtherDigest(t *testing.T) {
	t.Parallel()
	for _, pending := range []bool{false, true} {
		for _, imageBy := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			t.Run(map[bool]string{false: "denied ", true: "pending "}[pending]+imageBy.String(), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, waitForUpstream, func(l *lab, _ *policy.Config) {
					l.gateway.Gate.ManifestWait = 2 * time.Second // in which the config's other name is learnt, on a slow machine too
				})
				push := l.push
				if imageBy == digest.SHA512 {
					push = l.pushSHA512
				}
				bad := push("acme/app", "bad", 400_000, 900)
				l.engine.condemn(bad.digest)
				if pending {
					l.engine.hold()
					l.want(200, "", "GET", manifestPath("acme/app", "bad"))
				} else {
					l.scanned(bad)
				}
				ds := l.aliases(bad)
				if imageBy == digest.SHA512 {
					for i, d := range bad.blobs() {
						ds[i].Digest = digest.FromBytes(bad.bytes[d.Digest])
					}
				}
				l.artifact("acme/app", "alias", l.empty("acme/app"), ds...)
				l.want(200, "", "GET", manifestPath("acme/app", "alias"))
				for i, d := range ds {
					if pending {
						r := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond)
						if int64(len(r.body)) > floorOf(d.Size, i == 0) {
							t.Errorf("blob %d by the other digest while pending: %d, %d bytes", i, r.status, len(r.body))
						}
						continue
					}
					for _, header := range [][]string{nil, {"Range", "bytes=0-0"}, {"Range", "bytes=-5"}} {
						l.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", d), header...)
					}
					l.want(403, "", "HEAD", blobPath("acme/app", d))
				}
			})
		}
	}
}

// The artifact comes first, and its blobs pass, since nobody knows the image: its
// manifest is all that is left then, and waits for the verdict.
func TestOtherDigestServedBeforeTheImage(t *testing.T) {
	t.Parallel()
	for _, imageBy := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		t.Run(imageBy.String(), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			push := l.push
			if imageBy == digest.SHA512 {
				push = l.pushSHA512
			}
			bad := push("acme/app", "bad", 400_000, 900)
			l.engine.condemn(bad.digest)
			l.engine.hold()
			ds := l.aliases(bad)
			if imageBy == digest.SHA512 {
				for i, d := range bad.blobs() {
					ds[i].Digest = digest.FromBytes(bad.bytes[d.Digest])
				}
			}
			l.artifact("acme/app", "alias", l.empty("acme/app"), ds...)
			l.want(200, "", "GET", manifestPath("acme/app", "alias"))
			for i, d := range ds {
				l.eventually("it passes", func() bool { return l.get("GET", blobPath("acme/app", d), patience).status == 200 })
				if r := l.want(200, "", "GET", blobPath("acme/app", d)); digest.FromBytes(r.body) != digest.FromBytes(bad.bytes[bad.blobs()[i].Digest]) {
					t.Error("not the blob")
				}
			}
			for _, method := range []string{"GET", "HEAD"} {
				l.want(403, "scan_timeout", method, manifestPath("acme/app", "bad"))
			}
			l.engine.release()
			l.eventually("it is denied", func() bool {
				return l.get("GET", blobPath("acme/app", bad.config), patience, "Range", "bytes=0-0").status == 403
			})
			for _, d := range ds {
				l.eventually("so are its blobs", func() bool { return l.get("GET", blobPath("acme/app", d), patience).status == 403 })
			}
		})
	}
}

// What lists by sha512 and hides nothing passes: an artifact, an image, and an image whose
// blobs both list.
func TestSHA512OfTheGood(t *testing.T) {
	t.Parallel()
	l := newLab(t, waitForUpstream)
	note := []byte("a note")
	name := digest.SHA512.FromBytes(note)
	l.origin.PutBlobAs("acme/app", name, note)
	d := ocispec.Descriptor{MediaType: "application/x", Digest: name, Size: int64(len(note))}
	l.artifact("acme/app", "note", l.empty("acme/app"), d)
	l.want(200, "", "GET", manifestPath("acme/app", "note"))
	l.want(200, "", "HEAD", blobPath("acme/app", d))
	l.want(200, "", "GET", blobPath("acme/app", d))
	good := l.pushSHA512("acme/app", "good", 400_000, 900)
	l.want(200, "", "GET", manifestPath("acme/app", "good"))
	for _, d := range good.blobs() {
		if r := l.want(200, "", "GET", blobPath("acme/app", d)); digest.SHA512.FromBytes(r.body) != d.Digest {
			t.Error("not the blob")
		}
	}
	plain := l.allow("acme/app", "plain", 400_000, 900)
	ds := l.aliases(plain)
	l.artifact("acme/app", "again", l.empty("acme/app"), ds...)
	l.want(200, "", "GET", manifestPath("acme/app", "again"))
	for _, d := range ds {
		l.want(200, "", "GET", blobPath("acme/app", d))
	}
}

// A blob on the kill list by one digest is asked for by the other.
func TestKilledBlobByItsOtherDigest(t *testing.T) {
	t.Parallel()
	note := []byte("leaked a key")
	l := newLab(t, waitForUpstream, func(_ *lab, c *policy.Config) { c.Kill = []string{digest.FromBytes(note).String()} })
	name := digest.SHA512.FromBytes(note)
	l.origin.PutBlobAs("acme/app", name, note)
	d := ocispec.Descriptor{MediaType: "application/x", Digest: name, Size: int64(len(note))}
	l.artifact("acme/app", "note", l.empty("acme/app"), d)
	l.want(200, "", "GET", manifestPath("acme/app", "note"))
	l.want(403, "", "GET", blobPath("acme/app", d))
	l.want(403, "", "HEAD", blobPath("acme/app", d))
}

// A decoy's manifest and one layer of a denied image are asked for once a day, and
// nothing else: that the image lists its blobs must not be forgotten over it.
func TestDecoyOutlivesTheImage(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Now = clock.now })
	bad := l.deny("acme/app", "bad", 400_000, 900)
	l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x", bad.blobs()...)...)
	for day := range 35 {
		clock.add(24*time.Hour + time.Minute)
		l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
		if r := l.get("GET", blobPath("acme/app", bad.layers[0]), patience); r.status != 403 {
			t.Fatalf("day %d: %d, %d bytes", day+1, r.status, len(r.body))
		}
	}
	for _, d := range bad.blobs() {
		l.want(403, "", "GET", blobPath("acme/app", d))
	}
}

// A manifest that names a good image's layer as its config takes that from nobody; one
// that names a denied image's config as a layer gives it to nobody.
func TestLayerNamedAsAConfig(t *testing.T) {
	t.Parallel()
	l := newLab(t, waitForUpstream)
	good := l.allow("acme/app", "good", 400_000)
	config := as(ociConfig, good.layers[0])[0]
	evil := l.putJSON("acme/app", "evil", ocispec.MediaTypeImageManifest, manifestOf(config, good.layers[0]))
	for range 2 {
		l.eventually("it is refused", func() bool {
			return l.get("GET", manifestPath("acme/app", evil.String()), patience).status == 403
		})
		l.want(200, "", "GET", blobPath("acme/app", good.layers[0]))
		l.want(206, "", "GET", blobPath("acme/app", good.layers[0]), "Range", "bytes=-5")
		l.want(200, "", "GET", manifestPath("acme/app", "good"))
	}
	bad := l.deny("acme/app", "bad", 300_000)
	wrong := l.putJSON("acme/app", "wrong", ocispec.MediaTypeImageManifest, manifestOf(good.config, good.layers[0], as(ocispec.MediaTypeImageLayer, bad.config)[0]))
	l.eventually("it is refused", func() bool {
		return l.get("GET", manifestPath("acme/app", wrong.String()), patience).status == 403
	})
	l.refused(bad)
	l.want(200, "", "GET", blobPath("acme/app", good.config))
}

// An image of which a layer or the config is on the kill list is denied as a whole, before
// a client has fetched the rest of it.
func TestImageOfAKilledBlob(t *testing.T) {
	t.Parallel()
	for i, what := range []string{"config", "layer"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var killed []string
			l := newLab(t, func(l *lab, c *policy.Config) {
				img := l.push("acme/app", "bad", 400_000, 900)
				killed = append(killed, img.blobs()[i].Digest.String())
				c.Kill = killed
			})
			for _, method := range []string{"GET", "HEAD"} {
				l.want(403, "kill list", method, manifestPath("acme/app", "bad"))
			}
			good := l.allow("acme/app", "good", 900)
			l.want(200, "", "GET", blobPath("acme/app", good.config))
		})
	}
}

// Somebody who may push to one repository lists there what only another one has, to learn
// from the verdict what is in it: an image is scanned of its own repository's blobs alone,
// wherever the gateway has them from.
func TestVerdictOfAnotherRepositorysBlobs(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"all", "config", "layer"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, waitForUpstream)
			secret := l.allow("acme/secret", "one", 400_000)
			own := l.allow("acme/thief", "own", 900)
			m := manifestOf(secret.config, secret.layers...)
			switch part {
			case "config":
				m.Layers = own.layers
			case "layer":
				m.Config = own.config
			}
			m.Annotations = map[string]string{"made": "by a thief"}
			d := l.putJSON("acme/thief", "copy", ocispec.MediaTypeImageManifest, m)
			next := l.another() // which has none of it in its spool
			for _, l := range []*lab{l, next} {
				for _, ref := range []string{"copy", d.String()} {
					l.eventually("it is refused", func() bool { return l.get("GET", manifestPath("acme/thief", ref), patience).status == 403 })
					l.want(403, "upstream lacks", "GET", manifestPath("acme/thief", ref))
				}
			}
		})
	}
}
