package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/scan"
)

// A faulty store fails when it is told to.
type faulty struct {
	cache.Store
	mu   sync.Mutex // guards fail
	fail func(cache.Key) bool
}

var errDisk = errors.New("read /var/lib/secret-place/store.db: input/output error")

func (s *faulty) set(fail func(cache.Key) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

func (s *faulty) broken(k cache.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil && s.fail(k) {
		return errDisk
	}
	return nil
}

func (s *faulty) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	if err := s.broken(k); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, k)
}

func (s *faulty) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	if err := s.broken(k); err != nil {
		return nil, err
	}
	return s.Store.Fields(ctx, k)
}

func (s *faulty) Put(ctx context.Context, k cache.Key, b []byte, ttl time.Duration) error {
	if err := s.broken(k); err != nil {
		return err
	}
	return s.Store.Put(ctx, k, b, ttl)
}

// Every cause for which there is no verdict denies, with words for people and none of
// the gateway's insides; and once the cause is gone the image passes without a restart.
func TestCauses(t *testing.T) {
	t.Parallel()
	layers := proxytest.Request{Kind: proxytest.KindBlob}
	tests := []struct {
		name, text string
		fault      func(*lab, *image) (mend func())
	}{
		{"database missing", "database", func(l *lab, _ *image) func() {
			l.scanner.replaceDatabase(func(context.Context) (scan.Database, error) {
				return scan.Database{}, fmt.Errorf("/var/lib/secret-place: %w", scan.ErrDatabaseMissing)
			})
			return func() { l.scanner.replaceDatabase(l.engine.database) }
		}},
		{"database stale", "too old", func(l *lab, _ *image) func() {
			l.scanner.replaceDatabase(func(context.Context) (scan.Database, error) {
				return scan.Database{}, fmt.Errorf("/var/lib/secret-place: %w", scan.ErrDatabaseStale)
			})
			return func() { l.scanner.replaceDatabase(l.engine.database) }
		}},
		{"verdicts can't be read", "store", func(l *lab, _ *image) func() {
			s := l.gateway.Store.(*faulty)
			s.set(func(k cache.Key) bool { return k.Kind() == "image" || k.Kind() == "verdict" })
			return func() { s.set(nil) }
		}},
		{"relations can't be read", "store", func(l *lab, _ *image) func() {
			s := l.gateway.Store.(*faulty)
			s.set(func(k cache.Key) bool { return k.Kind() == "listing" || k.Kind() == "served" })
			return func() { s.set(nil) }
		}},
		{"the match fails", "scan_failed", func(l *lab, _ *image) func() {
			l.engine.fail(errors.New("no such table"))
			return func() { l.engine.fail(nil) }
		}},
		{"upstream gives 500", "HTTP 500", func(l *lab, _ *image) func() {
			return l.origin.Inject(0, layers.Matches, proxytest.Status(500, "UNKNOWN"))
		}},
		{"upstream refuses the layers", "HTTP 403", func(l *lab, _ *image) func() {
			return l.origin.Inject(0, layers.Matches, proxytest.Status(403, "DENIED"))
		}},
		{"a layer is not there", "lacks", func(l *lab, img *image) func() {
			d := img.layers[0].Digest
			l.origin.DeleteBlob(img.repo, d)
			return func() { l.origin.PutBlobAs(img.repo, d, img.bytes[d]) }
		}},
		{"a layer has other bytes", "something else", func(l *lab, img *image) func() {
			return l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches, proxytest.Corrupt(100))
		}},
		{"a layer is too short", "something else", func(l *lab, img *image) func() {
			return l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches, proxytest.Lengthen(-5))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, func(l *lab, _ *policy.Config) {
				l.gateway.Store = &faulty{Store: l.gateway.Store}
				l.gateway.Scanner.Store = l.gateway.Store
				l.gateway.Gate.RetryAfter = 50 * time.Millisecond
				l.gateway.Gate.ManifestWait = 5 * time.Second
				l.gateway.Upstreams[0].Registry.Backoff = time.Millisecond
			})
			img := l.push("acme/app", "one", 1000)
			mend := tt.fault(l, img)
			r := l.get("GET", manifestPath("acme/app", "one"), patience)
			if r.status != 403 && r.status != 503 || !strings.Contains(r.message(), tt.text) || len(r.message()) > 330 {
				t.Errorf("%d %s", r.status, r.message())
			}
			for _, word := range []string{"secret", l.dir, l.origin.Host(), l.origin.BlobHost(), "goroutine"} {
				if strings.Contains(string(r.body), word) {
					t.Errorf("the answer holds %q: %s", word, r.body)
				}
			}
			mend()
			l.eventually("the image passes", func() bool { return l.get("GET", manifestPath("acme/app", "one"), patience).status == 200 })
			l.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
		})
	}
}

func (e *engine) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = err
}

// renew puts another build of the database in place.
func (e *engine) renew() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.build += "+"
}

// With a new database an image last denied stays denied while it is matched, also to
// who has all of it and only sends a HEAD; one last allowed stays allowed.
func TestNewDatabase(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	good, bad := l.push("acme/app", "good", 1000), l.push("acme/app", "bad", 1000)
	l.engine.condemn(bad.digest)
	l.scanned(good)
	l.scanned(bad)
	slow := &slowMatch{Engine: l.engine, gate: make(chan struct{})}
	l.scanner.replace(slow)
	l.engine.renew()
	for range 3 {
		l.want(403, "denied before", "GET", manifestPath("acme/app", "bad"))
		l.want(403, "", "HEAD", manifestPath("acme/app", "bad"))
		l.want(403, "denied before", "GET", blobPath("acme/app", bad.layers[0]))
		l.want(200, "", "GET", manifestPath("acme/app", "good"))
		l.want(200, "", "GET", blobPath("acme/app", good.layers[0]))
	}
	close(slow.gate)
	l.eventually("it is matched again", func() bool {
		return strings.Contains(l.get("GET", manifestPath("acme/app", "bad"), patience).message(), "CVE-2021-44228")
	})
	l.want(200, "", "GET", manifestPath("acme/app", "good"))
	if l.engine.scans != 2 {
		t.Errorf("%d catalogues, want 2: a new database needs no bytes", l.engine.scans)
	}
}

// A slowMatch ends no match before its gate is closed.
type slowMatch struct {
	scan.Engine
	gate chan struct{}
}

func (s *slowMatch) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	select {
	case <-s.gate:
		return s.Engine.Match(ctx, sbom, db)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An image that was served although it is bad, in a mode that blocks nothing, was not
// allowed by that.
func TestWarnIsNotAllowed(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(_ *lab, c *policy.Config) { c.Mode = policy.Warn })
	bad := l.push("acme/app", "bad", 1000)
	l.engine.condemn(bad.digest)
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	l.eventually("it is scanned", func() bool {
		return l.want(200, "", "GET", manifestPath("acme/app", "bad")).header.Get("Warning") != ""
	})
	next := l.another(func(l *lab, c *policy.Config) { c.Mode = policy.Enforce })
	slow := &slowMatch{Engine: l.engine, gate: make(chan struct{})}
	defer close(slow.gate)
	next.scanner.replace(slow)
	l.engine.renew()
	next.want(403, "denied before", "GET", manifestPath("acme/app", "bad"))
}

// another starts a second gateway over the same store and engine, with a spool and a
// policy of its own.
func (l *lab) another(changes ...change) *lab {
	l.Helper()
	first := l.gateway
	n := &lab{T: l.T, origin: l.origin, engine: l.engine, dir: l.TempDir(), pushed: l.pushed}
	s := first.Scanner
	n.gateway = &proxy.Gateway{Upstreams: first.Upstreams, Store: first.Store, Auth: first.Auth, Gate: first.Gate, Log: first.Log,
		Blobs: openSpool(l.T, filepath.Join(n.dir, "blobs")), Metrics: proxy.NewMetrics(prometheus.NewRegistry()),
		Scanner: &scan.Scanner{Store: s.Store, Layers: openSpool(l.T, filepath.Join(n.dir, "layers")), Limits: s.Limits, Log: s.Log}}
	n.scanBy(s.Engine, s.Database)
	config := policy.Config{Mode: policy.Enforce}
	for _, c := range changes {
		c(n, &config)
	}
	var err error
	if n.gateway.Policy, err = policy.Open(l.Context(), config); err != nil {
		l.Fatal(err)
	}
	n.start()
	return n
}

// A gateway that never saw the image, over the same store and with an empty disk, holds
// and denies it the same, without a manifest request.
func TestRestart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad, slow := l.push("acme/app", "bad", 300_000), l.push("acme/app", "slow", 300_000)
	l.engine.condemn(bad.digest)
	l.scanned(bad)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "slow"))
	next := l.another()
	next.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", bad.layers[0]))
	next.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", bad.config))
	r := next.get("GET", blobPath("acme/app", slow.layers[0]), 300*time.Millisecond)
	if r.status != 200 || r.err == nil || int64(len(r.body)) > floorOf(slow.layers[0].Size, false) {
		t.Errorf("a blob of a pending image after a restart: %d, %d bytes, %v", r.status, len(r.body), r.err)
	}
	l.engine.release()
	next.want(200, "", "GET", blobPath("acme/app", slow.layers[0]))
}

// Nothing is left running when clients have hung up in every state and the gateway has
// closed.
func TestNoLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("lab", func(t *testing.T) {
		l := newLab(t)
		img := l.push("acme/app", "one", 1_000_000)
		l.engine.hold()
		l.want(200, "", "GET", manifestPath("acme/app", "one"))
		for range 20 {
			for _, d := range append(img.layers, img.config) {
				l.get("GET", blobPath("acme/app", d), 10*time.Millisecond)
				l.get("GET", blobPath("acme/app", d), 10*time.Millisecond, "Range", "bytes=-5")
			}
		}
	})
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before+3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
	}
}

// Anybody can ask for any tag: that there is none is kept no longer than it counts.
func TestNegativeAnswers(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.NegativeTTL = 200 * time.Millisecond })
	for range 3 {
		l.want(404, "MANIFEST_UNKNOWN", "GET", manifestPath("acme/app", "none"))
	}
	if n := l.origin.Count(proxytest.Request{Kind: proxytest.KindManifest, Reference: "none", Status: 404}); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	l.eventually("the record is gone", func() bool {
		_, err := l.gateway.Store.Get(t.Context(), cache.Name("tag", "cgr.test/acme/app", "none"))
		return errors.Is(err, cache.ErrNotExist)
	})
	l.push("acme/app", "none", 100)
	l.want(200, "", "GET", manifestPath("acme/app", "none"))
}

// A waiver for an index serves its children, and the answer to a program is the same as
// that to a pull.
func TestIndexWaiver(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 1000)
	l.engine.condemn(bad.digest)
	index := l.index("acme/app", "multi", l.descriptor(bad, "amd64"))
	l.want(200, "", "GET", manifestPath("acme/app", "multi"))
	l.scanned(bad)
	l.want(403, "", "GET", manifestPath("acme/app", "multi"))
	file := filepath.Join(l.dir, "waivers.json")
	writeJSONFile(t, file, map[string]any{"waivers": []map[string]any{{"id": "w", "owner": "o", "reason": "r", "expires": "2999-01-01", "scope": map[string]any{"digest": index.String()}}}})
	next := l.another(func(_ *lab, c *policy.Config) { c.WaiverFile = file })
	next.want(200, "", "GET", manifestPath("acme/app", "multi"))
	next.want(200, "", "GET", manifestPath("acme/app", bad.digest.String()))
	next.want(200, "", "GET", blobPath("acme/app", bad.layers[0]))
}

func writeJSONFile(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
