package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// shaped puts an origin behind a link of so many bytes a second in the place of the
// lab's own.
func shaped(bandwidth int64) change {
	return func(l *lab, _ *policy.Config) {
		origin, err := proxytest.Start(proxytest.Origin{BlobRedirect: true, Bandwidth: bandwidth})
		if err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { origin.Close() })
		l.origin = origin
		l.gateway.Upstreams[0].Registry = &upstream.Registry{Name: "cgr.test", URL: origin.URL()}
	}
}

// An impatient client gives up on a response when nothing came for a while, as some
// versions of CRI-O do after 10 s. With several responses any byte of them will do.
type impatient struct {
	patience time.Duration
	progress chan struct{}
}

func newImpatient(patience time.Duration) *impatient {
	return &impatient{patience, make(chan struct{}, 1)}
}

// watch returns a context that ends when nothing came for too long.
func (c *impatient) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		t := time.NewTimer(c.patience)
		for {
			select {
			case <-c.progress:
				t.Reset(c.patience)
			case <-t.C:
				cancel()
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
}

// fetch reads a blob to its end, and tells of every byte.
func (c *impatient) fetch(ctx context.Context, l *lab, d ocispec.Descriptor) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+blobPath("acme/app", d), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP %d", resp.StatusCode)
	}
	v, n, buf := d.Digest.Verifier(), 0, make([]byte, 32<<10)
	for {
		i, err := resp.Body.Read(buf)
		n += i
		v.Write(buf[:i])
		if i > 0 {
			select {
			case c.progress <- struct{}{}:
			default:
			}
		}
		if err == io.EOF && v.Verified() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", n, d.Size, err)
		}
	}
}

// A client that gives up when no byte comes for a while gets its image: while the scan
// holds it at the floor, while upstream stands still below the floor, for a config, of
// which there are 64 bytes, and with a small layer, of which there are none, as long as
// something drips elsewhere.
func TestDrip(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		blobs func(*image) []ocispec.Descriptor
		stall bool
	}{
		{"held at the floor", func(img *image) []ocispec.Descriptor { return img.layers[:1] }, false},
		{"upstream stands still below the floor", func(img *image) []ocispec.Descriptor { return img.layers[:1] }, true},
		{"a config", func(img *image) []ocispec.Descriptor { return []ocispec.Descriptor{img.config} }, false},
		{"a small layer beside a large one", func(img *image) []ocispec.Descriptor { return img.layers }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.Drip = 100 * time.Millisecond })
			img := l.push("acme/app", "one", 600_000, 1000)
			l.engine.hold()
			resume := make(chan struct{})
			if tt.stall {
				l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches, l.origin.Stall(200_000, resume))
			}
			l.want(200, "", "GET", manifestPath("acme/app", "one"))
			client := newImpatient(time.Second)
			ctx, cancel := client.watch(t.Context())
			defer cancel()
			var responses sync.WaitGroup
			for _, d := range tt.blobs(img) {
				responses.Go(func() {
					if err := client.fetch(ctx, l, d); err != nil {
						t.Errorf("blob of %d bytes: %v", d.Size, err)
					}
				})
			}
			time.Sleep(3 * time.Second) // three times what the client bears
			close(resume)
			l.engine.release()
			responses.Wait()
		})
	}
}

// The hold cap counts from what upstream sent last: an image whose transfer takes many
// of them is no failure.
func TestLongTransfer(t *testing.T) {
	t.Parallel()
	l := newLab(t, shaped(1<<19), func(l *lab, _ *policy.Config) { l.gateway.Gate.HoldCap = time.Second })
	img := l.push("acme/app", "one", 1<<20, 1<<19)
	began := time.Now()
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	var clients sync.WaitGroup
	for _, d := range append(img.layers, img.config) {
		clients.Go(func() {
			if r := l.get("GET", blobPath("acme/app", d), time.Minute); r.status != 200 || r.err != nil || digest.FromBytes(r.body) != d.Digest {
				t.Errorf("blob of %d bytes: %d, %d bytes, %v", d.Size, r.status, len(r.body), r.err)
			}
		})
	}
	clients.Wait()
	if took := time.Since(began); took < 2*l.gateway.Gate.HoldCap {
		t.Errorf("it took only %v: the test has shown nothing", took)
	}
}

// A client whose image waits for its turn makes progress too, as long as upstream sends
// it what it asks for.
func TestLongTransferInTheQueue(t *testing.T) {
	t.Parallel()
	l := newLab(t, shaped(1<<19), func(l *lab, _ *policy.Config) {
		l.gateway.Gate.HoldCap, l.gateway.Gate.Pulls = time.Second, 1
	})
	first, img := l.push("acme/app", "first", 100), l.push("acme/app", "one", 3<<19)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "first"))
	l.eventually("the first has its turn", func() bool { n, _ := l.origin.Served(first.layers[0].Digest); return n == 1 })
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	time.AfterFunc(5*time.Second/2, l.engine.release) // before all of it is there
	d := img.layers[0]
	if r := l.get("GET", blobPath("acme/app", d), time.Minute); r.status != 200 || r.err != nil || digest.FromBytes(r.body) != d.Digest {
		t.Errorf("%d, %d of %d bytes, %v", r.status, len(r.body), d.Size, r.err)
	}
}

// When the cap passes, all who wait are told the same: held bodies are cut, those that
// wait for headers and those that come later read why; and later all of them pass.
func TestOneCause(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Gate.HoldCap, l.gateway.Gate.HeaderWait, l.gateway.Gate.ManifestWait = 2*time.Second, patience, patience
	})
	img := l.push("acme/app", "slow", 300_000, 1000)
	l.engine.hold()
	began := time.Now()
	var clients sync.WaitGroup
	for i := range 40 {
		clients.Go(func() {
			switch i % 4 {
			case 0:
				if r := l.get("GET", blobPath("acme/app", img.layers[0]), patience); r.status != 404 && (r.status != 200 || r.err == nil) {
					t.Errorf("a held layer: %d, %v; want it cut", r.status, r.err)
				}
			case 1, 2:
				d := []ocispec.Descriptor{img.config, img.layers[1]}[i%2]
				for r := l.get("GET", blobPath("acme/app", d), patience); ; r = l.get("GET", blobPath("acme/app", d), patience) {
					if r.status == 404 { // nobody has asked for the manifest yet
						continue
					}
					if r.status != 403 || !strings.Contains(r.message(), "scan_timeout") {
						t.Errorf("a small blob: %d %s", r.status, r.message())
					}
					return
				}
			default:
				// A manifest's wait is counted from the pull's start and ends with the cap here.
				ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "GET", l.url+manifestPath("acme/app", "slow"), nil)
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
					t.Errorf("a manifest: %s after %v", resp.Status, time.Since(began))
				}
			}
		})
	}
	clients.Wait()
	if took := time.Since(began); took < l.gateway.Gate.HoldCap || took > patience {
		t.Errorf("told after %v", took)
	}
	l.engine.release()
	l.eventually("the image passes", func() bool { return l.get("GET", manifestPath("acme/app", "slow"), patience).status == 200 })
	l.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
}

// headersOf sends a request and returns how long its headers took.
func (l *lab) headersOf(method, path string) (time.Duration, int) {
	conn, err := (&net.Dialer{}).DialContext(l.Context(), "tcp", strings.TrimPrefix(l.url, "http://"))
	if err != nil {
		l.Error(err)
		return 0, 0
	}
	defer conn.Close()
	began := time.Now()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: gateway\r\n\r\n", method, path)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		l.Errorf("%s %s: %v", method, path, err)
		return time.Since(began), 0
	}
	return time.Since(began), resp.StatusCode
}

// Headers come in time whatever is slow and however many ask: on one image, on many, with
// the queue full, with an upstream that is silent for tags, manifests or blobs, and with
// a blob whose images have all to be asked for anew.
func TestHeadersInTime(t *testing.T) {
	t.Parallel()
	const wait = 2 * time.Second
	const limit = wait + 3*time.Second // for a slow machine, which 200 clients take whole
	manifests := proxytest.Request{Kind: proxytest.KindManifest}
	tests := []struct {
		name  string
		setup func(*lab) (paths []string)
	}{
		{"one image", func(l *lab) []string {
			img := l.push("acme/app", "one", 300_000, 1000)
			l.want(200, "", "GET", manifestPath("acme/app", "one"))
			return []string{manifestPath("acme/app", "one"), manifestPath("acme/app", img.digest.String()),
				blobPath("acme/app", img.config), blobPath("acme/app", img.layers[0]), blobPath("acme/app", img.layers[1])}
		}},
		{"many images, and the queue is full", func(l *lab) (paths []string) {
			for i := range 20 {
				l.push("acme/app", fmt.Sprint(i), 1000)
				paths = append(paths, manifestPath("acme/app", fmt.Sprint(i)))
			}
			return paths
		}},
		{"blobs don't come", func(l *lab) []string {
			img := l.push("acme/app", "one", 300_000)
			l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, l.origin.Stall(0, nil))
			l.want(200, "", "GET", manifestPath("acme/app", "one"))
			return []string{manifestPath("acme/app", "one"), blobPath("acme/app", img.config), blobPath("acme/app", img.layers[0])}
		}},
		{"manifests don't come", func(l *lab) []string {
			l.push("acme/app", "one", 1000)
			l.origin.Inject(0, manifests.Matches, silence)
			return []string{manifestPath("acme/app", "one"), manifestPath("acme/app", digest.FromString("?").String())}
		}},
		{"content within a manifest that comes late", func(l *lab) []string {
			o := odd(l.T, "inline-data")
			o.Push(l.origin, "acme/app")
			late := make(chan struct{})
			time.AfterFunc(wait*3/4, func() { close(late) })
			get := manifests
			get.Method = "GET"
			l.origin.Inject(0, get.Matches, l.origin.Stall(0, late))
			return []string{manifestPath("acme/app", o.Name)}
		}},
		{"a blob of many images that upstream must be asked for", func(l *lab) (paths []string) {
			l.engine.release()
			var d ocispec.Descriptor
			var all []digest.Digest
			for i := range 12 {
				l.pushed = 0 // so that the first layer is the same
				img := l.push("acme/app", fmt.Sprint(i), 2000, 100+i)
				d, all = img.layers[0], append(all, img.digest)
				l.engine.condemn(img.digest)
				l.scanned(img)
			}
			for _, m := range all {
				if err := l.gateway.Store.Delete(l.Context(), cache.Name("served", "cgr.test/acme/app", m.String())); err != nil {
					l.Fatal(err)
				}
			}
			l.origin.Inject(0, manifests.Matches, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				time.Sleep(wait / 5)
				next.ServeHTTP(w, r)
			})
			return []string{blobPath("acme/app", d)}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) {
				gate := &l.gateway.Gate
				gate.ManifestWait, gate.HeaderWait, gate.UpstreamTimeout, gate.Pulls, gate.Queue = wait/10, wait, wait*9/10, 2, 4
			})
			l.engine.hold()
			paths := tt.setup(l)
			var mu sync.Mutex
			worst, statuses := time.Duration(0), map[int]int{}
			var clients sync.WaitGroup
			for i := range 200 {
				clients.Go(func() {
					took, status := l.headersOf([]string{"GET", "GET", "HEAD"}[i%3], paths[i%len(paths)])
					mu.Lock()
					defer mu.Unlock()
					worst = max(worst, took)
					statuses[status]++
				})
			}
			clients.Wait()
			t.Logf("worst %v of %v; %v", worst.Round(time.Millisecond), wait, statuses)
			if worst > limit {
				t.Errorf("headers took %v, want %v", worst, wait)
			}
		})
	}
}

// When nothing comes of an image for the hold cap, everyone who asks is told so in
// words; the scan goes on, and the next try is quick.
func TestHoldCap(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HoldCap = 2 * time.Second })
	img := l.push("acme/app", "slow", 300_000)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "slow"))
	if r := l.get("GET", blobPath("acme/app", img.layers[0]), patience); r.status != 200 || r.err == nil {
		t.Errorf("a held layer: %d, %v; want it cut", r.status, r.err)
	}
	l.want(403, "scan_timeout", "GET", manifestPath("acme/app", "slow"))
	l.want(403, "scan_timeout", "GET", blobPath("acme/app", img.config))
	l.want(403, "scan_timeout", "GET", blobPath("acme/app", img.layers[0]))
	l.engine.release()
	l.eventually("the image passes", func() bool { return l.get("GET", manifestPath("acme/app", "slow"), patience).status == 200 })
	l.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
	if l.engine.scans != 1 {
		t.Errorf("scanned %d times", l.engine.scans)
	}
}

// gate.strict sends no byte of a pending image's blobs.
func TestStrict(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.Strict = true })
	img := l.push("acme/app", "one", 2_000_000)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	for _, d := range append(img.layers, img.config) {
		for _, header := range [][]string{nil, {"Range", "bytes=0-"}, {"Range", "bytes=0-0"}, {"If-None-Match", `"` + d.Digest.String() + `"`}} {
			if r := l.get("GET", blobPath("acme/app", d), 150*time.Millisecond, header...); len(r.body) > 0 || r.status == 304 {
				t.Errorf("%v: %d with %d bytes", header, r.status, len(r.body))
			}
		}
	}
}
