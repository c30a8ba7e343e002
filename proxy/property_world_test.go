package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/layer"
)

// A world is an origin with the cast in it, three replicas of the gateway over one Store,
// callers, and a model of what they may have.
type world struct {
	testing.TB
	cast    *cast
	model   *model
	oracle  *oracle
	clock   *clock
	origin  *proxytest.Server
	open    func() cache.Store // what a replica that starts has
	dir     string
	client  *http.Client
	houses  [3]*house
	streams []*stream // that may bring more
	marks   int       // waiver files written
	focus   int       // the image that was last asked for
	stall   chan struct{}
	faults  []func() // take back those of upstream
	trouble bool     // was made on purpose, and may be felt
}

// A house is a replica.
type house struct {
	gateway *proxy.Gateway
	server  *httptest.Server
	stop    func() // has it follow its policy files no more
}

func newWorld(tb testing.TB, c *cast, open func() cache.Store) *world {
	tb.Helper()
	origin, err := proxytest.Start(proxytest.Origin{Username: "puller", Password: "pull-token-secret", BlobRedirect: true})
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{TB: tb, cast: c, oracle: newOracle(c), clock: &clock{}, origin: origin, open: open, dir: tb.TempDir(), stall: make(chan struct{})}
	w.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}}
	w.model = newModel(c, w.clock.now)
	w.oracle.publish(w.model.facts)
	for repo, has := range c.has {
		for d := range has {
			origin.PutBlobAs(repo, d, c.content[d])
		}
	}
	for _, p := range slices.Concat(c.images, c.indexes, c.decoys) {
		for _, repo := range p.repos {
			origin.PutManifest(repo, p.name, p.mediaType, p.raw)
		}
	}
	w.write("htpasswd", c.htpasswd)
	w.write("policy/property.rego", []byte(propertyPolicy))
	w.writeWaivers()
	for i := range w.houses {
		w.build(i)
	}
	return w
}

// write puts a file in place, whole.
func (w *world) write(name string, b []byte) {
	w.Helper()
	name = filepath.Join(w.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name+".new", b, 0o600), os.Rename(name+".new", name)); err != nil {
		w.Fatal(err)
	}
}

// writeWaivers writes the newest set of waivers, which the replicas read some time.
func (w *world) writeWaivers() {
	w.Helper()
	w.marks++
	b, err := w.model.write(fmt.Sprintf("mark%d", w.marks))
	if err != nil {
		w.Fatal(err)
	}
	w.write("waivers.json", b)
}

// build starts a replica on what it left on disk.
func (w *world) build(i int) {
	w.Helper()
	store := w.open()
	log := slog.New(slog.DiscardHandler)
	place := func(name string) string { return filepath.Join(w.dir, fmt.Sprint(i), name) }
	rules, err := policy.Open(context.Background(), policy.Config{Dir: filepath.Join(w.dir, "policy"), WaiverFile: filepath.Join(w.dir, "waivers.json"), Timeout: patience})
	if err != nil {
		w.Fatal(err)
	}
	g := &proxy.Gateway{
		Upstreams: []proxy.Upstream{{Name: "cgr.test", Registry: &upstream.Registry{
			Name: "cgr.test", URL: w.origin.URL(),
			Credentials: func(context.Context) (upstream.Credentials, error) {
				return upstream.Credentials{Username: "puller", Password: "pull-token-secret"}, nil
			},
		}}},
		Replica: fmt.Sprint(i), Store: store, Blobs: w.spool(place("blobs")), Policy: rules, Log: log, Now: w.clock.now,
		Auth:    &auth.Authenticator{Htpasswd: filepath.Join(w.dir, "htpasswd"), Log: log},
		Gate:    proxy.DefaultGate(),
		Metrics: proxy.NewMetrics(prometheus.NewRegistry()),
		Scanner: &scan.Scanner{Store: store, Layers: w.spool(place("layers")), Engine: w.oracle, Limits: layer.DefaultLimits(), Log: log, Database: w.oracle.database},
	}
	t := &g.Gate
	t.ManifestWait, t.HeaderWait, t.Drip, t.CutDelay, t.RetryAfter = 2*time.Millisecond, 4*time.Millisecond, 2*time.Millisecond, 2*time.Millisecond, 10*time.Millisecond
	if err := errors.Join(g.Auth.Load(), g.Start()); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var follows sync.WaitGroup
	follows.Go(func() {
		if err := rules.Run(ctx); err != nil {
			w.Error(err)
		}
	})
	w.houses[i] = &house{gateway: g, server: httptest.NewServer(g), stop: func() { cancel(); follows.Wait() }}
}

func (w *world) spool(dir string) *spool.Spool {
	w.Helper()
	s, err := spool.Open(dir, 1<<30)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

// shut stops a replica in the middle of whatever it does.
func (w *world) shut(i int) {
	w.Helper()
	h := w.houses[i]
	h.server.CloseClientConnections()
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = h.gateway.Close(now) // that pulls were stopped is what this is about
	h.server.CloseClientConnections()
	h.server.Close()
	h.stop()
	h.gateway.Blobs.Close()
	h.gateway.Scanner.Layers.Close()
	h.gateway.Store.Close()
}

// end shuts everything.
func (w *world) end() {
	w.Helper()
	w.calm()
	for _, s := range w.streams {
		s.cancel()
		<-s.done
	}
	for i := range w.houses {
		w.shut(i)
	}
	w.client.CloseIdleConnections()
	w.origin.Close()
}

// calm ends all troubles.
func (w *world) calm() {
	w.oracle.resume()
	w.oracle.fail(nil)
	for _, remove := range w.faults {
		remove()
	}
	w.faults = nil
	close(w.stall)
	w.stall = make(chan struct{})
}

// A call is a request to be sent.
type call struct {
	caller, method, repo, kind, ref string  // kind and ref are elements of its path
	of                              *member // whose manifest or blob it is for, nil for a list or tag
	blob                            bool
	house                           int
	header                          []string
	most                            int64 // bytes to read before hanging up; 0: all
}

// send begins a request; its answer is read in the background.
func (w *world) send(c call) *stream {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &stream{call: c, cast: w.cast, start: w.model.tick(), began: w.clock.now(), answered: make(chan struct{}), done: make(chan struct{}), cancel: cancel, excused: w.trouble}
	req, err := http.NewRequestWithContext(ctx, c.method, w.houses[c.house].server.URL+"/v2/"+c.repo+"/"+c.kind+"/"+c.ref, nil)
	if err != nil {
		w.Fatal(err)
	}
	req.SetBasicAuth(c.caller, c.caller)
	for i := 0; i+1 < len(c.header); i += 2 {
		req.Header.Set(c.header[i], c.header[i+1])
	}
	w.streams = append(w.streams, s)
	go func() {
		defer close(s.done)
		defer cancel()
		s.read(w.client.Do(req))
	}()
	return s
}

// rest waits until all that was sent is answered, or for as long as one would watch.
func (w *world) rest(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	for _, s := range w.streams {
		select {
		case <-s.done:
		case <-t.C:
			return
		}
	}
}

// check holds what all requests have brought against the model.
func (w *world) check() error {
	var over []*stream
	for _, s := range w.streams {
		select {
		case <-s.done:
			over = append(over, s)
		default:
			if err := w.model.judge(s); err != nil {
				return err
			}
		}
	}
	for _, s := range over {
		if err := errors.Join(w.model.judge(s), w.answered(s), w.model.learn(s)); err != nil {
			return err
		}
	}
	w.streams = slices.DeleteFunc(w.streams, func(s *stream) bool { return slices.Contains(over, s) })
	return nil
}

// answered checks what holds of every answer, whatever may be had.
func (w *world) answered(s *stream) error {
	o := s.outcome()
	switch {
	case s.excused:
	case o.status == http.StatusServiceUnavailable: // late, on a busy machine; that it ends is for settle
	case (o.status == 0 || o.status == http.StatusBadGateway) && s.blob && w.cast.lied(s.repo, s.digest()):
	case o.status >= 500:
		return fmt.Errorf("%s: %d %s", s, o.status, o.message)
	case o.status == 0 && !s.hungUp && !errors.Is(o.err, syscall.ECONNRESET): // a held answer that is cut
		return fmt.Errorf("%s: no answer: %w", s, o.err)
	case o.status == http.StatusNotFound && s.blob && w.cast.has[s.repo][s.digest()] && w.model.met(s):
		return fmt.Errorf("%s: %s", s, o.message)
	case o.status == http.StatusForbidden && s.method != http.MethodHead && !strings.HasPrefix(o.message, "DENIED: blocked by policy"):
		return fmt.Errorf("%s: 403 without a reason: %q", s, o.message)
	}
	return nil
}

// excuse has the requests under way fail without blame.
func (w *world) excuse(which func(*stream) bool) {
	for _, s := range w.streams {
		s.excused = s.excused || which(s)
	}
}
