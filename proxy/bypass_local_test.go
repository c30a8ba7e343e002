package proxy_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
)

// take is the trick of a client that asks for some blobs only, since it holds the
// others, side by side as clients do.
func take(which func(*image) []ocispec.Descriptor, header ...string) trick {
	return func(ctx context.Context, l *lab, led *ledger, img *image) {
		var clients sync.WaitGroup
		for _, d := range which(img) {
			clients.Go(func() { l.steal(ctx, led, img, d, header...) })
		}
		clients.Wait()
	}
}

// A node holds all layers, of other images that it has, and asks for manifest and
// config alone.
func TestAllLayersAreLocal(t *testing.T) {
	t.Parallel()
	foil(t, take(func(p *image) []ocispec.Descriptor { return p.blobs()[:1] }))
}

// A node holds manifest and config, and asks for layers alone.
func TestManifestAndConfigAreLocal(t *testing.T) {
	t.Parallel()
	foil(t, take(func(p *image) []ocispec.Descriptor { return p.layers }))
}

// A node holds all but one layer, whichever it is: the last, or the smallest.
func TestAllButOneLayerIsLocal(t *testing.T) {
	t.Parallel()
	foil(t, take(func(p *image) []ocispec.Descriptor { return p.layers[len(p.layers)-1:] }))
}

// A client that knows manifest and config from elsewhere asks a gateway that never saw
// the image for its layers: there are none before a manifest lists them. Once one was
// served they are denied, and by a gateway that just came up as well, hours later and
// without a manifest request.
func TestBlobsWithoutAManifestRequest(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Now = clock.now })
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.engine.condemn(bad.digest)
	for _, d := range bad.blobs() {
		for _, method := range []string{"GET", "HEAD"} {
			l.want(404, "BLOB_UNKNOWN", method, blobPath("acme/app", d))
			l.want(404, "", method, blobPath("acme/app", d), "Range", "bytes=5-")
		}
	}
	l.scanned(bad)
	clock.add(29 * 24 * time.Hour)
	next := l.another(func(l *lab, _ *policy.Config) { l.gateway.Now = clock.now })
	for _, l := range []*lab{l, next} {
		for _, d := range bad.blobs() {
			l.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", d))
			l.want(403, "", "HEAD", blobPath("acme/app", d))
			l.want(403, "", "GET", blobPath("acme/app", d), "Range", "bytes=5-")
		}
	}
}

// A clock is the time that a gateway is told.
type clock struct {
	mu    sync.Mutex // guards ahead
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Who holds the image asks whether it is still the same, and starts it when told so.
// There is no such answer before the decision, and none after a denial.
func TestNotModifiedIsADecision(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	ask := func(when string) {
		for _, etag := range []string{`"` + bad.digest.String() + `"`, `W/"` + bad.digest.String() + `"`, "*", `"x", "` + bad.digest.String() + `"`} {
			for _, method := range []string{"GET", "HEAD"} {
				for _, header := range []string{"If-None-Match", "If-Match"} {
					paths := []string{manifestPath("acme/app", "bad"), manifestPath("acme/app", bad.digest.String())}
					for _, d := range bad.blobs() {
						if when != "unknown" {
							paths = append(paths, blobPath("acme/app", d))
						}
					}
					for _, path := range paths {
						if r := l.get(method, path, 100*time.Millisecond, header, etag, "If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)); r.status == 304 {
							t.Errorf("%s: %s %s with %s %s: 304", when, method, path, header, etag)
						}
					}
				}
			}
		}
	}
	ask("unknown")
	ask("pending")
	l.engine.release()
	l.eventually("it is denied", func() bool { return l.get("HEAD", manifestPath("acme/app", "bad"), patience).status == 403 })
	ask("denied")
	good := l.allow("acme/app", "good", 1000)
	for _, path := range []string{manifestPath("acme/app", "good"), blobPath("acme/app", good.config)} {
		l.want(304, "", "HEAD", path, "If-None-Match", l.get("HEAD", path, patience).header.Get("ETag"))
	}
}

// A node holds an image by its index and only sends a HEAD for the tag. Index and
// children are one in what they are told: by tag, by digest, by the child's digest,
// with the types of OCI or of Docker.
func TestHeadOnlyOfAnIndex(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	amd, arm := l.deny("acme/app", "", 1000), l.deny("acme/app", "", 1000)
	for tag, mediaType := range map[string]string{"oci": ocispec.MediaTypeImageIndex, "docker": "application/vnd.docker.distribution.manifest.list.v2+json"} {
		list := map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": []ocispec.Descriptor{l.descriptor(amd, "amd64"), l.descriptor(arm, "arm64")}}
		index := l.putJSON("acme/app", tag, mediaType, list)
		for _, ref := range []string{tag, index.String(), amd.digest.String(), arm.digest.String()} {
			l.want(403, "", "HEAD", manifestPath("acme/app", ref))
			l.want(403, "CVE-2021-44228", "GET", manifestPath("acme/app", ref))
			l.want(403, "", "HEAD", manifestPath("acme/app", ref), "If-None-Match", `"`+index.String()+`"`)
		}
	}
	good := l.allow("acme/app", "", 1000)
	index := l.index("acme/app", "mixed", l.descriptor(amd, "amd64"), l.descriptor(good, "arm64"))
	for _, ref := range []string{"mixed", index.String(), good.digest.String()} {
		l.want(200, "", "HEAD", manifestPath("acme/app", ref))
		l.want(200, "", "GET", manifestPath("acme/app", ref))
	}
	l.refused(amd)
}

// An index whose image is denied stays so with a new database, until that has been
// matched with, for a node that sends nothing but a HEAD for its tag. That HEAD begins
// the match too.
func TestHeadOnlyOfAnIndexWithANewDatabase(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.deny("acme/app", "", 1000)
	l.index("acme/app", "multi", l.descriptor(bad, "amd64"))
	slow := &slowMatch{Engine: l.engine, gate: make(chan struct{})}
	l.scanner.replace(slow)
	for range 3 {
		l.engine.renew()
		l.want(403, "", "HEAD", manifestPath("acme/app", "multi"))
		l.want(403, "denied before", "GET", manifestPath("acme/app", "multi"))
	}
	l.engine.pardon(bad.digest)
	close(slow.gate)
	l.eventually("it passes", func() bool { return l.get("HEAD", manifestPath("acme/app", "multi"), patience).status == 200 })
}

func (e *engine) pardon(d digest.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.bad, d.String())
}

// A node asks for nothing but the index for longer than the gateway remembers what is
// not in use. The image behind it is in use by that.
func TestHeadOnlyForMonths(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, brief(&clock))
	bad := l.deny("acme/app", "", 1000)
	l.index("acme/app", "multi", l.descriptor(bad, "amd64"))
	for day := range 20 {
		if r := l.get("HEAD", manifestPath("acme/app", "multi"), patience); r.status != 403 {
			t.Fatalf("day %d: %d", day, r.status)
		}
		clock.add(25 * time.Hour)
		time.Sleep(100 * time.Millisecond) // of the Store's own time, in which an entry lives ten days
	}
}

// Over HTTP/2 many streams share a connection, and get no more by that.
func TestManyStreamsOverHTTP2(t *testing.T) {
	t.Parallel()
	foil(t, func(ctx context.Context, l *lab, led *ledger, img *image) {
		srv := httptest.NewUnstartedServer(http.HandlerFunc(l.gateway.ServeHTTP))
		srv.EnableHTTP2 = true
		srv.StartTLS()
		defer srv.Close()
		client := srv.Client()
		client.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"h2"}
		client.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS12
		var streams sync.WaitGroup
		for _, d := range img.blobs() {
			for _, from := range []int64{0, d.Size / 3, d.Size / 2, d.Size - 1} {
				streams.Go(func() {
					req, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+blobPath(img.repo, d), nil)
					req.Header.Set("Range", "bytes="+itoa(int(from))+"-")
					resp, err := client.Do(req)
					if err != nil {
						return
					}
					defer resp.Body.Close()
					b, _ := io.ReadAll(resp.Body)
					if resp.ProtoMajor != 2 {
						t.Errorf("got %s", resp.Proto)
					}
					if resp.StatusCode/100 == 2 {
						led.add(d.Digest, from, from+int64(len(b)))
					}
				})
			}
		}
		streams.Wait()
		client.CloseIdleConnections()
	})
}

// A tag that moves between HEAD and GET leads to two images, each decided for itself.
func TestTagMoves(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.TagTTL = 0 })
	good := l.push("acme/app", "latest", 1000)
	l.scanned(good)
	head := l.want(200, "", "HEAD", manifestPath("acme/app", "latest"))
	bad := l.push("acme/app", "latest", 1000)
	l.engine.condemn(bad.digest)
	l.scanned(bad)
	l.want(403, "CVE-2021-44228", "GET", manifestPath("acme/app", "latest"))
	l.want(200, "", "GET", manifestPath("acme/app", head.header.Get("Docker-Content-Digest")))
}
