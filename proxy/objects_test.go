package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// bucket is an object store with faults that a real one can't be made to have.
type bucket struct {
	mu      sync.Mutex // guards all below
	objects map[string][]byte
	down    error
	full    error // of Put
	cut     int   // bytes after which reads break off; 0: never
}

func (b *bucket) Get(_ context.Context, name string, size int64) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[name]
	switch {
	case b.down != nil:
		return nil, b.down
	case !ok || int64(len(o)) != size:
		return nil, cache.ErrNotExist
	case b.cut > 0 && b.cut < len(o):
		return io.NopCloser(io.MultiReader(bytes.NewReader(o[:b.cut]), broken{})), nil
	}
	return io.NopCloser(bytes.NewReader(o)), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("it broke off") }

func (b *bucket) Put(_ context.Context, name string, object []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down == nil && b.full == nil {
		b.objects[name] = bytes.Clone(object)
	}
	return errors.Join(b.down, b.full)
}

func (b *bucket) Delete(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, name)
	return b.down
}

func (b *bucket) do(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

func (b *bucket) len() (n int) {
	b.do(func() { n = len(b.objects) })
	return n
}

// pullWhole gets all of an image that is allowed.
func (l *lab) pullWhole(img *image) {
	l.Helper()
	l.want(200, "", "GET", manifestPath(img.repo, img.digest.String()))
	for _, d := range append(img.layers, img.config) {
		if r := l.want(200, "", "GET", blobPath(img.repo, d)); int64(len(r.body)) != d.Size {
			l.Errorf("%d bytes of %s, which has %d", len(r.body), d.Digest, d.Size)
		}
	}
}

// sharing gives a lab an object store.
func sharing(b *bucket) change {
	return func(l *lab, _ *policy.Config) { l.gateway.Objects, l.gateway.Replica = b, l.dir }
}

func newSharing(t *testing.T) (*lab, *bucket) {
	t.Helper()
	b := &bucket{objects: map[string][]byte{}}
	return newLab(t, sharing(b)), b
}

// What one replica has fetched the others have from the object store, with no byte from
// upstream: config and layers, of one part and of several.
func TestBlobsAreShared(t *testing.T) {
	t.Parallel()
	l, b := newSharing(t)
	img := l.push("acme/app", "1", 100_000, 5<<20)
	l.pullWhole(img)
	l.eventually("all is uploaded", func() bool { return b.len() == 1+1+6 })
	two := l.another(sharing(b))
	l.origin.ResetCounts()
	two.pullWhole(img)
	for _, d := range append(img.layers, img.config) {
		if n, _ := l.origin.Served(d.Digest); n != 0 {
			t.Errorf("%s was fetched from upstream %d times more", d.Digest, n)
		}
	}
}

// An object that is there does not make a blob one of a repository that hasn't got it.
func TestSharedIsNotPublic(t *testing.T) {
	t.Parallel()
	l, b := newSharing(t)
	made := l.random(100_000)
	img := l.pushImage("acme/secret", "1", made)
	l.pullWhole(img)
	l.eventually("all is uploaded", func() bool { return b.len() == 2 })
	raw, err := made.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	l.origin.PutManifest("acme/thief", "1", ocispec.MediaTypeImageManifest, raw) // a manifest alone
	two := l.another(sharing(b))
	two.want(200, "", "GET", manifestPath("acme/thief", "1"))
	two.want(404, "", "GET", blobPath("acme/thief", img.layers[0]))
}

// Damaged, cut off in the middle, taken away in part, out of order: a client gets what
// upstream has, at the latest when it asks again, and never a wrong blob.
func TestObjectsInTrouble(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(*bucket){
		"down": func(b *bucket) { b.down = cache.ErrDown },
		"cut":  func(b *bucket) { b.cut = 1000 },
		"lost": func(b *bucket) { clear(b.objects) },
		"last part lost": func(b *bucket) {
			maps.DeleteFunc(b.objects, func(name string, _ []byte) bool { return !strings.HasSuffix(name, "/0") })
		},
		"damaged": func(b *bucket) {
			for _, o := range b.objects {
				o[len(o)/2] ^= 1
			}
		},
		"damaged, the last part lost, full": func(b *bucket) {
			for name, o := range b.objects {
				if o[len(o)/2] ^= 1; !strings.HasSuffix(name, "/0") {
					delete(b.objects, name)
				}
			}
			b.full = errors.New("no room")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, b := newSharing(t)
			img := l.push("acme/app", "1", 100_000, 5<<20)
			l.pullWhole(img)
			l.eventually("all is uploaded", func() bool { return b.len() == 1+1+6 })
			b.do(func() { trouble(b) })
			two := l.another(sharing(b))
			two.want(200, "", "GET", manifestPath("acme/app", "1"))
			damaged := strings.HasPrefix(name, "damaged")
			for _, d := range img.layers {
				r := two.get("GET", blobPath("acme/app", d), patience)
				if damaged && (r.err == nil && r.status == http.StatusOK || int64(len(r.body)) >= d.Size) {
					t.Errorf("a damaged blob: %d, %d bytes of %d, %v", r.status, len(r.body), d.Size, r.err)
				}
				if damaged {
					r = two.get("GET", blobPath("acme/app", d), patience)
				}
				if r.status != http.StatusOK || r.err != nil || int64(len(r.body)) != d.Size {
					t.Errorf("%d, %d bytes of %d, %v", r.status, len(r.body), d.Size, r.err)
				}
			}
			if name == "lost" || name == "last part lost" || name == "damaged" {
				l.eventually("it is uploaded again", func() bool { return b.len() >= 4 })
			}
		})
	}
}

// Three replicas are asked for an unknown image at the same time: upstream sends each of
// its blobs once.
func TestFetchedOnceForAll(t *testing.T) {
	t.Parallel()
	l, b := newSharing(t)
	img := l.push("acme/app", "1", 100_000, 5<<20)
	labs := []*lab{l, l.another(sharing(b)), l.another(sharing(b))}
	l.origin.ResetCounts()
	var all sync.WaitGroup
	for _, l := range labs {
		all.Go(func() { l.pullWhole(img) })
	}
	all.Wait()
	for _, d := range append(img.layers, img.config) {
		if n, _ := l.origin.Served(d.Digest); n != 1 {
			t.Errorf("%s was fetched from upstream %d times", d.Digest, n)
		}
	}
}

// A blob comes so slowly that its first part takes longer than replicas wait for one that
// stands still: they wait for it, and upstream sends it once.
func TestSlowlyFetchedOnceForAll(t *testing.T) {
	t.Parallel()
	b := &bucket{objects: map[string][]byte{}}
	l := newLab(t, fronts(proxytest.Origin{Bandwidth: 110_000}), sharing(b))
	img := l.push("acme/app", "1", 1_200_000)
	two := l.another(sharing(b))
	began := time.Now()
	var all sync.WaitGroup
	for _, l := range []*lab{l, two} {
		all.Go(func() { l.pullWhole(img) })
	}
	all.Wait()
	if took := time.Since(began); took < 10*time.Second {
		t.Errorf("it came after %v: that was not slow", took)
	}
	for _, d := range append(img.layers, img.config) {
		if n, _ := l.origin.Served(d.Digest); n != 1 {
			t.Errorf("%s was fetched from upstream %d times", d.Digest, n)
		}
	}
}

// The replica that fetches a blob dies in the middle of it: the others go on.
func TestFetcherDies(t *testing.T) {
	t.Parallel()
	l, b := newSharing(t)
	img := l.push("acme/app", "1", 5<<20)
	lease, err := cache.Acquire(t.Context(), l.gateway.Store, "fetch "+img.layers[0].Digest.String(), "dead", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(1500*time.Millisecond, lease.Release)
	l.pullWhole(img)
	l.eventually("it is uploaded", func() bool { return b.len() >= 4 })
}

// One gateway brings the same blobs for two repositories at the same time: one of them from
// upstream, the other one's from what the first uploads.
func TestTwoRepositoriesAtOnce(t *testing.T) {
	t.Parallel()
	l, b := newSharing(t)
	made := l.random(100_000, 200_000, 300_000, 400_000, 500_000, 600_000)
	one, two := l.pushImage("acme/one", "1", made), l.pushImage("acme/two", "1", made)
	l.origin.ResetCounts()
	var both sync.WaitGroup
	for _, img := range []*image{one, two} {
		both.Go(func() { l.pullWhole(img) })
	}
	both.Wait()
	for _, d := range one.layers {
		if _, n := l.origin.Served(d.Digest); n > d.Size+1 { // whether it is there is asked for one byte
			t.Errorf("upstream sent %d bytes of %s, which has %d", n, d.Digest, d.Size)
		}
	}
	l.eventually("all is uploaded", func() bool { return b.len() == 7 })
}
