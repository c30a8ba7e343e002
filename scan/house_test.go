package scan

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
)

// fakeEngine counts what it is asked for and gives what it is told to. Its SBOM is
// the concatenation of what landed, so that a missing layer shows.
type fakeEngine struct {
	recipe                  Recipe
	begun, catalogued, runs atomic.Int32

	beginErr, layerErr, catalogueErr, matchErr error
	problems                                   []Problem
	match                                      func(ctx context.Context, sbom []byte, db Database) (*Matches, error)
}

func (e *fakeEngine) Recipe() Recipe { return e.recipe }

func (e *fakeEngine) Begin(_ context.Context, img Image, diffIDs []digest.Digest) (Session, error) {
	e.begun.Add(1)
	if len(diffIDs) != len(img.Layers) {
		return nil, fmt.Errorf("%d diff IDs for %d layers", len(diffIDs), len(img.Layers))
	}
	return &fakeSession{e: e, want: diffIDs, landed: make([]string, len(diffIDs))}, e.beginErr
}

func (e *fakeEngine) Match(ctx context.Context, sbom []byte, db Database) (*Matches, error) {
	e.runs.Add(1)
	if e.matchErr != nil {
		return nil, e.matchErr
	}
	if e.match != nil {
		return e.match(ctx, sbom, db)
	}
	return &Matches{DistroKnown: true, Findings: []Finding{{ID: "CVE-1", Severity: "low", Package: Package{Name: "p", Version: db.Checksum}}}}, nil
}

type fakeSession struct {
	e      *fakeEngine
	want   []digest.Digest
	mu     sync.Mutex
	landed []string
}

func (s *fakeSession) Layer(i int, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if got := digest.FromBytes(b); got != s.want[i] {
		return fmt.Errorf("layer %d: %s landed, %s was said", i, got, s.want[i])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.landed[i] = got(b)
	return s.e.layerErr
}

func got(b []byte) string { return digest.FromBytes(b).Encoded()[:8] }

func (s *fakeSession) Catalogue(ctx context.Context) (*SBOM, error) {
	s.e.catalogued.Add(1)
	if s.e.catalogueErr != nil {
		return nil, s.e.catalogueErr
	}
	if slices.Contains(s.landed, "") {
		<-ctx.Done() // a layer is missing: it would wait
		return nil, context.Cause(ctx)
	}
	return &SBOM{JSON: []byte(strings.Join(s.landed, " ")), Packages: 7, Distro: "wolfi", Problems: s.e.problems}, nil
}

func (s *fakeSession) Close() error { return nil }

// brokenStore fails the operations that it is told to.
type brokenStore struct {
	cache.Store
	get, put, putNew error
}

func (b *brokenStore) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	if b.get != nil {
		return nil, b.get
	}
	return b.Store.Get(ctx, k)
}

func (b *brokenStore) Put(ctx context.Context, k cache.Key, v []byte, ttl time.Duration) error {
	if b.put != nil {
		return b.put
	}
	return b.Store.Put(ctx, k, v, ttl)
}

func (b *brokenStore) PutNew(ctx context.Context, k cache.Key, v []byte, ttl time.Duration) ([]byte, error) {
	if b.putNew != nil {
		return nil, b.putNew
	}
	return b.Store.PutNew(ctx, k, v, ttl)
}

// A house is a Scanner with all that it needs.
type house struct {
	*Scanner
	engine *fakeEngine
	store  *brokenStore
	db     Database
	dbErr  error
}

func newHouse(t *testing.T) *house {
	t.Helper()
	layers, err := spool.Open(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { layers.Close() })
	h := &house{engine: &fakeEngine{recipe: Recipe{"s1", "c1", "g1", "m1"}}, store: &brokenStore{Store: new(cache.Memory)},
		db: Database{Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Checksum: "xxh64:1"}}
	h.Scanner = &Scanner{Store: h.store, Layers: layers, Engine: h.engine, Timeout: 5 * time.Second,
		Database: func(context.Context) (Database, error) { return h.db, h.dbErr },
		Now:      func() time.Time { return time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC) }}
	t.Cleanup(func() { h.Close() })
	return h
}

// another is a second gateway that shares the Store and has no layer.
func (h *house) another(t *testing.T) *house {
	o := newHouse(t)
	o.store.Store = h.store.Store
	return o
}

func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f, Size: int64(len(f)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, f)
	}
	w.Close()
	return b.Bytes()
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

const (
	gzipLayer  = "application/vnd.oci.image.layer.v1.tar+gzip"
	ociConfig  = "application/vnd.oci.image.config.v1+json"
	ociIndexed = "application/vnd.oci.image.manifest.v1+json"
)

// A blob is a layer of a test's image.
type blob struct {
	mediaType string
	bytes     []byte        // compressed
	diffID    digest.Digest // what the config says
}

func layerOf(tar []byte) blob { return blob{gzipLayer, zipped(tar), digest.FromBytes(tar)} }

func imageOf(t *testing.T, configType string, blobs ...blob) Image {
	t.Helper()
	var config struct {
		OS     string `json:"os"`
		Label  string
		RootFS struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	config.OS = "linux"
	m := ocispec.Manifest{MediaType: ociIndexed, Config: ocispec.Descriptor{MediaType: configType}}
	for _, b := range blobs {
		if b.diffID != "" {
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, b.diffID)
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: b.mediaType, Digest: digest.FromBytes(b.bytes), Size: int64(len(b.bytes))})
	}
	img := Image{Reference: "r", MediaType: ociIndexed, Layers: m.Layers}
	var err error
	if img.Config, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	m.Config.Digest = digest.FromBytes(img.Config)
	if img.Manifest, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	img.Digest = digest.FromBytes(img.Manifest)
	return img
}

// run scans an image and returns its verdict and which layers were read.
func (h *house) run(t *testing.T, img Image, blobs ...blob) (*Verdict, []int) {
	t.Helper()
	sc, err := h.Begin(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	var read []int
	var wg sync.WaitGroup
	for i := range blobs {
		if !sc.Needs(i) {
			continue
		}
		read = append(read, i)
		wg.Go(func() {
			if err := sc.Layer(t.Context(), i, bytes.NewReader(blobs[i].bytes)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, err := sc.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v, read
}
