package proxy_test

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A tag serves from memory while upstream can't be read, which its client is told, and
// not when upstream says that it is gone or refused.
func TestStaleTags(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault proxytest.Fault
		want  int
	}{
		{"500", proxytest.Status(500, "UNKNOWN"), 200},
		{"502", proxytest.Status(502, "UNKNOWN"), 200},
		{"429", proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "1"), 200},
		{"no answer", proxytest.Raw("", false), 200},
		{"reset", proxytest.Raw("", true), 200},
		{"silence", func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }, 200},
		{"401", proxytest.Status(401, "UNAUTHORIZED"), 403},
		{"403", proxytest.Status(403, "DENIED"), 403},
		{"404", proxytest.Status(404, "MANIFEST_UNKNOWN"), 404},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			metrics := prometheus.NewRegistry()
			l := newLab(t, eager, func(l *lab, _ *policy.Config) {
				l.gateway.Gate.TagTTL, l.gateway.Gate.NegativeTTL = 0, 100*time.Millisecond
				l.gateway.Gate.UpstreamTimeout = 2 * time.Second
				l.gateway.Metrics = proxy.NewMetrics(metrics)
			})
			img := l.push("acme/app", "one", 1000)
			l.scanned(img)
			if w := l.want(200, "", "GET", manifestPath("acme/app", "one")).header.Values("Warning"); len(w) > 0 {
				t.Errorf("a fresh tag comes with %q", w)
			}
			remove := l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, tt.fault)
			for _, method := range []string{"GET", "HEAD"} {
				r := l.want(tt.want, "", method, manifestPath("acme/app", "one"))
				w := strings.Join(r.header.Values("Warning"), "")
				if said := strings.HasPrefix(w, `299 - "`) && strings.HasSuffix(w, ` ago"`) && strings.Contains(w, "can't be read"); said != (tt.want == 200) {
					t.Errorf("%s: Warning %q", method, w)
				}
			}
			// What is asked for by digest is no older than it says.
			if w := l.want(200, "", "GET", manifestPath("acme/app", img.digest.String())).header.Values("Warning"); len(w) > 0 {
				t.Errorf("a digest comes with %q", w)
			}
			if n := counted(t, metrics, "sluice_stale_tags_total"); (n == 2) != (tt.want == 200) {
				t.Errorf("%v stale tags are counted", n)
			}
			remove()
			l.eventually("the tag is back", func() bool {
				r := l.get("GET", manifestPath("acme/app", "one"), patience)
				return r.status == 200 && r.header.Get("Warning") == ""
			})
		})
	}
}

// counted returns the sum of a metric over all its labels.
func counted(t *testing.T, r *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.Counter.GetValue()
			}
		}
	}
	return sum
}

// While upstream is gone all that is known goes on: the tag, the manifest, the blobs, and
// the decision, which is made as of now. What isn't known is refused soon and clearly.
func TestUpstreamGone(t *testing.T) {
	t.Parallel()
	l := newLab(t, eager, func(l *lab, _ *policy.Config) { l.gateway.Gate.TagTTL = 0 })
	img, bad := l.push("acme/app", "one", 300_000, 1000), l.push("acme/app", "bad", 1000)
	cold := l.push("acme/app", "cold", 1000)
	l.scanned(img)
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	l.scanned(bad)
	l.origin.Close()
	for range 3 {
		l.want(200, "", "GET", manifestPath("acme/app", "one"))
		l.whole(img)
	}
	l.engine.condemn(bad.digest)
	l.engine.renew()
	l.eventually("what has turned bad is denied, by its stale tag too", func() bool {
		return strings.Contains(l.get("GET", manifestPath("acme/app", "bad"), patience).message(), "CVE-2021-44228")
	})
	for path, text := range map[string]string{
		manifestPath("acme/app", "cold"):                "nothing listens there",
		manifestPath("acme/app", cold.digest.String()):  "nothing listens there",
		"/v2/acme/app/tags/list":                        "try again",
		"/v2/acme/app/referrers/" + img.digest.String(): "try again",
	} {
		began := time.Now()
		r := l.want(502, text, "GET", path)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: refused after %v", path, took)
		}
		if r.header.Get("Content-Type") != "application/json" || strings.Contains(string(r.body), l.origin.Host()) {
			t.Errorf("%s: %s %s", path, r.header.Get("Content-Type"), r.body)
		}
	}
}

// An upstream that takes connections and says nothing is waited for, though not long.
func TestUpstreamSilent(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	l := newLab(t, eager, func(l *lab, _ *policy.Config) {
		l.gateway.Upstreams[0].Registry.URL = "http://" + mute.Addr().String()
		l.gateway.Gate.UpstreamTimeout = 2 * time.Second
	})
	began := time.Now()
	r := l.want(502, "no answer in time", "GET", manifestPath("acme/app", "one"))
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("refused after %v: %s", took, r.body)
	}
}

// A tag that moves while upstream can't be read is what it was; once upstream is back it
// is what it has become.
func TestTagMovesWhileStale(t *testing.T) {
	t.Parallel()
	const ttl = 300 * time.Millisecond
	l := newLab(t, eager, func(l *lab, _ *policy.Config) { l.gateway.Gate.TagTTL = ttl })
	old := l.push("acme/app", "one", 1000)
	digestOf := func() string {
		return l.want(200, "", "GET", manifestPath("acme/app", "one")).header.Get("Docker-Content-Digest")
	}
	if got := digestOf(); got != old.digest.String() {
		t.Fatalf("got %s", got)
	}
	back := l.origin.Inject(0, nil, proxytest.Status(503, "UNAVAILABLE"))
	moved := l.push("acme/app", "one", 2000)
	for end := time.Now().Add(2 * ttl); time.Now().Before(end); time.Sleep(ttl / 10) {
		if got := digestOf(); got != old.digest.String() {
			t.Fatalf("got %s while upstream can't be read", got)
		}
	}
	back()
	l.eventually("the tag has moved", func() bool { return digestOf() == moved.digest.String() })
	l.whole(moved)
	l.whole(old)
}

// A hundred clients of an unknown image cost upstream one fetch of each blob, though the
// first of them hangs up, and every third on the way.
func TestHundredFollowers(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 400_000, 200_000)
	l.engine.hold()
	l.get("GET", manifestPath("acme/app", "one"), 5*time.Millisecond) // the leader, who hangs up
	var clients sync.WaitGroup
	for i := range 100 {
		clients.Go(func() {
			if r := l.get("GET", manifestPath("acme/app", "one"), time.Minute); r.status != 200 {
				t.Errorf("manifest: %d %s %v", r.status, r.message(), r.err)
			}
			for _, d := range append(img.layers, img.config) {
				clients.Go(func() {
					if i%3 == 0 {
						l.get("GET", blobPath("acme/app", d), 30*time.Millisecond)
						return
					}
					if r := l.get("GET", blobPath("acme/app", d), time.Minute); r.err != nil || digest.FromBytes(r.body) != d.Digest {
						t.Errorf("blob of %d bytes: %d, %d bytes, %v", d.Size, r.status, len(r.body), r.err)
					}
				})
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // some are under way, some yet to come
	l.engine.release()
	clients.Wait()
	for _, d := range append(img.layers, img.config) {
		if n, sent := l.origin.Served(d.Digest); n != 1 || sent != d.Size {
			t.Errorf("blob of %d bytes was fetched %d times, %d bytes", d.Size, n, sent)
		}
	}
	if n := l.origin.Count(proxytest.Request{Method: "GET", Kind: proxytest.KindManifest, Status: 200}); n != 1 {
		t.Errorf("the manifest was fetched %d times", n)
	}
}

// The one client of an image hangs up in the middle of its first layer. The image is
// fetched to its end all the same, and the next client finds it there.
func TestLeaderHangsUp(t *testing.T) {
	t.Parallel()
	l := newLab(t, eager, func(l *lab, _ *policy.Config) { l.gateway.Gate.ManifestWait = 20 * time.Millisecond })
	img := l.push("acme/app", "one", 400_000)
	going := make(chan struct{})
	l.origin.Inject(1, proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches, l.origin.Stall(200_000, going))
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	if r := l.get("GET", blobPath("acme/app", img.layers[0]), 300*time.Millisecond); r.err == nil || len(r.body) == 0 {
		t.Errorf("the leader got %d bytes and %v", len(r.body), r.err)
	}
	close(going)
	l.eventually("the layer is there", func() bool {
		b, err := l.gateway.Blobs.Open(img.layers[0].Digest)
		if err != nil {
			return false
		}
		defer b.Close()
		return b.Committed()
	})
	l.whole(img)
	if n, sent := l.origin.Served(img.layers[0].Digest); n != 1 || sent != img.layers[0].Size {
		t.Errorf("fetched %d times, %d bytes of %d", n, sent, img.layers[0].Size)
	}
}

// A disk that is full, below the quota that the operator promised, fails an image by
// cause and says what to do. Nothing wrong is served, small images go on, and the large
// one passes as soon as there is room.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"blobs", "layers"} {
		t.Run(kind, func(t *testing.T) {
			disk := t.TempDir()
			if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
				t.Skipf("needs a small tmpfs, which only root can mount: %v", err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(disk, 0); err != nil {
					t.Error(err)
				}
			})
			l := newLab(t, eager, func(l *lab, _ *policy.Config) {
				place := map[string]**spool.Spool{"blobs": &l.gateway.Blobs, "layers": &l.gateway.Scanner.Layers}[kind]
				(*place).Close()
				*place = openSpool(t, filepath.Join(disk, kind))
			})
			small, large := l.push("acme/app", "small", 10_000), l.push("acme/app", "large", 3_000_000)
			r := l.want(403, "disk is full", "GET", manifestPath("acme/app", "large"))
			if strings.Contains(string(r.body), disk) || !strings.Contains(r.message(), "free") {
				t.Errorf("%s", r.body)
			}
			d := large.layers[0]
			if r := l.get("GET", blobPath("acme/app", d), time.Second); int64(len(r.body)) >= d.Size {
				t.Errorf("all %d bytes of it: %d", len(r.body), r.status)
			}
			l.whole(small)
			if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
				t.Fatal(err)
			}
			l.eventually("the image passes", func() bool {
				return l.get("GET", manifestPath("acme/app", "large"), patience).status == http.StatusOK
			})
			l.whole(large)
		})
	}
}
