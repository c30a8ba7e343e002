package proxy_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/proxytest/sample"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/layer"
)

// A lab is a gateway in front of an origin, with an engine that says what the test
// tells it to. Everything between is real.
type lab struct {
	*testing.T
	origin  *proxytest.Server
	gateway *proxy.Gateway
	engine  *engine
	scanner *replaceable // what gateway scans by: engine, unless a test says otherwise
	url     string
	dir     string
	pushed  int // images made, so that no two are alike
}

// A change adjusts a lab before it starts.
type change func(*lab, *policy.Config)

func newLab(t *testing.T, changes ...change) *lab {
	t.Helper()
	origin, err := proxytest.Start(proxytest.Origin{Username: "puller", Password: "pull-token-secret", BlobRedirect: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { origin.Close() })
	l := &lab{T: t, origin: origin, engine: newEngine(), dir: t.TempDir()}
	store := &cache.Memory{}
	gate := proxy.DefaultGate()
	gate.ManifestWait, gate.HeaderWait, gate.Drip, gate.CutDelay = 20*time.Millisecond, 50*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l.gateway = &proxy.Gateway{
		Upstreams: []proxy.Upstream{{Name: "cgr.test", Registry: &upstream.Registry{
			Name: "cgr.test", URL: origin.URL(),
			Credentials: func(context.Context) (upstream.Credentials, error) {
				return upstream.Credentials{Username: "puller", Password: "pull-token-secret"}, nil
			},
		}}},
		Store:   store,
		Blobs:   openSpool(t, filepath.Join(l.dir, "blobs")),
		Auth:    &auth.Authenticator{Anonymous: true},
		Gate:    gate,
		Metrics: proxy.NewMetrics(prometheus.NewRegistry()),
		Log:     log,
	}
	l.gateway.Scanner = &scan.Scanner{
		Store: store, Layers: openSpool(t, filepath.Join(l.dir, "layers")), Limits: layer.DefaultLimits(), Log: log,
	}
	l.scanBy(l.engine, l.engine.database)
	config := policy.Config{Mode: policy.Enforce, Log: log}
	for _, c := range changes {
		c(l, &config)
	}
	if l.gateway.Policy, err = policy.Open(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if err := l.gateway.Auth.Load(); err != nil {
		t.Fatal(err)
	}
	l.start()
	return l
}

func (l *lab) start() {
	l.Helper()
	if err := l.gateway.Start(); err != nil {
		l.Fatal(err)
	}
	srv := httptest.NewServer(l.gateway)
	l.url = srv.URL
	l.Cleanup(func() {
		l.engine.release()
		srv.CloseClientConnections()
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := l.gateway.Close(ctx); err != nil {
			l.Error(err)
		}
		l.gateway.Blobs.Close()
		l.gateway.Scanner.Layers.Close()
	})
}

func openSpool(t *testing.T, dir string) *spool.Spool {
	t.Helper()
	s, err := spool.Open(dir, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if os.Getenv("SLUICE_TEST_LOG") != "" {
		fmt.Fprintf(os.Stderr, "%s: %s", w.t.Name(), b)
	}
	return len(b), nil
}

// scanBy gives a gateway that has not started an engine and a database that can be
// replaced while it runs.
func (l *lab) scanBy(e scan.Engine, database func(context.Context) (scan.Database, error)) {
	l.scanner = &replaceable{engine: e, database: database}
	l.gateway.Scanner.Engine, l.gateway.Scanner.Database = l.scanner, l.scanner.Current
}

// replaceable is an engine and a database in whose place others can be put.
type replaceable struct {
	mu       sync.Mutex // guards both
	engine   scan.Engine
	database func(context.Context) (scan.Database, error)
}

func (r *replaceable) replace(e scan.Engine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engine = e
}

func (r *replaceable) replaceDatabase(f func(context.Context) (scan.Database, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.database = f
}

func (r *replaceable) now() (scan.Engine, func(context.Context) (scan.Database, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine, r.database
}

func (r *replaceable) Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest) (scan.Session, error) {
	e, _ := r.now()
	return e.Begin(ctx, img, diffIDs)
}

func (r *replaceable) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	e, _ := r.now()
	return e.Match(ctx, sbom, db)
}

func (r *replaceable) Recipe() scan.Recipe {
	e, _ := r.now()
	return e.Recipe()
}

func (r *replaceable) Current(ctx context.Context) (scan.Database, error) {
	_, f := r.now()
	return f(ctx)
}

// An engine stands for syft and grype: it catalogues when it is let, and finds a known
// exploited vulnerability in the images that it was told of.
type engine struct {
	mu      sync.Mutex // guards what follows
	gate    chan struct{}
	bad     map[string]bool
	broken  error
	build   string
	built   time.Time
	matches int
	scans   int
}

func newEngine() *engine {
	e := &engine{gate: make(chan struct{}), bad: map[string]bool{}, build: "xxh64:1", built: time.Now()}
	close(e.gate)
	return e
}

// hold lets no scan end before release.
func (e *engine) hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gate = make(chan struct{})
}

func (e *engine) release() {
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-e.gate:
	default:
		close(e.gate)
	}
}

func (e *engine) condemn(d digest.Digest) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bad[d.String()] = true
}

func (e *engine) database(context.Context) (scan.Database, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return scan.Database{Built: e.built, Checksum: e.build}, nil
}

func (e *engine) Recipe() scan.Recipe {
	return scan.Recipe{Syft: "1", Catalogue: "1", Grype: "1", Match: "1"}
}

func (e *engine) Begin(_ context.Context, img scan.Image, _ []digest.Digest) (scan.Session, error) {
	return &session{e, img}, nil
}

func (e *engine) Match(_ context.Context, sbom []byte, _ scan.Database) (*scan.Matches, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.matches++
	if e.broken != nil {
		return nil, e.broken
	}
	m := &scan.Matches{Findings: []scan.Finding{}, DistroKnown: true}
	if e.bad[string(sbom)] {
		m.Findings = append(m.Findings, scan.Finding{ID: "CVE-2021-44228", Aliases: []string{}, Severity: "critical", CVSS: 10, KEV: "2021-12-10",
			Package: scan.Package{Name: "log4j-core", Version: "2.14.1", Type: "java-archive"},
			Fix:     scan.Fix{State: "fixed", Versions: []string{"2.15.0"}, Available: "2021-12-10"}})
	}
	return m, nil
}

type session struct {
	e   *engine
	img scan.Image
}

func (s *session) Layer(int, string) error { return nil }
func (s *session) Close() error            { return nil }

func (s *session) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	s.e.mu.Lock()
	gate := s.e.gate
	s.e.scans++
	s.e.mu.Unlock()
	select {
	case <-gate:
		return &scan.SBOM{JSON: []byte(s.img.Digest), Packages: 1, Distro: "wolfi"}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An image as it was pushed: its digests and what its blobs hold.
type image struct {
	repo   string
	digest digest.Digest
	config ocispec.Descriptor
	layers []ocispec.Descriptor
	bytes  map[digest.Digest][]byte
}

// push makes an image of random layers of about these sizes.
func (l *lab) push(repo, tag string, sizes ...int) *image {
	l.Helper()
	return l.pushImage(repo, tag, l.random(sizes...))
}

func (l *lab) random(sizes ...int) v1.Image {
	l.Helper()
	var layers [][]sample.File
	for i, n := range sizes {
		b := make([]byte, n)
		rng := rand.NewChaCha8(sha256.Sum256([]byte(fmt.Sprint(l.Name(), l.pushed, i))))
		rng.Read(b)
		layers = append(layers, []sample.File{{Path: fmt.Sprintf("opt/file%d", i), Data: b}})
	}
	l.pushed++
	img, err := sample.Build(sample.Options{}, "lab", layers...)
	if err != nil {
		l.Fatal(err)
	}
	return img
}

func (l *lab) pushImage(repo, tag string, img v1.Image) *image {
	l.Helper()
	d, err := l.origin.PushImage(repo, tag, img)
	if err != nil {
		l.Fatal(err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		l.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		l.Fatal(err)
	}
	p := &image{repo: repo, digest: d, config: m.Config, layers: m.Layers, bytes: map[digest.Digest][]byte{}}
	if p.bytes[m.Config.Digest], err = img.RawConfigFile(); err != nil {
		l.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		l.Fatal(err)
	}
	for i, layer := range layers {
		rc, err := layer.Compressed()
		if err != nil {
			l.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil {
			l.Fatal(err)
		}
		p.bytes[m.Layers[i].Digest] = b
	}
	return p
}

// A reply is what a client got of a request, complete or not.
type reply struct {
	status int
	header http.Header
	body   []byte
	err    error // why the body ended early
}

// get sends a request and reads what comes, at most until timeout.
func (l *lab) get(method, path string, timeout time.Duration, header ...string) reply {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, l.url+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: (&net.Dialer{}).DialContext}}
	resp, err := client.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b, err}
}

// message returns the text of a registry error.
func (r reply) message() string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(r.body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return doc.Errors[0].Code + ": " + doc.Errors[0].Message
}
