package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/layer"
)

// A pull is one image on its way through, shared by all who ask for it. It fetches
// the config and every layer by itself, since clients ask for a few at a time, or
// for the config first and nothing else until they have it, or skip what they hold
// already: a scan fed by them would wait for ever or see half.
type pull struct {
	repo    Repo
	m       *manifest
	caller  auth.Caller // who began it, for the log
	started time.Time
	ticket  *ticket
	scan    atomic.Pointer[scan.Scan] // once it has begun

	progress atomic.Int64    // Unix nanoseconds of the last byte that upstream sent
	fetched  atomic.Int64    // bytes read of the image
	over     context.Context //nolint:containedctx // ends once verdict is set: what wakes those who wait for bytes too
	end      func()          // ends over; verdict is set before
	verdict  *scan.Verdict   // the one that all get who wait

	elsewhere bool // another replica has made the verdict; set before over ends

	entered time.Time      // when it was begun, by the machine's clock, as all of what follows
	steps   scan.Timeline  // what took how long
	ended   func(*Journey) // told in the end, if not nil
	lastMu  sync.Mutex     // guards last
	last    time.Time      // when the last byte came that the scan needs

	mu  sync.Mutex               // guards cut
	cut map[string]digest.Digest // client → the blob of its first held response that was cut
}

type pullKey struct {
	repo   Repo
	digest digest.Digest
}

// begin joins the pull of an image, or begins it. low is for requests that nobody
// waits behind. It never blocks on the network. ctx is only what Trace gets.
func (g *Gateway) begin(ctx context.Context, caller auth.Caller, repo Repo, m *manifest, low bool) (*pull, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := pullKey{repo, m.Digest}
	if p := g.pulls[key]; p != nil {
		if !low {
			g.queue.hurry(p.ticket)
		}
		return p, nil
	}
	if g.closed {
		return nil, &Error{Status: 503, Code: codeUnavailable, Message: "the gateway is shutting down; try again", RetryAfter: time.Second}
	}
	t, err := g.queue.enter(repo.Upstream, caller.Party(), low)
	if err != nil {
		return nil, &Error{Status: 429, Code: codeTooMany, Message: "too many images wait to be scanned by this gateway; try again later", RetryAfter: 10 * time.Second, cause: err}
	}
	p := &pull{repo: repo, m: m, caller: caller, started: g.now(), ticket: t, cut: map[string]digest.Digest{}, entered: time.Now()}
	p.over, p.end = context.WithCancel(context.Background())
	p.progress.Store(p.started.UnixNano())
	if g.Trace != nil {
		p.ended = g.Trace(ctx)
	}
	g.pulls[key] = p
	g.running.Go(func() { g.run(p) })
	return p, nil
}

// run carries a pull to its end. Its own context ends only with the gateway: no
// client's hang-up stops it, and a hold that ran out leaves it running, so that the
// next try is quick.
func (g *Gateway) run(p *pull) {
	ctx := p.steps.Context(g.ctx)
	signatures := g.expectSignatures(g.ctx, p)
	v, err := g.scanned(ctx, p)
	signatures()
	if err != nil {
		v = causeVerdict(err)
	}
	if c := v.Scan.Cause; c == scan.CauseDBMissing || c == scan.CauseDBStale {
		err = errors.Join(err, errors.New(v.Scan.Detail))
		v = failedVerdict(c, "") // its detail names the operator's directories
	}
	// Read back before anybody is told: a pull that has ended and can still be found would
	// decide by its verdict when a new database has made that one old.
	_, stored := g.Scanner.Cached(ctx, p.m.Digest)
	p.verdict = v
	g.spareLines(p)
	g.mu.Lock()
	p.end()
	if stored == nil {
		delete(g.pulls, pullKey{p.repo, p.m.Digest})
	} else {
		// Not remembered: it may go better the next time. Kept for a while so that the
		// client's other requests get the same answer, and nobody hammers upstream.
		time.AfterFunc(g.Gate.RetryAfter, func() { g.drop(p) })
	}
	g.mu.Unlock()
	g.logPull(p, err, stored == nil)
}

func (g *Gateway) drop(p *pull) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if key := (pullKey{p.repo, p.m.Digest}); g.pulls[key] == p {
		delete(g.pulls, key)
	}
}

// scanned returns the verdict on the image of p, by the shortest way there is.
func (g *Gateway) scanned(ctx context.Context, p *pull) (*scan.Verdict, error) {
	end := scan.Timed(ctx, scan.StepQueue)
	if err := g.queue.wait(ctx, p.ticket); err != nil {
		return nil, err
	}
	end()
	defer g.queue.leave(p.ticket)
	p.touch(g.now())
	p.arrive()
	if g.Replica != "" {
		return g.scanOnce(ctx, p)
	}
	return g.knownOrScanned(ctx, p, 0)
}

// knownOrScanned returns the verdict on the image of p, for which it is fetched only where
// nothing is known of it. fence is the token of the lease that this is done under, 0 for none.
func (g *Gateway) knownOrScanned(ctx context.Context, p *pull, fence uint64) (*scan.Verdict, error) {
	v, err := g.Scanner.Known(ctx, p.m.Digest)
	switch {
	case err == nil:
		return v, g.bringConfig(ctx, p, v)
	case isMiss(err):
		return g.fetchAndScan(ctx, p, fence)
	case ctx.Err() != nil, errors.Is(err, scan.ErrDatabaseElsewhere):
		return nil, err
	}
	return nil, storeDown(err)
}

// fetchAndScan brings config and layers into the spool and through the stream guard,
// side by side, and has them catalogued and matched, under the lease of that fence.
func (g *Gateway) fetchAndScan(ctx context.Context, p *pull, fence uint64) (*scan.Verdict, error) {
	var total int64
	for _, d := range p.m.descriptors() {
		total += d.Size
	}
	res, err := g.Blobs.Reserve(total)
	if err != nil {
		return nil, fmt.Errorf("keep %d bytes of %s: %w", total, p.repo, err)
	}
	defer res.Release()
	ahead := g.fetchAhead(ctx, p, res)
	defer func() {
		for _, b := range ahead {
			b.Close()
		}
	}()
	end := scan.Timed(ctx, scan.StepConfig)
	config, err := g.fetchConfig(ctx, p, res)
	if err != nil {
		return nil, ofBlob(p.m.config, err)
	}
	end()
	p.arrive()
	g.expectBase(ctx, p.repo, p.m)
	sc, err := g.Scanner.Begin(ctx, scan.Image{
		Reference: p.repo.String() + "@" + p.m.Digest.String(),
		Digest:    p.m.Digest,
		MediaType: p.m.MediaType,
		Manifest:  p.m.Body,
		Config:    config,
		Layers:    p.m.layers,
		Fence:     fence,
	})
	if err != nil {
		return nil, err
	}
	defer sc.Close()
	p.scan.Store(sc)
	layers, layersCtx := errgroup.WithContext(ctx)
	layers.SetLimit(g.Gate.Layers)
	for i, desc := range p.m.layers {
		if !sc.Needs(i) {
			layers.Go(func() error {
				defer p.arrive() // what upstream says counts as what it sends
				return ofBlob(desc, g.vouchFor(layersCtx, p.repo, desc))
			})
			continue
		}
		layers.Go(func() error {
			if blob := ahead[i]; blob != nil {
				return ofBlob(desc, g.scanLayer(layersCtx, p, sc, i, desc, blob))
			}
			blob, err := g.fetchBlob(p.repo, desc, res)
			if err != nil {
				return ofBlob(desc, err)
			}
			defer blob.Close()
			return ofBlob(desc, g.scanLayer(layersCtx, p, sc, i, desc, blob))
		})
	}
	if err := layers.Wait(); err != nil {
		return nil, err
	}
	p.backlog()
	return sc.Finish(ctx)
}

// fetchAhead has the first layers set out beside the config, a way to upstream and back
// before it is here: those that nobody has scanned in any image, so that they will be
// needed whatever the config says. The caller closes them.
func (g *Gateway) fetchAhead(ctx context.Context, p *pull, res *spool.Reservation) map[int]*spool.Blob {
	ahead := map[int]*spool.Blob{}
	if p.m.config.Size > maxConfig {
		return ahead
	}
	for i, desc := range p.m.layers[:min(len(p.m.layers), g.Gate.Layers)] {
		if g.Scanner.Guarded(ctx, desc) {
			continue
		}
		if blob, err := g.fetchBlob(p.repo, desc, res); err == nil { // else it is tried again, and then the error counts
			ahead[i] = blob
		}
	}
	return ahead
}

func (g *Gateway) scanLayer(ctx context.Context, p *pull, sc *scan.Scan, i int, desc ocispec.Descriptor, blob *spool.Blob) error {
	if err := g.vouch(ctx, p.repo, blob, desc); err != nil {
		return err
	}
	watched, stop := context.WithCancel(ctx)
	var arriving sync.WaitGroup
	arriving.Go(func() { p.awaitArrival(watched, desc, blob) })
	defer arriving.Wait()
	defer stop() // the guard may have given up before
	r := blob.NewReader(ctx)
	defer r.Close()
	return sc.Layer(ctx, i, progressReader{r, p, g.now})
}

// fetchConfig returns an image's config, verified, and remembers it.
func (g *Gateway) fetchConfig(ctx context.Context, p *pull, res *spool.Reservation) ([]byte, error) {
	desc := p.m.config
	key := cache.Name(kindConfig, desc.Digest.String())
	if b, err := g.Store.Get(ctx, key); err == nil {
		if int64(len(b)) != desc.Size {
			return nil, fmt.Errorf("its config has %d bytes, its manifest says %d: %w", len(b), desc.Size, upstream.ErrContent)
		}
		return b, g.vouchFor(ctx, p.repo, desc)
	} else if !errors.Is(err, cache.ErrNotExist) {
		return nil, storeDown(err)
	}
	if desc.Size > maxConfig {
		return nil, &limitError{fmt.Sprintf("its config declares %d bytes, more than %d", desc.Size, maxConfig)}
	}
	blob, err := g.fetchBlob(p.repo, desc, res)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	if err := g.vouch(ctx, p.repo, blob, desc); err != nil {
		return nil, err
	}
	r := blob.NewReader(ctx)
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(progressReader{r, p, g.now}, maxConfig+1))
	if err != nil {
		return nil, err
	}
	if err := g.Store.Put(ctx, key, b, g.Gate.RelationTTL); err != nil {
		return nil, storeDown(err)
	}
	return b, nil
}

// bringConfig fetches the config of an image that was scanned before, where the Store
// has it no more.
func (g *Gateway) bringConfig(ctx context.Context, p *pull, v *scan.Verdict) error {
	if err := g.configAtHand(ctx, p.m, v); !errors.Is(err, cache.ErrNotExist) {
		return err
	}
	res, err := g.Blobs.Reserve(p.m.config.Size)
	if err != nil {
		return fmt.Errorf("keep the config of %s: %w", p.repo, err)
	}
	defer res.Release()
	_, err = g.fetchConfig(ctx, p, res)
	return err
}

// lackedDatabase reports whether p ended without a verdict since there was no database
// to match with.
func (p *pull) lackedDatabase() bool {
	v := p.finished()
	return v != nil && (v.Scan.Cause == scan.CauseDBMissing || v.Scan.Cause == scan.CauseDBStale)
}

// fetchBlob returns a blob of the spool, which begins to fetch it from upstream where
// it isn't there or on its way. One fetch serves everybody.
func (g *Gateway) fetchBlob(repo Repo, desc ocispec.Descriptor, res *spool.Reservation) (*spool.Blob, error) {
	return g.Blobs.FetchFrom(repo.String(), desc.Digest, desc.Size, res, func(ctx context.Context, w io.Writer) error {
		defer g.sized.Delete(sizeKey(repo.String(), desc.Digest, desc.Size)) // in the end the blob is settled, which says more
		if g.Objects == nil || desc.Size == 0 {
			return g.fill(ctx, repo, desc, w)
		}
		return g.fillShared(ctx, repo, desc, w)
	})
}

// fill writes a blob of upstream to w.
func (g *Gateway) fill(ctx context.Context, repo Repo, desc ocispec.Descriptor, w io.Writer) error {
	body, err := g.upstream(repo.Upstream).Registry.Blob(ctx, repo.Name, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	var writing sync.WaitGroup // beside the blob, which need not wait for it
	writing.Go(func() { g.noteVouched(ctx, repo, desc.Digest) })
	defer writing.Wait()
	if b, ok := body.(interface{ Exact() bool }); ok && b.Exact() {
		g.sized.Store(sizeKey(repo.String(), desc.Digest, desc.Size), nil)
	}
	buf := g.buffers.get()
	defer g.buffers.put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, body, *buf)
	g.Metrics.upstreamBytes.WithLabelValues(repo.Upstream).Add(float64(n))
	return err
}

// sizeKey names a blob of a size in a repository.
func sizeKey(repo string, d digest.Digest, size int64) string {
	return repo + "@" + d.String() + " " + strconv.FormatInt(size, 10)
}

const copyBuffer = 256 << 10 // bytes; large enough that system calls don't count, small enough for a hundred clients

// touch notes that upstream sent something of the image.
func (p *pull) touch(now time.Time) { p.progress.Store(now.UnixNano()) }

// capAt returns when nothing will have come of the image for so long that those who wait
// for it are told so, unless something comes before.
func (p *pull) capAt(limit time.Duration) time.Time {
	return time.Unix(0, p.progress.Load()).Add(limit)
}

// overdue reports whether that time has come.
func (p *pull) overdue(now time.Time, limit time.Duration) bool { return !now.Before(p.capAt(limit)) }

// firstCut reports whether client has no held response of p cut yet, or only such of the
// same blob: nobody fetches a blob twice at a time, so that is somebody else behind the
// same address.
func (p *pull) firstCut(client string, blob digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.cut[client]; !ok {
		p.cut[client] = blob
	}
	return p.cut[client] == blob
}

// finished returns the verdict of p, or nil while there is none.
func (p *pull) finished() *scan.Verdict {
	if p.over.Err() == nil {
		return nil
	}
	return p.verdict
}

// A progressReader notes on the pull that bytes of its image came.
type progressReader struct {
	r   io.Reader
	p   *pull
	now func() time.Time
}

func (r progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if n > 0 {
		r.p.touch(r.now())
		r.p.fetched.Add(int64(n))
	}
	return n, err
}

// A blobError is what is wrong with one blob of an image.
type blobError struct {
	desc ocispec.Descriptor
	err  error
}

func (e *blobError) Error() string { return e.err.Error() } // which names it
func (e *blobError) Unwrap() error { return e.err }

// ofBlob says of which blob err is.
func ofBlob(desc ocispec.Descriptor, err error) error {
	if err == nil {
		return nil
	}
	return &blobError{desc, err}
}

// A limitError says that an image is past a bound.
type limitError struct{ what string }

func (e *limitError) Error() string { return e.what }

// causeVerdict is the verdict that there is none, and why. It is never remembered. What
// is not known to be fit for clients is left to the log.
func causeVerdict(err error) *scan.Verdict {
	var limit *limitError
	var up *upstream.Error
	var bytes *layer.MismatchError
	var e *Error
	switch {
	case errors.As(err, &limit):
		v := failedVerdict(scan.CauseScanLimit, limit.what)
		v.Scan.State = scan.Limit
		return v
	case errors.Is(err, errStoreDown):
		return failedVerdict(scan.CauseStoreDown, "the store that remembers verdicts can't be read")
	case errors.Is(err, syscall.ENOSPC):
		return failedVerdict(scan.CauseNoRoom, "its disk is full where spool.dir lies")
	case errors.Is(err, spool.ErrFull):
		return failedVerdict(scan.CauseNoRoom, "spool.blobs_quota or spool.layers_quota is taken up, or smaller than the image")
	case errors.Is(err, scan.ErrDatabaseMissing):
		return failedVerdict(scan.CauseDBMissing, "no vulnerability database is loaded yet")
	case errors.Is(err, scan.ErrDatabaseStale):
		return failedVerdict(scan.CauseDBStale, "the vulnerability database is too old")
	case errors.Is(err, upstream.ErrContent), errors.Is(err, spool.ErrMismatch), errors.As(err, &bytes):
		return failedVerdict(scan.CauseScanFailed, "upstream serves something else than "+blobName(err)+": "+shortDigests(contentReason(err)))
	case upstream.NotFound(err):
		return failedVerdict(scan.CauseScanFailed, "upstream lacks "+blobName(err)+" ("+upstreamReason(err)+")")
	case errors.As(err, &up):
		return failedVerdict(scan.CauseUpstreamDown, "upstream failed while the image was fetched ("+upstreamReason(err)+")")
	case errors.As(err, &e):
		return failedVerdict(scan.CauseScanFailed, e.Message)
	case errors.Is(err, context.Canceled):
		return failedVerdict(scan.CauseScanTimeout, "the gateway was stopped while it was scanned")
	}
	return failedVerdict(scan.CauseScanFailed, "the gateway failed while it scanned the image; its log says why")
}

// blobName names the blob that err is of, as its manifest does.
func blobName(err error) string {
	var b *blobError
	if !errors.As(err, &b) {
		return "a blob that its manifest names"
	}
	return shortDigests(b.desc.Digest.String()) + fmt.Sprintf(" of %d bytes", b.desc.Size)
}

// longDigest finds digests, and in parentheses what is enough to tell them apart.
var longDigest = regexp.MustCompile(`(sha(?:256|512):[0-9a-f]{16})[0-9a-f]+`)

// shortDigests leaves enough of each digest in s to find it, since a message is short.
func shortDigests(s string) string { return longDigest.ReplaceAllString(s, "$1") }

// failedVerdict is the verdict that there is none, for a cause.
func failedVerdict(cause scan.Cause, detail string) *scan.Verdict {
	return scan.Unscanned(cause, detail)
}

// unsupported is the verdict on what no runtime would run.
func unsupported() *scan.Verdict {
	return &scan.Verdict{
		Scan:     scan.Summary{State: scan.Unsupported, Coverage: scan.Coverage{DistroKnown: true, Problems: []scan.Problem{}}},
		Findings: []scan.Finding{},
	}
}

// errStoreDown marks an error of the Store.
var errStoreDown = errors.New("store down")

// storeDown wraps an error of the Store so that policy and clients learn its cause.
func storeDown(err error) error {
	return &Error{Status: 503, Code: codeUnavailable, RetryAfter: 5 * time.Second,
		Message: "the gateway can't read or write its store now, and serves nothing that it can't check; try again, or tell its operator",
		cause:   fmt.Errorf("%w: %w", errStoreDown, err)}
}
