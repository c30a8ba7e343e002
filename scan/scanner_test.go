package scan

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan/layer"
)

func TestScanIsRemembered(t *testing.T) {
	h := newHouse(t)
	blobs := []blob{layerOf(tarOf(t, "a")), layerOf(tarOf(t, "b"))}
	img := imageOf(t, ociConfig, blobs...)
	if _, err := h.Known(t.Context(), img.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("before: %v", err)
	}
	want, read := h.run(t, img, blobs...)
	if want.Scan.State != Complete || want.Scan.Packages != 7 || want.Scan.Counts.Low != 1 || want.Findings[0].FirstSeen != "2026-02-03" || len(read) != 2 {
		t.Fatalf("%+v, read %v", want, read)
	}
	for name, ask := range map[string]func(context.Context, digest.Digest) (*Verdict, error){
		"Known": h.Known, "Cached": h.Cached, "another's Cached": h.another(t).Cached,
	} {
		if v, err := ask(t.Context(), img.Digest); err != nil || !cmp.Equal(want, v) {
			t.Errorf("%s: %v\n%s", name, err, cmp.Diff(want, v))
		}
	}
	if b, err := h.SBOM(t.Context(), img.Digest); err != nil || b.Packages != 7 || len(b.JSON) != 17 {
		t.Errorf("SBOM: %+v, %v", b, err)
	}
	if n := h.engine.catalogued.Load(); n != 1 {
		t.Errorf("catalogued %d times", n)
	}
}

// TestNeedsNothing: a second gateway with the same Store reads no byte, nor does a
// new tag of the same layers, though all uncompressed tars are gone.
func TestNeedsNothing(t *testing.T) {
	h := newHouse(t)
	blobs := []blob{layerOf(tarOf(t, "a")), layerOf(tarOf(t, "b"))}
	h.run(t, imageOf(t, ociConfig, blobs...), blobs...)
	again := imageOf(t, ociConfig, blobs...)
	again.Config = bytes.Replace(again.Config, []byte(`"Label":""`), []byte(`"Label":"x"`), 1)
	again.Digest = digest.FromString("another")
	other := h.another(t)
	v, read := other.run(t, again, blobs...)
	if v.Scan.State != Complete || len(read) > 0 || other.engine.begun.Load() > 0 {
		t.Errorf("%s, read %v, %d sessions", v.Scan.State, read, other.engine.begun.Load())
	}
}

// TestOneNewLayer: only what isn't at hand is read.
func TestOneNewLayer(t *testing.T) {
	h := newHouse(t)
	a, b, c := layerOf(tarOf(t, "a")), layerOf(tarOf(t, "b")), layerOf(tarOf(t, "c"))
	h.run(t, imageOf(t, ociConfig, a, b), a, b)
	if v, read := h.run(t, imageOf(t, ociConfig, a, c), a, c); v.Scan.State != Complete || !cmp.Equal(read, []int{1}) {
		t.Errorf("%s, read %v", v.Scan.State, read)
	}
	// Elsewhere the records are known and the tars are not: both are read.
	if v, read := h.another(t).run(t, imageOf(t, ociConfig, b, c), b, c); v.Scan.State != Complete || !cmp.Equal(read, []int{0, 1}) {
		t.Errorf("elsewhere: %s, read %v", v.Scan.State, read)
	}
}

func TestNewDatabase(t *testing.T) {
	h := newHouse(t)
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	h.run(t, img, b)
	h.db.Checksum = "xxh64:2"
	if _, err := h.Cached(t.Context(), img.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Cached: %v", err)
	}
	if !h.Catalogued(t.Context(), img.Digest) {
		t.Error("not catalogued")
	}
	// Many ask at once: one match, and no layer.
	gate := make(chan struct{})
	h.engine.match = func(context.Context, []byte, Database) (*Matches, error) {
		<-gate
		return &Matches{DistroKnown: true}, nil
	}
	before := h.engine.runs.Load()
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if v, err := h.Known(t.Context(), img.Digest); err != nil || v.Scan.Database.Checksum != "xxh64:2" {
				t.Errorf("Known: %+v, %v", v, err)
			}
		})
	}
	close(gate)
	wg.Wait()
	if n := h.engine.runs.Load() - before; n != 1 || h.engine.catalogued.Load() != 1 {
		t.Errorf("%d matches, %d catalogues", n, h.engine.catalogued.Load())
	}
}

// TestKnownIsGivenUp: a match ends when nobody waits for it, and not before.
func TestKnownIsGivenUp(t *testing.T) {
	h := newHouse(t)
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	h.run(t, img, b)
	h.db.Checksum = "xxh64:2"
	begun := make(chan struct{})
	h.engine.match = func(ctx context.Context, _ []byte, _ Database) (*Matches, error) {
		close(begun)
		<-ctx.Done()
		return &Matches{}, nil // takes the end for an empty answer
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if v, err := h.Known(ctx, img.Digest); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, %v", v, err)
	}
	h.Close() // hangs if the match goes on
	if _, err := h.Cached(t.Context(), img.Digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stored: %v", err)
	}
}

// erofs is a layer that begins as an EROFS image does: a kilobyte of zeros, then its
// magic number.
func erofs(mediaType string) blob {
	b := make([]byte, 8192)
	copy(b[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0})
	return blob{mediaType, b, digest.FromBytes(b)}
}

func TestContent(t *testing.T) {
	aTar := tarOf(t, "a")
	a := layerOf(aTar)
	text := []byte(strings.Repeat("no tar at all ", 100))
	sig := blob{"application/vnd.dev.cosign.simplesigning.v1+json", text, digest.FromBytes(text)}
	tests := []struct {
		name   string
		config string // media type
		blobs  []blob
		change func(h *house)
		want   State
		cause  Cause
		detail string
	}{
		{name: "no layers", config: ociConfig, want: Complete},
		{name: "a signature with an image config", config: ociConfig, blobs: []blob{sig}, want: Unsupported},
		{name: "a signature whose config says nothing of layers", config: ociConfig, blobs: []blob{{sig.mediaType, text, ""}}, want: Unsupported},
		{name: "a Docker config without a type", config: "", blobs: []blob{sig}, want: Unsupported},
		{name: "a chart", config: "application/vnd.cncf.helm.config.v1+json", blobs: []blob{sig}, want: Unsupported},
		{name: "a signature beside a layer", config: ociConfig, blobs: []blob{a, sig}, want: Failed, cause: CauseScanFailed, detail: "is no tar"},
		{name: "a layer's type over no tar", config: ociConfig, blobs: []blob{{gzipLayer, text, digest.FromBytes(text)}}, want: Failed, cause: CauseScanFailed, detail: "is no tar"},
		{name: "EROFS", config: ociConfig, blobs: []blob{a, erofs("application/vnd.erofs.layer.v1")}, want: Failed, cause: CauseScanFailed, detail: "can't be scanned"},
		{name: "EROFS under an OCI type", config: ociConfig, blobs: []blob{a, erofs("application/vnd.oci.image.layer.v1.erofs")}, want: Failed, cause: CauseScanFailed, detail: "can't be scanned"},
		{name: "encrypted", config: ociConfig, blobs: []blob{{gzipLayer + "+encrypted", text, digest.FromBytes(text)}}, want: Failed, cause: CauseScanFailed},
		{name: "a tar under a strange type", config: ociConfig, blobs: []blob{{"text/plain", a.bytes, a.diffID}}, want: Complete},
		{name: "a layer under a chart's config", config: "application/vnd.cncf.helm.config.v1+json", blobs: []blob{a}, want: Complete},
		{name: "another diff ID", config: ociConfig, blobs: []blob{a, {gzipLayer, zipped(tarOf(t, "b")), a.diffID}}, want: Failed, cause: CauseScanFailed, detail: "layer 1"},
		{name: "too few diff IDs", config: ociConfig, blobs: []blob{a, {gzipLayer, a.bytes, ""}}, want: Failed, cause: CauseScanFailed, detail: "1 diff IDs"},
		{name: "cut gzip", config: ociConfig, blobs: []blob{{gzipLayer, a.bytes[:len(a.bytes)-10], a.diffID}}, want: Failed, cause: CauseScanFailed, detail: "can't be read"},
		{name: "a bound of a layer", config: ociConfig, blobs: []blob{layerOf(tarOf(t, "a", "b", "c"))}, want: Limit, cause: CauseScanLimit, detail: "scan.limits.layer_entries",
			change: func(h *house) { h.Limits = layer.DefaultLimits(); h.Limits.Entries = 2 }},
		{name: "a bound of the image", config: ociConfig, blobs: []blob{a, layerOf(tarOf(t, "b"))}, want: Limit, cause: CauseScanLimit,
			change: func(h *house) { h.ImageEntries = 1 }},
		{name: "not an image by its content", config: ociConfig, blobs: []blob{a}, want: Failed, cause: CauseScanFailed, detail: "nonsense",
			change: func(h *house) { h.engine.catalogueErr = fmt.Errorf("worker: %w", &ContentError{"nonsense"}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			if tt.change != nil {
				tt.change(h)
			}
			img := imageOf(t, tt.config, tt.blobs...)
			v, _ := h.run(t, img, tt.blobs...)
			if v.Scan.State != tt.want || v.Scan.Cause != tt.cause || !strings.Contains(v.Scan.Detail, tt.detail) {
				t.Errorf("%s, %s, %q; want %s, %s, %q", v.Scan.State, v.Scan.Cause, v.Scan.Detail, tt.want, tt.cause, tt.detail)
			}
			if v.Findings == nil || v.Scan.Coverage.Problems == nil {
				t.Error("null in JSON")
			}
			h.dbErr = ErrDatabaseMissing
			if tt.want == Complete && len(tt.blobs) > 0 {
				return
			}
			// It is known again without bytes, worker or database.
			if again, err := h.Known(t.Context(), img.Digest); err != nil || again.Scan.State != tt.want {
				t.Errorf("again: %+v, %v", again, err)
			}
		})
	}
}

// TestTransient: what is not the image's doing fails the verdict and is forgotten.
func TestTransient(t *testing.T) {
	boom := errors.New("the worker process ended: signal: killed")
	tests := []struct {
		name  string
		fault func(h *house)
		mend  func(h *house)
		cause Cause
	}{
		{"begin", func(h *house) { h.engine.beginErr = boom }, func(h *house) { h.engine.beginErr = nil }, CauseScanFailed},
		{"layer", func(h *house) { h.engine.layerErr = boom }, func(h *house) { h.engine.layerErr = nil }, CauseScanFailed},
		{"catalogue", func(h *house) { h.engine.catalogueErr = boom }, func(h *house) { h.engine.catalogueErr = nil }, CauseScanFailed},
		{"match", func(h *house) { h.engine.matchErr = boom }, func(h *house) { h.engine.matchErr = nil }, CauseScanFailed},
		{"match takes too long", func(h *house) {
			h.Timeout = time.Millisecond
			h.engine.match = func(ctx context.Context, _ []byte, _ Database) (*Matches, error) {
				<-ctx.Done()
				return &Matches{}, nil
			}
		}, func(h *house) { h.Timeout, h.engine.match = time.Second, nil }, CauseScanFailed},
		{"no database", func(h *house) { h.dbErr = fmt.Errorf("%w: it is loading", ErrDatabaseMissing) }, func(h *house) { h.dbErr = nil }, CauseDBMissing},
		{"stale database", func(h *house) { h.dbErr = ErrDatabaseStale }, func(h *house) { h.dbErr = nil }, CauseDBStale},
		{"first seen", func(h *house) { h.store.putNew = boom }, func(h *house) { h.store.putNew = nil }, CauseStoreDown},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			b := layerOf(tarOf(t, "a"))
			img := imageOf(t, ociConfig, b)
			tt.fault(h)
			v, _ := h.run(t, img, b)
			if v.Scan.State != Failed || v.Scan.Cause != tt.cause || v.Scan.Detail == "" {
				t.Errorf("%+v, want %s", v.Scan, tt.cause)
			}
			tt.mend(h)
			if v, err := h.Cached(t.Context(), img.Digest); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is remembered: %+v, %v", v, err)
			}
			if v, read := h.run(t, img, b); v.Scan.State != Complete || len(read) > 0 {
				t.Errorf("the next scan: %s (%s), read %v", v.Scan.State, v.Scan.Detail, read)
			}
		})
	}
}

// TestStoreDown: a Store that forgets everything costs time and no verdict.
func TestStoreDown(t *testing.T) {
	h := newHouse(t)
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	h.store.put = errors.New("down")
	if v, _ := h.run(t, img, b); v.Scan.State != Complete {
		t.Errorf("%+v", v.Scan)
	}
	h.store.get = errors.New("down")
	if _, err := h.Known(t.Context(), img.Digest); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Known: %v: a Store that is down is no miss", err)
	}
}

// TestTrailingData: equal diff IDs, and what trails behind one of them. They share the
// SBOM and not the verdict.
func TestTrailingData(t *testing.T) {
	h := newHouse(t)
	plain := layerOf(tarOf(t, "a"))
	trailing := plain
	trailing.bytes = append(slices.Clone(plain.bytes), "and a second tar for whoever reads on"...)
	first, _ := h.run(t, imageOf(t, ociConfig, plain), plain)
	second, _ := h.run(t, imageOf(t, ociConfig, trailing), trailing)
	if first.Scan.State != Complete || second.Scan.State == Complete {
		t.Errorf("%s, then %s: %+v", first.Scan.State, second.Scan.State, second.Scan.Coverage.Problems)
	}
	if second.Scan.State == Partial {
		p := second.Scan.Coverage.Problems[0]
		if p.Kind != layer.TrailingData || p.Layer != digest.FromBytes(trailing.bytes) || h.engine.catalogued.Load() != 1 {
			t.Errorf("%+v, %d catalogues", p, h.engine.catalogued.Load())
		}
	}
}

func TestProblemsArePartial(t *testing.T) {
	b := layerOf(tarOf(t, "a"))
	for name, change := range map[string]func(h *house){
		"catalogue":            func(h *house) { h.engine.problems = []Problem{{Kind: "cataloguer_failed", Path: "/x", Detail: "bad"}} },
		"match":                func(h *house) { h.engine.match = matches(Matches{DistroKnown: true, Problems: []Problem{{Kind: "x"}}}) },
		"unknown distribution": func(h *house) { h.engine.match = matches(Matches{}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			change(h)
			img := imageOf(t, ociConfig, b)
			v, _ := h.run(t, img, b)
			if v.Scan.State != Partial || v.Scan.Cause != CauseScanFailed || len(v.Scan.Coverage.Problems) != 1 {
				t.Errorf("%+v", v.Scan)
			}
			if again, err := h.Cached(t.Context(), img.Digest); err != nil || !cmp.Equal(v, again) {
				t.Errorf("not remembered: %v", err)
			}
		})
	}
}

func matches(m Matches) func(context.Context, []byte, Database) (*Matches, error) {
	return func(context.Context, []byte, Database) (*Matches, error) { return &m, nil }
}

// TestRecipes: whatever goes into a result is part of its key.
func TestRecipes(t *testing.T) {
	tests := []struct {
		name       string
		change     func(h *house)
		catalogued int32 // in all
		layersRead int   // the second time
	}{
		{"nothing", func(h *house) {}, 1, 0},
		{"grype", func(h *house) { h.engine.recipe.Grype = "g2" }, 1, 0},
		{"match settings", func(h *house) { h.engine.recipe.Match = "m2" }, 1, 0},
		{"syft", func(h *house) { h.engine.recipe.Syft = "s2" }, 2, 0},
		{"catalogue settings", func(h *house) { h.engine.recipe.Catalogue = "c2" }, 2, 0},
		{"the guard's bounds", func(h *house) { h.Limits = layer.DefaultLimits(); h.Limits.Entries = 10 }, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t)
			b := layerOf(tarOf(t, "a"))
			img := imageOf(t, ociConfig, b)
			h.run(t, img, b)
			tt.change(h)
			if _, err := h.Cached(t.Context(), img.Digest); tt.name != "nothing" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Cached: %v", err)
			}
			_, read := h.run(t, img, b)
			if len(read) != tt.layersRead || h.engine.catalogued.Load() != tt.catalogued {
				t.Errorf("%d layers read, %d catalogues; want %d, %d", len(read), h.engine.catalogued.Load(), tt.layersRead, tt.catalogued)
			}
		})
	}
}

func TestOrder(t *testing.T) {
	in := []Finding{
		{ID: "d", Severity: "unknown"}, {ID: "c", Severity: "high", EPSS: .1}, {ID: "b", Severity: "high", EPSS: .2},
		{ID: "e", Severity: "high", EPSS: .1, CVSS: 9}, {ID: "a", Severity: "low", KEV: "2021-01-01"}, {ID: "z", Severity: "critical"},
	}
	slices.SortFunc(in, worse)
	var ids string
	for _, f := range in {
		ids += f.ID
	}
	if ids != "azbecd" {
		t.Errorf("%s", ids)
	}
	who := "vendor"
	in = append(in, Finding{Severity: "critical", SuppressedBy: &who})
	if got, want := count(in), (Counts{Critical: 1, High: 3, Low: 1, Unknown: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestFirstSeen: the date stays what it was when a new database matches again.
func TestFirstSeen(t *testing.T) {
	h := newHouse(t)
	b := layerOf(tarOf(t, "a"))
	img := imageOf(t, ociConfig, b)
	h.run(t, img, b)
	h.db.Checksum = "xxh64:2"
	h.Now = func() time.Time { return time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC) }
	v, err := h.Known(t.Context(), img.Digest)
	if err != nil || v.Findings[0].FirstSeen != "2026-02-03" {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestFinishEarly: an image of which a layer is missing has no verdict.
func TestFinishEarly(t *testing.T) {
	h := newHouse(t)
	sc, err := h.Begin(t.Context(), imageOf(t, ociConfig, layerOf(tarOf(t, "a"))))
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	if v, err := sc.Finish(t.Context()); err == nil {
		t.Errorf("%+v", v)
	}
	bad := bytes.NewReader([]byte("other bytes than the descriptor's"))
	if err := sc.Layer(t.Context(), 0, bad); err == nil {
		t.Error("Layer took other bytes")
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte(`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json"}}`))
	f.Add([]byte(`{"config":{"mediaType":"x"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		class, err := Classify(b)
		if err != nil && class == Artifact {
			t.Error("what can't be read passes as an artifact")
		}
		if class == Artifact && bytes.Contains(b, []byte(`"mediaType":"application/vnd.oci.image.config.v1+json"`)) && json.Valid(b) && bytes.Count(b, []byte(`"config"`)) == 1 && bytes.Count(b, []byte("ediaType")) == 1 {
			var m ocispec.Manifest
			if json.Unmarshal(b, &m) == nil && m.Config.MediaType == ociConfig {
				t.Errorf("%s is an artifact", b)
			}
		}
	})
}

func FuzzDecodeSBOM(f *testing.F) {
	b, err := encodeSBOM(&SBOM{JSON: []byte("{}"), Packages: 3, Problems: []Problem{{Kind: "k"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeSBOM(b)
		if err == nil && got == nil {
			t.Error("neither an SBOM nor an error")
		}
	})
}
