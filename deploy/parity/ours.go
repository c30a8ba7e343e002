package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/vuln"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
	"github.com/sluicegate/sluice/scan/worker"
)

// A pipeline is what the gateway does with an image. Two scanners share all but the
// database.
type pipeline struct {
	pool         *worker.Pool
	layers       *spool.Spool
	main, sample side
}

// A side is a scanner with its database.
type side struct {
	scanner *scan.Scanner
	db      scan.Database
}

// layersQuota bounds the uncompressed layers on disk.
const layersQuota = 8 << 30

// newPipeline starts the worker processes, of the program given. A database is a
// folder; the sample is the only one where there is none.
func newPipeline(ctx context.Context, dir, program, database string, jobs int) (p *pipeline, err error) {
	layers, builds, samples := filepath.Join(dir, "layers"), filepath.Join(dir, "builds"), filepath.Join(dir, "sample-builds")
	p = &pipeline{pool: &worker.Pool{
		Command: []string{program, "worker"}, Size: jobs, TempDir: filepath.Join(dir, "work"),
		Read: []string{layers, builds, samples}, Log: slog.Default(),
	}}
	if err := errors.Join(os.MkdirAll(p.pool.TempDir, 0o700), os.MkdirAll(builds, 0o700)); err != nil {
		return nil, err
	}
	if p.layers, err = spool.Open(layers, layersQuota); err != nil {
		return nil, err
	}
	sample := filepath.Join(dir, "sample")
	if _, err := sampledb.Build(sample, time.Now()); err != nil {
		return nil, fmt.Errorf("build the sample database: %w", err)
	}
	store := &cache.Memory{}
	if p.sample, err = p.side(ctx, store, samples, sample); err != nil {
		return nil, err
	}
	p.main = p.sample
	if database != "" {
		if p.main, err = p.side(ctx, store, builds, database); err != nil {
			return nil, err
		}
	}
	if err := p.pool.Start(ctx); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *pipeline) side(ctx context.Context, store cache.Store, root, database string) (side, error) {
	builds := &vuln.Databases{Root: root, MaxAge: 1e5 * time.Hour}
	db, err := builds.Import(ctx, database)
	return side{db: db, scanner: &scan.Scanner{
		Store: store, Layers: p.layers, Engine: p.pool, Log: slog.Default(), Timeout: 20 * time.Minute,
		Database: func(context.Context) (scan.Database, error) { return db, nil },
	}}, err
}

func (p *pipeline) close() error {
	return errors.Join(p.main.scanner.Close(), p.sample.scanner.Close(), p.pool.Close(), p.layers.Close())
}

// of returns the side for a subject.
func (p *pipeline) of(s *subject) side {
	if s.sample {
		return p.sample
	}
	return p.main
}

// scan takes an image through the pipeline, and returns the SBOM that is stored: empty
// where a verdict needs none.
func (p side) scan(ctx context.Context, s *subject) (*scan.Verdict, []byte, error) {
	img, err := s.image()
	if err != nil {
		return nil, nil, err
	}
	in, err := describe(img, "parity.test/"+s.name+":1")
	if err != nil {
		return nil, nil, err
	}
	sc, err := p.scanner.Begin(ctx, in)
	if err != nil {
		return nil, nil, err
	}
	defer sc.Close()
	layers, err := img.Layers()
	if err != nil {
		return nil, nil, err
	}
	for i, l := range layers {
		if err := give(ctx, sc, i, l); err != nil {
			return nil, nil, err
		}
	}
	v, err := sc.Finish(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(layers) == 0 { // complete without a catalogue
		return v, nil, nil
	}
	b, err := p.scanner.SBOM(ctx, in.Digest)
	if err != nil {
		return nil, nil, fmt.Errorf("%s, %s: %w", v.Scan.State, v.Scan.Detail, err)
	}
	return v, b.JSON, nil
}

func give(ctx context.Context, sc *scan.Scan, i int, l v1.Layer) error {
	if !sc.Needs(i) {
		return nil
	}
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	return sc.Layer(ctx, i, r)
}

// describe gathers the exact bytes of an image.
func describe(img v1.Image, reference string) (in scan.Image, err error) {
	if in.Manifest, err = img.RawManifest(); err != nil {
		return in, err
	}
	if in.Config, err = img.RawConfigFile(); err != nil {
		return in, err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return in, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(in.Manifest, &m); err != nil {
		return in, err
	}
	in.Reference, in.Digest, in.MediaType, in.Layers = reference, digest.FromBytes(in.Manifest), string(mediaType), m.Layers
	return in, nil
}

// image opens the subject's image in its layout.
func (s *subject) image() (v1.Image, error) {
	index, err := ggcr.ImageIndexFromPath(s.layout)
	if err != nil {
		return nil, err
	}
	return only(index, s.arch)
}

// only returns the image of an index, or that for an architecture.
func only(index v1.ImageIndex, arch string) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		switch {
		case d.MediaType.IsIndex():
			child, err := index.ImageIndex(d.Digest)
			if err != nil {
				return nil, err
			}
			return only(child, arch)
		case arch == "" || d.Platform != nil && d.Platform.Architecture == arch:
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("no image for %q", arch)
}
