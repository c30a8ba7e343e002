package scan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Finish returns the verdict, after all Layer calls have returned. It returns an error
// only when ctx ends, it was called too early, or the match has to wait for a database
// (ErrDatabaseElsewhere; what was catalogued is stored); whatever else goes wrong is a verdict
// that says so, and is not remembered unless the image's bytes are the reason.
func (sc *Scan) Finish(ctx context.Context) (*Verdict, error) {
	if v := sc.judge(); v != nil {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		ttl := outcomeTTL
		if v.Scan.State == Limit {
			ttl = limitTTL
		}
		sc.s.publish(ctx, sc.img.Digest, &imageRecord{Outcome: v, Fence: sc.img.Fence}, ttl)
		return v, nil
	}
	if !sc.allKnown() {
		return nil, fmt.Errorf("image %s: not all of its layers were given", sc.img.Digest)
	}
	if !sc.known() { // the same layers may be known in another compression
		sc.lookUp(ctx)
	}
	if sc.verdict != nil {
		sc.s.publish(ctx, sc.img.Digest, sc.record(), contentTTL)
		return sc.verdict, context.Cause(ctx)
	}
	stored := sc.sbom != nil
	if !stored {
		v, err := sc.catalogue(ctx)
		if v != nil || err != nil {
			return v, err
		}
	}
	rec := sc.record()
	if !stored {
		rec.Kept = sc.s.now().UTC()
	}
	var writing sync.WaitGroup // beside the match, which takes nothing of it
	writing.Go(func() {
		defer Timed(ctx, StepStore)()
		if !stored {
			sc.s.putSBOM(ctx, sc.sbomKey, sc.sbom)
		}
		sc.s.publish(ctx, sc.img.Digest, rec, contentTTL)
	})
	defer writing.Wait()
	return sc.s.match(ctx, rec, sc.sbom)
}

// catalogue sets the SBOM, or returns the verdict that there is none.
func (sc *Scan) catalogue(ctx context.Context) (*Verdict, error) {
	limited, cancel := context.WithTimeoutCause(ctx, sc.s.timeout(), errTimeout)
	defer cancel()
	began, err := time.Now(), sc.sessionErr
	var b *SBOM
	if err == nil {
		b, err = sc.session.Catalogue(limited)
	}
	// Never by err alone: the context is looked at whatever came back.
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if err == nil {
		err = context.Cause(limited)
	}
	if err == nil && b == nil {
		err = errors.New("no SBOM came out of it")
	}
	var content *ContentError
	switch {
	case errors.As(err, &content):
		v := sc.s.refused(Problem{Kind: KindImageUnreadable, Detail: content.Detail})
		sc.s.publish(ctx, sc.img.Digest, &imageRecord{Outcome: v, Fence: sc.img.Fence}, outcomeTTL)
		return v, nil
	case err != nil:
		return sc.s.failed(CauseScanFailed, inTime(err, KindCatalogueFailed, KindCatalogueTimeout), fmt.Errorf("catalogue its packages: %w", err)), nil
	}
	consume(ctx, StepCatalogue, began, b.Steps)
	sc.sbom = b
	return nil, nil
}

// judge returns the verdict that the layers' bytes settle without a catalogue, or nil.
func (sc *Scan) judge() *Verdict {
	if sc.outcome != nil {
		return sc.outcome
	}
	switch {
	case sc.nothingRuns():
		sc.outcome = sc.s.nothing(Unsupported, "no layer of it is a file system")
	case sc.doubtful() && !sc.allKnown():
	case sc.miscounted():
		sc.refuse(KindLayerCount, -1, "its config has %d diff IDs, its manifest %d layers", len(sc.config.RootFS.DiffIDs), len(sc.parts))
	case len(sc.parts) == 0:
		sc.outcome = sc.s.nothing(Complete, "it has no layers")
	case sc.allKnown():
		sc.judgeLayers()
	}
	return sc.outcome
}

// judgeLayers refuses what a runtime would refuse or we could not read.
func (sc *Scan) judgeLayers() {
	var bytes, entries int64
	for i, p := range sc.parts {
		bytes += p.result.Uncompressed
		entries += int64(p.result.Entries + p.result.Implied)
		name := short(sc.img.Layers[i].Digest)
		switch {
		case unreadable(sc.img.Layers[i].MediaType):
			sc.refuseType(i)
		case !p.result.Tar:
			sc.refuse(KindLayerUnreadable, i, "layer %d (%s, %s) is no tar, so what is in it is unknown", i, name, sc.img.Layers[i].MediaType)
		case !sc.claimed(i):
			sc.refuse(KindLayerDiffers, i, "layer %d (%s) has the diff ID %s, the image's config says %s", i, name,
				short(p.result.DiffID), short(sc.config.RootFS.DiffIDs[i]))
		}
	}
	if limit := sc.s.imageBytes(); bytes > limit {
		sc.refuse(KindImageLimit, -1, "its layers have %d bytes uncompressed, more than %d (%s)", bytes, limit, imageBytesSetting)
	}
	if limit := sc.s.imageEntries(); entries > limit {
		sc.refuse(KindImageLimit, -1, "its layers have %d entries, more than %d", entries, limit)
	}
}

// refuseType refuses layer i for its media type.
func (sc *Scan) refuseType(i int) {
	name, mediaType := short(sc.img.Layers[i].Digest), sc.img.Layers[i].MediaType
	if encrypted(mediaType) {
		sc.refuse(KindLayerEncrypted, i, "layer %d (%s) is encrypted (%s), so it can't be scanned; push the image without encryption", i, name, mediaType)
		return
	}
	sc.refuse(KindLayerType, i, "layer %d (%s) is of the type %s, which can't be scanned; build the image with tar layers", i, name, mediaType)
}

// nothingRuns reports whether an image by its config holds no file system by its
// layers: all of them were read, none is a tar, and none was meant as a root file
// system. Anything else that is no tar can't be read, which is another thing.
func (sc *Scan) nothingRuns() bool {
	return sc.doubtful() && !slices.ContainsFunc(sc.parts, func(p part) bool { return p.result == nil || p.result.Tar })
}

// guardProblems returns what the guard saw in all layers, bottom first.
func (sc *Scan) guardProblems() []Problem {
	var out []Problem
	for i, p := range sc.parts {
		for _, g := range p.result.Problems {
			out = append(out, Problem{Kind: g.Kind, Layer: sc.img.Layers[i].Digest, Path: g.Path, Detail: g.Detail})
		}
	}
	return out
}
