package sbom

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	gosync "github.com/anchore/go-sync"
	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/format/syftjson"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/stereoscopesource"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// A Cataloguer catalogues images. Its zero value is ready; it may be used
// concurrently. It never asks the network.
type Cataloguer struct {
	Parallelism int // cataloguers, and layers being indexed, at once for one image; 0 is GOMAXPROCS
	Concurrent  int // images being catalogued at once, others wait; 0 is 2

	once     sync.Once
	licences context.Context // holds the licence scanner: two CPU seconds to build
	slots    chan struct{}
	err      error

	memo  memo
	shelf shelf
	work  sync.WaitGroup // sessions that still hold files
}

// Warm builds what every catalogue needs, once. Begin does it where it wasn't done.
func (c *Cataloguer) Warm() error {
	c.once.Do(func() {
		c.slots = make(chan struct{}, max(c.Concurrent, 0))
		if c.Concurrent <= 0 {
			c.slots = make(chan struct{}, 2)
		}
		c.licences, c.err = syft.SetContextLicenseScanner(context.Background(), config().Licenses)
	})
	return c.err
}

// Begin starts to read an image whose layers will land one by one: see scan.Session.
// The session keeps what it needs under tempDir, which must exist, and removes it when
// its work has ended. That may be later than Close: Wait waits for it.
func (c *Cataloguer) Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest, tempDir string) (scan.Session, error) {
	if err := c.Warm(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(tempDir, "layers-")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &session{cancel: cancel, done: make(chan struct{})}
	s.picture, err = newPicture(ctx, img, diffIDs, dir)
	if err != nil {
		cancel(err)
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		s.sbom, s.err = c.catalogue(ctx, s.picture, dir)
		s.err = errors.Join(s.err, os.RemoveAll(dir))
		close(s.done)
	}()
	return s, nil
}

// Wait returns when the work of all sessions has ended. None may begin meanwhile.
func (c *Cataloguer) Wait() { c.work.Wait() }

// errClosed is why the work of a closed session ends.
var errClosed = errors.New("the catalogue was closed")

// A session is one image on its way.
type session struct {
	picture *picture
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when sbom and err are set
	sbom    *scan.SBOM
	err     error
}

var _ scan.Session = (*session)(nil)

func (s *session) Layer(i int, path string) error {
	if i < 0 || i >= len(s.picture.layers) {
		return fmt.Errorf("layer %d of %d", i, len(s.picture.layers))
	}
	return s.picture.layers[i].land(path)
}

func (s *session) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	select {
	case <-s.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return s.sbom, s.err
}

// Close ends the session. A layer being indexed and a catalogue under way are not
// waited for: Cataloguer.Wait is.
func (s *session) Close() error {
	s.cancel(errClosed)
	return nil
}

// catalogue is the whole work on one image. It returns early when ctx ends while
// layers are missing or being read; once they are all there it goes on to its end.
func (c *Cataloguer) catalogue(ctx context.Context, p *picture, dir string) (_ *scan.SBOM, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in the catalogue: %v\n%s", r, debug.Stack())
		}
	}()
	var steps scan.Timeline
	ctx = steps.Context(ctx)
	end := scan.Timed(ctx, scan.StepIndex)
	img, release, err := c.read(ctx, p, dir)
	defer release()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("index the layers: %w", err)
	}
	if err := quicken(img); err != nil {
		return nil, fmt.Errorf("index the layers: %w", err)
	}
	end()
	end = scan.Timed(ctx, scan.StepTurn)
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
	}
	end()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}

	seen := &errorList{}
	src := watched{stereoscopesource.New(img, stereoscopesource.ImageConfig{Reference: p.img.Reference}), seen, new(searches)}
	found, err := c.create(ctx, src, p.config.OS)
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	end = scan.Timed(ctx, scan.StepEncode)
	if p.files, err = src.FileResolver(config().Search.Scope); err != nil {
		return nil, err
	}
	out, err := encode(found, p, seen)
	if err != nil {
		return nil, err
	}
	out.Problems = append(out.Problems, ambiguities(img.Layers, p)...)
	end()
	out.Steps = steps.Steps()
	return out, nil
}

// create has syft catalogue src under config, by shorter ways to the same.
func (c *Cataloguer) create(ctx context.Context, src source.Source, system string) (*syftsbom.SBOM, error) {
	end := scan.Timed(ctx, scan.StepPackages)
	cfg := config()
	cfg.Relationships.PackageFileOwnership = false
	if system != "windows" { // there, what a layer's hard link holds is up to the layers below
		cfg = remember(cfg, &c.memo)
	}
	found, err := syft.CreateSBOM(c.catalogueContext(ctx), src, cfg)
	end()
	if err != nil {
		return nil, err
	}
	defer scan.Timed(ctx, scan.StepRelationships)()
	files, err := src.FileResolver(cfg.Search.Scope)
	if err != nil {
		return nil, err
	}
	ownFiles(found, files)
	return found, describe(found, config())
}

// readContext bounds the reading of one image. Fetching is unbounded, since all that
// it does is to wait for layers: any bound could be filled by layers that come last.
func (c *Cataloguer) readContext(ctx context.Context) context.Context {
	ctx = image.WithLazyLayerSquashes(ctx)
	ctx = gosync.SetContextExecutor(ctx, image.LayerFetchExecutor, gosync.NewExecutor(-1))
	return gosync.SetContextExecutor(ctx, image.LayerIndexExecutor, gosync.NewExecutor(c.parallelism()))
}

// catalogueContext never ends, carries the licence scanner, and bounds one
// catalogue. Its executors can't be shared among images: one of go-sync's waits for
// all that it runs, whoever asked for it.
func (c *Cataloguer) catalogueContext(ctx context.Context) context.Context {
	ctx = withValues{context.WithoutCancel(ctx), c.licences}
	ctx = gosync.SetContextExecutor(ctx, cataloging.ExecutorFile, gosync.NewExecutor(c.parallelism()))
	return gosync.SetContextExecutor(ctx, cataloging.ExecutorCPU, gosync.NewExecutor(c.parallelism()))
}

func (c *Cataloguer) parallelism() int {
	if c.Parallelism > 0 {
		return c.Parallelism
	}
	return runtime.GOMAXPROCS(0)
}

// withValues is a context that has the values of a second one as well.
type withValues struct {
	context.Context
	also context.Context
}

func (w withValues) Value(key any) any {
	if v := w.Context.Value(key); v != nil {
		return v
	}
	return w.also.Value(key)
}

// encode turns what syft found into what is kept.
func encode(found *syftsbom.SBOM, p *picture, seen *errorList) (*scan.SBOM, error) {
	enc, err := syftjson.NewFormatEncoderWithConfig(syftjson.EncoderConfig{})
	if err != nil {
		return nil, fmt.Errorf("encode the SBOM: %w", err)
	}
	var buf bytes.Buffer
	if err := enc.Encode(&buf, *found); err != nil {
		return nil, fmt.Errorf("encode the SBOM: %w", err)
	}
	layers := map[string]digest.Digest{}
	for i, l := range p.layers {
		layers[l.diffID.String()] = p.img.Layers[i].Digest
	}
	said := merged(unexcused(believed(found), p.files), passedOver(found, p.files))
	if err := faulty(said, seen.all()); err != nil {
		return nil, err
	}
	out := &scan.SBOM{
		JSON:     buf.Bytes(),
		Packages: found.Artifacts.Packages.PackageCount(),
		Problems: problems(said, seen.all(), layers),
	}
	if d := found.Artifacts.LinuxDistribution; d != nil {
		out.Distro, out.DistroVer = clean(d.ID, 100), clean(d.VersionID, 100)
	}
	return out, nil
}
