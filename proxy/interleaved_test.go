package proxy_test

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The promise holds across repositories, restarts and new databases too: random
// requests of all kinds, to two gateways over one store, one of which has just come up,
// for images that are denied, allowed, pending, and listed by decoys.
func TestPromiseInterleaved(t *testing.T) {
	l := newLab(t)
	var bad []*image
	for _, repo := range []string{"acme/app", "acme/other"} {
		l.pushed = 0 // the same image in both
		bad = append(bad, l.push(repo, "bad", 400_000, 90_000, 900))
	}
	l.pushed = 0
	good := l.push("acme/app", "good", 400_000) // shares its layer with the bad one
	if good.layers[0].Digest != bad[0].layers[0].Digest {
		t.Fatal("nothing is shared")
	}
	pending := l.push("acme/app", "pending", 500_000, 800)
	for _, img := range []*image{bad[0], pending} {
		l.engine.condemn(img.digest)
	}
	l.artifact("acme/app", "decoy", l.empty("acme/app"),
		ocispec.Descriptor{MediaType: "application/x", Digest: bad[0].layers[1].Digest, Size: 1 << 30},
		ocispec.Descriptor{MediaType: "application/x", Digest: pending.layers[0].Digest, Size: 3})
	l.index("acme/app", "multi", l.descriptor(bad[0], "amd64"), l.descriptor(pending, "arm64"))
	l.scanned(bad[0])
	l.engine.hold()

	led := &ledger{got: map[digest.Digest][]interval{}}
	both := []*lab{l, l.another()}
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	var thieves sync.WaitGroup
	for seed := range uint64(12) {
		thieves.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 11))
			images := []*image{bad[0], bad[1], pending}
			for ctx.Err() == nil {
				l, img := both[rng.IntN(2)], images[rng.IntN(3)]
				once, stop := context.WithTimeout(ctx, time.Duration(rng.IntN(120))*time.Millisecond)
				switch rng.IntN(6) {
				case 0:
					ref := []string{"bad", "pending", "decoy", "multi", "good", img.digest.String()}[rng.IntN(6)]
					method := []string{"GET", "HEAD"}[rng.IntN(2)]
					r := l.get(method, manifestPath(img.repo, ref), 300*time.Millisecond)
					if r.status == 200 && img == bad[0] && (ref == "bad" || ref == img.digest.String()) {
						l.Errorf("%s of a denied manifest: %d", method, r.status)
					}
				default:
					blobs := append([]ocispec.Descriptor{img.config}, img.layers...)
					if img != pending {
						blobs = append(blobs[:1:1], blobs[2:]...) // without the shared layer
					}
					l.thief(once, rng, led, img, blobs[rng.IntN(len(blobs))])
				}
				stop()
			}
		})
	}
	for i := range 4 { // a database swap every now and then, and in the end the decisions
		time.Sleep(500 * time.Millisecond)
		l.engine.renew()
		if i == 2 {
			l.engine.release()
		}
	}
	thieves.Wait()

	stolen := int64(0)
	for _, img := range []*image{bad[0], pending} {
		for i, d := range append([]ocispec.Descriptor{img.config}, img.layers...) {
			stolen += led.covered(d.Digest)
			if end, floor := led.beyond(d.Digest), floorOf(d.Size, i == 0); end > floor {
				t.Errorf("blob %d of %d bytes: received up to %d, floor is %d", i, d.Size, end, floor)
			}
		}
	}
	if stolen < 100_000 {
		t.Errorf("the thieves got %d bytes: the test has shown nothing", stolen)
	}
	for _, l := range both {
		for _, img := range append(bad, pending) {
			l.eventually("it is denied", func() bool { return l.get("GET", manifestPath(img.repo, img.digest.String()), patience).status == 403 })
			if r := l.get("GET", blobPath(img.repo, img.config), patience); r.status != 403 && r.status != 404 {
				t.Errorf("the config of a denied image: %d", r.status)
			}
		}
	}
	l.scanned(good)
	l.want(200, "", "GET", blobPath("acme/app", bad[0].layers[0]))
	l.want(403, "", "GET", blobPath("acme/app", bad[0].layers[1]))
}

// Who resumes at the held offset gets the rest once the image is allowed, and never
// before; one byte at a time yields no more than all at once.
func TestResume(t *testing.T) {
	l := newLab(t)
	img := l.push("acme/app", "one", 200_000)
	d := img.layers[0]
	floor := floorOf(d.Size, false)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	part := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond)
	if n := int64(len(part.body)); n == 0 || n > floor {
		t.Fatalf("%d bytes before the decision, floor is %d", n, floor)
	}
	rest := "bytes=" + itoa(len(part.body)) + "-"
	var clients sync.WaitGroup
	for at := floor; at < d.Size; at += 4096 {
		clients.Go(func() {
			for _, r := range []string{"bytes=" + itoa(int(at)) + "-", "bytes=" + itoa(int(at)) + "-" + itoa(int(at)), "bytes=-" + itoa(int(d.Size-at))} {
				if got := l.get("GET", blobPath("acme/app", d), 150*time.Millisecond, "Range", r); len(got.body) > 0 && got.status/100 == 2 {
					t.Errorf("%s: %d bytes of the held tail", r, len(got.body))
				}
			}
		})
	}
	clients.Wait()
	if got := l.get("GET", blobPath("acme/app", d), 150*time.Millisecond, "Range", rest); int64(len(part.body)+len(got.body)) > floor {
		t.Errorf("resumed past the floor: %d + %d", len(part.body), len(got.body))
	}
	l.engine.release()
	got := l.want(206, "", "GET", blobPath("acme/app", d), "Range", rest)
	if digest.FromBytes(append(part.body, got.body...)) != d.Digest {
		t.Error("the parts are not the layer")
	}
	l.want(416, "", "GET", blobPath("acme/app", d), "Range", "bytes="+itoa(int(d.Size))+"-")
	if r := l.want(206, "", "GET", blobPath("acme/app", d), "Range", "bytes=0-1,5-6"); !strings.HasPrefix(r.header.Get("Content-Type"), "multipart/") {
		t.Errorf("two ranges: %s", r.header.Get("Content-Type"))
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
