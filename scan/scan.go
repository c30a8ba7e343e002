package scan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/scan/layer"
)

// A Scan is one image on its way to its verdict: Begin, Layer for each layer that it
// Needs, Finish, Close.
type Scan struct {
	s       *Scanner
	img     Image
	config  imageConfigFile
	image   bool // has an image's config type
	outcome *Verdict
	budget  *layer.Budget

	session    Session // nil when no layer has to be read, or with sessionErr
	sessionErr error
	sbom       *SBOM    // known from the Store
	verdict    *Verdict // known from the Store, in place of the SBOM
	sbomKey    cache.Key

	mu     sync.Mutex // guards parts and outcome until Finish
	parts  []part
	closed bool
}

// A part is one layer on its way.
type part struct {
	result *layer.Result // what the guard found, now or earlier; nil until then
	blob   *spool.Blob   // its uncompressed tar, pinned; nil when it isn't there
	told   bool          // the session knows of it
}

// Begin starts to scan an image whose manifest and config are at hand and verified.
// ctx bounds the scan to its end. An image that can't be scanned is no error: its
// verdict comes from Finish. The caller must call Close.
func (s *Scanner) Begin(ctx context.Context, img Image) (*Scan, error) {
	defer Timed(ctx, StepLookup)()
	sc := &Scan{s: s, img: img, parts: make([]part, len(img.Layers))}
	if err := sc.readManifest(); err != nil {
		return nil, err
	}
	if sc.outcome != nil || len(img.Layers) == 0 {
		return sc, nil
	}
	if err := sc.remember(ctx); err != nil {
		return nil, err
	}
	if sc.known() || sc.miscounted() || sc.allKnown() && sc.judge() != nil {
		return sc, nil
	}
	// A worker that can't begin fails this scan's verdict; its layers are still worth
	// guarding and remembering.
	sc.session, sc.sessionErr = s.Engine.Begin(ctx, img, sc.config.RootFS.DiffIDs)
	if sc.sessionErr != nil {
		sc.session = nil
		return sc, nil
	}
	for i := range sc.parts {
		if sc.parts[i].blob != nil {
			sc.tell(i)
		}
	}
	return sc, nil
}

// readManifest checks what can be told before any layer is there.
func (sc *Scan) readManifest() error {
	var m ocispec.Manifest
	if err := json.Unmarshal(sc.img.Manifest, &m); err != nil {
		return fmt.Errorf("image %s: read manifest: %w", sc.img.Digest, err)
	}
	class, err := Classify(sc.img.Manifest)
	if err != nil {
		return fmt.Errorf("image %s: %w", sc.img.Digest, err)
	}
	if class == Artifact {
		sc.outcome = sc.s.nothing(Unsupported, "nothing in it that a runtime would run")
		return nil
	}
	sc.image = imageConfig(m.Config.MediaType)
	if err := json.Unmarshal(sc.img.Config, &sc.config); err != nil {
		sc.refuse(KindConfigUnreadable, -1, "its config can't be read: %v", err)
		return nil
	}
	return nil
}

// remember loads what is known of the layers, side by side, and opens their tars.
func (sc *Scan) remember(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, d := range sc.img.Layers {
		g.Go(func() error {
			r := new(layerRecord)
			switch err := sc.s.get(gctx, sc.s.layerKey(d), r); {
			case err == nil:
				sc.parts[i].result = (*layer.Result)(r)
			case !errors.Is(err, fs.ErrNotExist) && gctx.Err() == nil:
				sc.s.log().Warn("a layer's record can't be read, it is guarded again", "layer", d.Digest, "error", err)
			}
			return nil
		})
	}
	if err := errors.Join(g.Wait(), context.Cause(ctx)); err != nil {
		return err
	}
	sc.budget = sc.leftBudget()
	if sc.allKnown() {
		sc.lookUp(ctx)
	}
	if sc.known() {
		return context.Cause(ctx)
	}
	for i, p := range sc.parts {
		if p.result != nil && p.result.Tar {
			if b, err := sc.s.Layers.Open(p.result.DiffID); err == nil {
				sc.parts[i].blob = b
			}
		}
	}
	return context.Cause(ctx)
}

// lookUp sets the verdict if the Store has it for today's database, else the SBOM if it
// has that. All layers are known.
func (sc *Scan) lookUp(ctx context.Context) {
	sc.sbomKey = sc.s.sbomKey(sc.computed(), sc.config)
	packed, err := sc.s.Store.Get(ctx, sc.sbomKey)
	if err == nil {
		// Unpacking a large SBOM takes longer than all else that is to do here.
		if sc.verdict, err = sc.s.matched(ctx, sc.record()); err == nil {
			return
		}
		sc.sbom, err = sc.s.unpackSBOM(sc.sbomKey, packed)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		sc.s.log().Warn("an SBOM can't be read, the image is catalogued again", "image", sc.img.Digest, "error", err)
	}
}

// known reports whether the Store had what makes reading the layers needless.
func (sc *Scan) known() bool { return sc.sbom != nil || sc.verdict != nil }

// record is what leads from the image to its SBOM.
func (sc *Scan) record() *imageRecord {
	return &imageRecord{SBOM: sc.sbomKey.ID(), Guard: sc.guardProblems(), Fence: sc.img.Fence}
}

// leftBudget returns what the layers yet to be read may hold together.
func (sc *Scan) leftBudget() *layer.Budget {
	bytes, entries := sc.s.imageBytes(), sc.s.imageEntries()
	for _, p := range sc.parts {
		if p.result != nil {
			bytes -= p.result.Uncompressed
			entries -= int64(p.result.Entries + p.result.Implied)
		}
	}
	b := layer.NewBudget(max(bytes, 0), max(entries, 0))
	b.Large = &sc.s.large
	return b
}

// miscounted reports whether the config names another number of layers than the
// manifest has.
func (sc *Scan) miscounted() bool { return len(sc.config.RootFS.DiffIDs) != len(sc.parts) }

// doubtful reports whether it is only the config's type that makes an image of it, so
// that the bytes of its layers must tell.
func (sc *Scan) doubtful() bool {
	return sc.image && len(sc.parts) > 0 &&
		!slices.ContainsFunc(sc.img.Layers, func(l ocispec.Descriptor) bool { return rootFS(l.MediaType) })
}

func (sc *Scan) allKnown() bool {
	return !slices.ContainsFunc(sc.parts, func(p part) bool { return p.result == nil })
}

// computed returns the diff IDs that were computed from the layers' bytes.
func (sc *Scan) computed() []digest.Digest {
	out := make([]digest.Digest, len(sc.parts))
	for i, p := range sc.parts {
		out[i] = p.result.DiffID
	}
	return out
}

// Needs reports whether the bytes of layer i have to be read. They need not when the
// layer was guarded before under the same rules and its uncompressed tar is at hand,
// or when the image's SBOM, or its refusal, is known without.
func (sc *Scan) Needs(i int) bool {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.outcome != nil || sc.known() {
		return false
	}
	p := sc.parts[i]
	if p.result == nil {
		return !sc.miscounted() || sc.doubtful()
	}
	return sc.session != nil && p.blob == nil && p.result.Tar && sc.claimed(i)
}

// claimed reports whether layer i is what the config says.
func (sc *Scan) claimed(i int) bool {
	return !sc.miscounted() && sc.parts[i].result.DiffID == sc.config.RootFS.DiffIDs[i]
}

// Layer reads the compressed bytes of layer i from r through the guard into the layer
// store. It may be called concurrently for different layers, once for each.
//
// What the bytes turn out to be is no error: it becomes part of the verdict. An error
// means that they could not be had or stored, or are not those of the descriptor.
func (sc *Scan) Layer(ctx context.Context, i int, r io.Reader) error {
	if err := sc.layer(ctx, i, r); err != nil {
		return fmt.Errorf("layer %s: %w", sc.img.Layers[i].Digest, err)
	}
	return nil
}

func (sc *Scan) layer(ctx context.Context, i int, r io.Reader) error {
	desc, began := sc.img.Layers[i], time.Now()
	defer func() {
		timeline(ctx).Add(Step{Name: StepGuard, Layer: desc.Digest, Began: began, Took: time.Since(began)})
	}()
	w, err := sc.s.Layers.Create(nil)
	if err != nil {
		return err
	}
	defer w.Abort() // does nothing once committed
	res, err := layer.Copy(ctx, w, r, desc, sc.s.limits(), sc.budget)
	if err != nil {
		return sc.guardFailed(i, err)
	}
	var blob *spool.Blob
	if res.Tar {
		if blob, err = w.Commit(res.DiffID); err != nil {
			return err
		}
	}
	sc.s.put(ctx, sc.s.layerKey(desc), &res, contentTTL)

	sc.mu.Lock()
	defer sc.mu.Unlock()
	if blob == nil {
		sc.parts[i].result = &res
		return nil
	}
	if sc.closed || sc.parts[i].blob != nil { // too late, or not needed
		return blob.Close()
	}
	sc.parts[i].result, sc.parts[i].blob = &res, blob
	sc.tell(i)
	return nil
}

// guardFailed sorts out why the guard stopped: what the bytes are, or where they pass
// a bound, settles the verdict; anything else is an error.
func (sc *Scan) guardFailed(i int, err error) error {
	var limit *layer.LimitError
	var format *layer.FormatError
	sc.mu.Lock()
	defer sc.mu.Unlock()
	switch name := short(sc.img.Layers[i].Digest); {
	case errors.As(err, &limit) && sc.s.ofImage(limit) > 0: // what was left of it when the layer began says little
		sc.refuse(KindImageLimit, i, "layer %d (%s) takes the image past a bound%s: more than %d %s", i, name, raisedBy(limit), sc.s.ofImage(limit), limit.What)
	case errors.As(err, &limit):
		sc.refuse(KindLayerLimit, i, "layer %d (%s) is past a bound%s: %v", i, name, raisedBy(limit), err)
	case errors.As(err, &format) && unreadable(sc.img.Layers[i].MediaType):
		sc.refuseType(i)
	case errors.As(err, &format):
		sc.refuse(KindLayerUnreadable, i, "layer %d (%s) can't be read: %v", i, name, err)
	default:
		return err
	}
	return nil
}

// tell gives layer i to the session. A session that fails fails the verdict, not the
// layer. sc.mu is held, or nobody else has sc yet.
func (sc *Scan) tell(i int) {
	if sc.session == nil || sc.sessionErr != nil || sc.parts[i].told || !sc.claimed(i) {
		return
	}
	sc.parts[i].told = true
	sc.sessionErr = sc.session.Layer(i, sc.parts[i].blob.Path())
}

// maxRefusals is how many reasons against an image are told one by one.
const maxRefusals = 20

// refuse settles the verdict for a kind of reason, which is layer i's where i is not
// negative. Coverage names every reason; the last one makes the verdict's detail, but a
// bound that was passed stands above all else.
func (sc *Scan) refuse(kind string, i int, format string, args ...any) {
	p := Problem{Kind: kind, Detail: fmt.Sprintf(format, args...)}
	if i >= 0 {
		p.Layer = sc.img.Layers[i].Digest
	}
	v, before := sc.s.refused(p), sc.outcome
	if before != nil {
		told := append(before.Scan.Coverage.Problems, v.Scan.Coverage.Problems...)
		if before.Scan.State == Limit {
			v = before
		}
		v.Scan.Coverage.Problems = told[:min(len(told), maxRefusals)]
	}
	sc.outcome = v
}

// Waiting reports whether the scan waits until the Engine has room for it. It may be
// called at any time.
func (sc *Scan) Waiting() bool {
	s, ok := sc.session.(interface{ Waiting() bool })
	return ok && s.Waiting()
}

// Close ends the scan and lets its layers go. No Layer or Finish may run beside it.
func (sc *Scan) Close() error {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if sc.closed {
		return nil
	}
	sc.closed = true
	var err error
	if sc.session != nil {
		err = sc.session.Close()
	}
	for _, p := range sc.parts {
		if p.blob != nil {
			p.blob.Close()
		}
	}
	return err
}

// short returns enough of a digest for people to find it.
func short(d digest.Digest) string {
	if s := d.String(); len(s) > 19 {
		return s[:19]
	}
	return d.String()
}
