package proxy_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/scan"
)

// headFrom sends a HEAD as a client at an address does, and returns the answer.
func (l *lab) headFrom(addr, path string) *http.Response {
	r := httptest.NewRequestWithContext(l.Context(), http.MethodHead, path, nil)
	r.RemoteAddr = addr + ":40000"
	w := httptest.NewRecorder()
	l.gateway.ServeHTTP(w, r)
	return w.Result()
}

// node is the address of the i-th node of a fleet.
func node(i int) string { return fmt.Sprintf("10.0.%d.%d", i/200, 1+i%200) }

// A stage is an engine that is done with no image of the bots before it is told so, and
// with the images of others once so many of them are scanned at the same time.
type stage struct {
	scan.Engine
	crowd int
	bots  chan struct{} // closed when it is told so

	mu      sync.Mutex // guards arrived
	arrived int
	all     chan struct{} // closed when the crowd is there
}

func (e *stage) Begin(ctx context.Context, img scan.Image, ids []digest.Digest) (scan.Session, error) {
	s, err := e.Engine.Begin(ctx, img, ids)
	return &staged{s, e, strings.Contains(img.Reference, "/bots@")}, err
}

type staged struct {
	scan.Session
	stage *stage
	bot   bool
}

func (s *staged) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	wait := s.stage.all
	if s.bot {
		wait = s.stage.bots
	} else {
		s.stage.arrive()
	}
	select {
	case <-wait:
		return s.Session.Catalogue(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *stage) arrive() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.arrived++; e.arrived == e.crowd {
		close(e.all)
	}
}

// While a bot resolves tags without end, and none of its images is ever done, people pull
// as many images at once as there are places but the bot's one, by HEAD and GET as clients do.
func TestStormDelaysNoPull(t *testing.T) {
	t.Parallel()
	const bots = 60
	s := &stage{crowd: 3, bots: make(chan struct{}), all: make(chan struct{})}
	l := newLab(t, func(l *lab, _ *policy.Config) {
		s.Engine = l.engine
		l.gateway.Scanner.Engine, l.gateway.Gate.Pulls, l.gateway.Gate.Queue = s, s.crowd+1, 8
	})
	defer close(s.bots)
	for i := range bots {
		l.push("acme/bots", fmt.Sprint(i), 100)
	}
	var storm sync.WaitGroup
	calm := make(chan struct{})
	answered := atomic.Int64{}
	for range 4 {
		storm.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-calm:
					return
				default:
				}
				l.want(200, "", "HEAD", manifestPath("acme/bots", fmt.Sprint(i%bots)))
				answered.Add(1)
			}
		})
	}
	l.eventually("the storm rages", func() bool { return answered.Load() > bots })
	var pulls sync.WaitGroup
	for i := range s.crowd {
		img := l.push("acme/app", fmt.Sprint(i), 200_000, 1000)
		pulls.Go(func() {
			l.want(200, "", "HEAD", manifestPath("acme/app", fmt.Sprint(i)))
			l.whole(img)
		})
	}
	pulls.Wait()
	close(calm)
	storm.Wait()
}

// HEADs of many unknown images stay within their part of the queue, and hold up nobody:
// past it a HEAD is answered all the same, since the image's blobs are held.
func TestHeadStorm(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.Pulls, l.gateway.Gate.Queue = 2, 10 })
	l.engine.hold()
	for i := range 20 {
		tag := fmt.Sprint("bot", i)
		l.push("acme/app", tag, 100)
		l.want(200, "", "HEAD", manifestPath("acme/app", tag))
	}
	img := l.push("acme/app", "wanted", 100)
	l.want(200, "", "HEAD", manifestPath("acme/app", "wanted"))
	if r := l.get("HEAD", blobPath("acme/app", img.layers[0]), patience); r.status == 200 || r.status/100 == 5 {
		t.Errorf("HEAD of a blob that nobody has a place for: %d", r.status)
	}
	l.want(200, "", "GET", manifestPath("acme/app", "wanted"))
	l.eventually("the pull that somebody waits for began", func() bool { n, _ := l.origin.Served(img.layers[0].Digest); return n == 1 })
	l.engine.release()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := l.gateway.Close(ctx); err != nil { // waits for all that was begun
		t.Fatal(err)
	}
	if want := 1 + 10/2 + 1; l.engine.count() != want { // that ran, waited, was wanted
		t.Errorf("%d images were scanned, want %d: the storm has no bound", l.engine.count(), want)
	}
}

// A HEAD past the queue says nothing that only a decision may say: what was denied stays
// denied, and what has no blob left to hold is not vouched for.
func TestHeadPastTheQueue(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.Pulls, l.gateway.Gate.Queue = 1, 0 })
	bad := l.deny("acme/app", "bad", 1000)
	img := l.push("acme/app", "one", 1000)
	config, layer := img.config, img.layers[0]
	config.Data, layer.Data = img.bytes[config.Digest], img.bytes[layer.Digest]
	l.putJSON("acme/app", "inline", ocispec.MediaTypeImageManifest, manifestOf(config, layer))
	l.engine.renew()
	l.engine.hold()
	other := l.push("acme/app", "other", 100)
	l.want(200, "", "GET", manifestPath("acme/app", "other"))
	l.eventually("the only place is taken", func() bool { n, _ := l.origin.Served(other.layers[0].Digest); return n == 1 })
	l.want(403, "", "HEAD", manifestPath("acme/app", bad.digest.String()))
	l.want(429, "", "HEAD", manifestPath("acme/app", "inline"))
	l.want(200, "", "HEAD", manifestPath("acme/app", "one"))
}

// What bots ask upstream for at once is bounded, for each of them and for all together,
// whatever they ask for by HEAD, and nobody who pulls waits behind them.
func TestStormIsBoundedUpstream(t *testing.T) {
	t.Parallel()
	const heads = 200
	for _, tt := range []struct {
		name   string
		ref    func(l *lab, i int) string
		status int
	}{
		{"tags that are not there", func(_ *lab, i int) string { return fmt.Sprint(i) }, 404},
		{"digests that are not there", func(_ *lab, i int) string { return digest.FromString(fmt.Sprint(i)).String() }, 404},
		{"tags", func(l *lab, i int) string { l.push("acme/bots", fmt.Sprint(i), 100); return fmt.Sprint(i) }, 200},
		{"digests", func(l *lab, i int) string { return l.push("acme/bots", "", 100).digest.String() }, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for bots, bound := range map[int]int64{1: 16, heads: 64} {
				l := newLab(t, func(l *lab, _ *policy.Config) {
					l.gateway.Gate.UpstreamTimeout, l.gateway.Gate.Queue = 4*time.Minute, 10
				})
				img := l.push("acme/app", "wanted", 1000)
				var refs []string
				for i := range heads {
					refs = append(refs, tt.ref(l, i))
				}
				var now, most atomic.Int64
				passing := make(chan struct{})
				l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindManifest, Repository: "acme/bots"}.Matches, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					n := now.Add(1)
					defer now.Add(-1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					<-passing
					next.ServeHTTP(w, r)
				})
				var storm sync.WaitGroup
				for i, ref := range refs {
					storm.Go(func() {
						if resp := l.headFrom(node(i%bots), manifestPath("acme/bots", ref)); resp.StatusCode != tt.status {
							t.Errorf("%s: %d", ref, resp.StatusCode)
						}
					})
				}
				l.eventually("the storm rages", func() bool { return now.Load() >= bound })
				if bots == 1 {
					if resp := l.headFrom("192.0.2.7", manifestPath("acme/app", "wanted")); resp.StatusCode != 200 {
						t.Errorf("somebody else's HEAD: %d", resp.StatusCode)
					}
				}
				l.whole(img)
				l.want(200, "", "GET", manifestPath("acme/app", "wanted"))
				close(passing)
				storm.Wait()
				if n := most.Load(); n > bound {
					t.Errorf("%d bots: %d requests at once, want %d", bots, n, bound)
				}
			}
		})
	}
}

// Who finds no place among the HEADs that ask upstream gets what is remembered of a tag,
// or is told that it is the gateway that is busy; upstream isn't blamed.
func TestHeadsWithoutPlace(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Gate.UpstreamTimeout, l.gateway.Now = 6*time.Second, clock.now
	})
	img := l.allow("acme/app", "known", 1000)
	l.want(200, "", "GET", manifestPath("acme/app", "known"))
	clock.add(time.Hour)
	passing := make(chan struct{})
	now := atomic.Int64{}
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		now.Add(1)
		<-passing
		next.ServeHTTP(w, r)
	})
	var storm sync.WaitGroup
	for i := range 64 {
		storm.Go(func() { l.headFrom(node(i), manifestPath("acme/bots", digest.FromString(fmt.Sprint(i)).String())) })
	}
	l.eventually("the storm rages", func() bool { return now.Load() == 64 })
	resp := l.headFrom("192.0.2.7", manifestPath("acme/app", "known"))
	if w := resp.Header.Get("Warning"); resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") != img.digest.String() || !strings.Contains(w, "this gateway") {
		t.Errorf("a tag that is remembered: %d %v", resp.StatusCode, resp.Header)
	}
	resp = l.headFrom("192.0.2.7", manifestPath("acme/app", "unknown"))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a tag that is not: %d %v", resp.StatusCode, resp.Header)
	}
	close(passing)
	storm.Wait()
	if resp = l.headFrom("192.0.2.7", manifestPath("acme/app", "known")); resp.StatusCode != 200 || resp.Header.Get("Warning") != "" {
		t.Errorf("after the storm: %d %v", resp.StatusCode, resp.Header)
	}
}

// An upstream whose images are never done leaves a place to the other's.
func TestSlowUpstreamLeavesAPlace(t *testing.T) {
	t.Parallel()
	var two *proxytest.Server
	s := &stage{crowd: 1, bots: make(chan struct{}), all: make(chan struct{})}
	l := newLab(t, second(&two), func(l *lab, _ *policy.Config) {
		s.Engine = l.engine
		l.gateway.Scanner.Engine, l.gateway.Gate.Pulls = s, 2
	})
	defer close(s.bots)
	for i := range 5 {
		l.push("acme/bots", fmt.Sprint(i), 100)
		l.want(200, "", "GET", manifestPath("acme/bots", fmt.Sprint(i)))
	}
	img := l.from(two).push("acme/app", "one", 1000)
	l.want(200, "", "GET", manifestPath("two.test/acme/app", "one"))
	l.eventually("the other upstream's image passes", func() bool {
		r := l.get("GET", blobPath("two.test/acme/app", img.config), patience)
		return r.status == 200 && digest.FromBytes(r.body) == img.config.Digest
	})
}
