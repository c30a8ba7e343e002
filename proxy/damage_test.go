package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
)

var damages = []string{"", "null", "{}", "[]", `{"digest":"sha256:`, "\x00\x01", `{"digest":"latest","at":"2099-01-01T00:00:00Z","size":-1}`}

// damage puts something unreadable in the place of a value of the Store, or of each
// field of a map.
func (l *lab) damage(value string, kind cache.Kind, parts ...string) {
	l.Helper()
	k := cache.Name(kind, parts...)
	fields, err := l.gateway.Store.Fields(l.Context(), k)
	if err == nil && len(fields) > 0 {
		for f := range fields {
			if err := l.gateway.Store.PutField(l.Context(), k, f, []byte(value), time.Hour); err != nil {
				l.Fatal(err)
			}
		}
		return
	}
	if _, err := l.gateway.Store.Get(l.Context(), k); err != nil {
		l.Fatalf("%q was never stored: %v", k, err)
	}
	if err := l.gateway.Store.Put(l.Context(), k, []byte(value), time.Hour); err != nil {
		l.Fatal(err)
	}
}

// What the gateway has remembered of an image can't be read any more. An allowed image
// goes on being served, a denied one stays denied, and neither waits for the damage to
// be cleared away.
func TestDamagedRecords(t *testing.T) {
	t.Parallel()
	for i, value := range damages {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
			good, bad := l.allow("acme/app", "good", 200_000), l.deny("acme/app", "bad", 200_000)
			for _, img := range []*image{good, bad} {
				status, tag := 200, "good"
				if img == bad {
					status, tag = 403, "bad"
				}
				repo := "cgr.test/acme/app"
				l.want(status, "", "GET", manifestPath("acme/app", tag))
				l.damage(value, "tag", repo, tag)
				l.want(status, "", "HEAD", manifestPath("acme/app", tag))
				l.damage(value, "last", repo, img.digest.String(), "")
				l.want(status, "", "HEAD", manifestPath("acme/app", tag))
				l.damage(value, "served", repo, img.digest.String())
				l.want(status, "", "GET", manifestPath("acme/app", tag))
				for _, d := range img.blobs() {
					l.damage(value, "listing", repo, d.Digest.String())
					for _, method := range []string{"HEAD", "GET", "GET"} {
						r := l.want(status, "", method, blobPath("acme/app", d))
						if method == "GET" && status == 200 && digest.FromBytes(r.body) != d.Digest {
							t.Errorf("%d bytes of %d", len(r.body), d.Size)
						}
					}
				}
				l.damage(value, "history", repo, img.digest.String())
				l.want(status, "", "GET", manifestPath("acme/app", tag))
			}
		})
	}
}

// The stored bytes of a manifest are damaged: another replica, which has not read them
// yet, fetches them anew.
func TestDamagedManifest(t *testing.T) {
	t.Parallel()
	for i, value := range append(damages, ocispec.MediaTypeImageManifest+"\n{}", "a type that was never one\n") {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
			good := l.allow("acme/app", "good", 1000)
			if strings.HasPrefix(value, "a type") {
				value += string(l.ask("GET", manifestPath("acme/app", "good")).body)
			}
			l.damage(value, "manifest", good.digest.String())
			other := l.another()
			for range 2 {
				other.want(200, "", "GET", manifestPath("acme/app", "good"))
			}
			third := l.another()
			third.want(200, "", "GET", manifestPath("acme/app", "good"))
			if b, err := l.gateway.Store.Get(t.Context(), cache.Name("manifest", good.digest.String())); err != nil || string(b) == value {
				t.Errorf("it was not mended: %q, %v", b, err)
			}
		})
	}
}

// A damaged listing hides nothing: an image that lists a blob is still asked when only
// its own line can't be read, and something else that lists the blob would release it.
func TestDamagedListingReleasesNothing(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} {
		for i, value := range damages {
			t.Run(fmt.Sprint("upstream has deleted it ", gone, " ", i), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
				bad := l.deny("acme/app", "bad", 200_000)
				l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x-decoy", bad.blobs()...)...)
				l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
				other := l
				if gone {
					l.origin.Delete("acme/app", bad.digest.String())
					k := cache.Name("served", "cgr.test/acme/app", bad.digest.String())
					if err := l.gateway.Store.Delete(t.Context(), k); err != nil {
						t.Fatal(err)
					}
					other = l.another()
				}
				for _, d := range bad.blobs() {
					k := cache.Name("listing", "cgr.test/acme/app", d.Digest.String())
					if err := l.gateway.Store.PutField(t.Context(), k, bad.digest.String(), []byte(value), time.Hour); err != nil {
						t.Fatal(err)
					}
					for range 2 {
						if r := other.get("GET", blobPath("acme/app", d), patience); r.status/100 != 4 {
							t.Errorf("%d, %d bytes of %d", r.status, len(r.body), d.Size)
						}
					}
				}
			})
		}
	}
}

// A Store that is short of memory has dropped the relations of an image, and has kept that it
// was served. Who asks for the image's manifest gets its blobs as well.
func TestLostListings(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Now = clock.now })
	good, bad := l.allow("acme/app", "good", 200_000, 1_000), l.deny("acme/app", "bad", 200_000)
	l.artifact("acme/app", "decoy", l.empty("acme/app"), as("application/x-decoy", bad.blobs()...)...)
	l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
	for _, img := range []*image{good, bad} {
		status, path := 200, manifestPath("acme/app", img.digest.String())
		if img == bad {
			status = 403
		}
		l.want(status, "", "GET", path)
		for _, d := range img.blobs() {
			l.want(status, "", "GET", blobPath("acme/app", d))
			if err := l.gateway.Store.Delete(l.Context(), cache.Name("listing", "cgr.test/acme/app", d.Digest.String())); err != nil {
				t.Fatal(err)
			}
			l.want(404, "", "GET", blobPath("acme/app", d))
		}
		clock.add(10 * time.Second)
		l.want(200, "", "GET", manifestPath("acme/app", "decoy"))
		for _, d := range bad.blobs() {
			if r := l.get("GET", blobPath("acme/app", d), patience); r.status/100 != 4 {
				t.Errorf("%d, %d bytes of a denied image", r.status, len(r.body))
			}
		}
		l.want(status, "", "GET", path)
		for _, d := range img.blobs() {
			l.want(status, "", "GET", blobPath("acme/app", d))
		}
	}
}

// A relation that can't be read is not lost: who asks for the manifest alone is served.
func TestUnreadableListing(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Now = clock.now })
	good := l.allow("acme/app", "good", 200_000)
	path := manifestPath("acme/app", good.digest.String())
	l.want(200, "", "GET", path)
	key := cache.Name("listing", "cgr.test/acme/app", good.layers[0].Digest.String())
	if err := l.gateway.Store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := l.gateway.Store.Put(t.Context(), key, nil, time.Hour); err != nil {
		t.Fatal(err)
	}
	clock.add(10 * time.Second)
	l.want(200, "", "GET", path)
	l.want(503, "", "GET", blobPath("acme/app", good.layers[0]))
}
