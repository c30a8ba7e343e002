package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache"
)

// An ObjectStore is what replicas share blobs by. It is a help and never a need: what it
// lacks, or can't give, comes from upstream.
type ObjectStore interface {
	// Get opens an object of exactly that size. The error wraps cache.ErrNotExist where
	// there is none, and cache.ErrDown where that can't be told. That of a read wraps
	// cache.ErrDamaged where it has other bytes than were stored.
	Get(ctx context.Context, name string, size int64) (io.ReadCloser, error)
	// Put stores an object; one of that name and size may stay.
	Put(ctx context.Context, name string, object []byte) error
	// Delete removes an object.
	Delete(ctx context.Context, name string) error
}

const (
	// A blob is kept in parts, so that others have its beginning while the rest comes: the
	// first of firstPart bytes, each next one twice as large, up to a partsOfBlob-th of the
	// blob and at most largestPart.
	firstPart   = 1 << 20
	largestPart = 4 << 20
	partsOfBlob = 64
	// fetchLease is how long a replica that has died while it fetched a blob keeps others
	// from fetching it.
	fetchLease = 5 * time.Second
	// fetchPatience is how long a replica waits for another one that fetches a blob of which
	// nothing comes. Some clients give up on such a one after little longer.
	fetchPatience = 8 * time.Second
	// fetchedEvery is how often a replica says how much has come of a blob that comes slowly.
	fetchedEvery = 2 * time.Second
	// uploadsAtOnce and maxUploads bound what one replica uploads, and what waits for it on
	// its disk; a blob that finds no place is fetched from upstream by the others.
	uploadsAtOnce = 16
	maxUploads    = 64
	uploadTries   = 3
	// discardTimeout bounds the removal of a damaged blob.
	discardTimeout = 10 * time.Second
)

// kindFetched is how much has come of a blob to the replica that fetches it.
const kindFetched cache.Kind = "fetched"

// A part is a stretch of a blob.
type part struct {
	name string
	size int64
}

// partsOf returns the parts that a blob is kept in.
func partsOf(desc ocispec.Descriptor) (parts []part) {
	size := int64(firstPart)
	largest := min(max(firstPart, desc.Size/partsOfBlob), largestPart)
	for from := int64(0); from < desc.Size; from += parts[len(parts)-1].size {
		parts = append(parts, part{fmt.Sprintf("%s/%s.%d/%d", desc.Digest.Algorithm(), desc.Digest.Encoded(), desc.Size, len(parts)), min(size, desc.Size-from)})
		size = min(2*size, largest)
	}
	return parts
}

// A sharedFill brings one blob to the spool: parts that are in the object store from there,
// the rest from upstream.
type sharedFill struct {
	g     *Gateway
	repo  Repo
	desc  ocispec.Descriptor
	work  string // the lease of whoever fetches the blob from upstream
	w     io.Writer
	parts []part    // that are still to come
	n     int64     // bytes written
	moved time.Time // when a part, or word of more bytes, last came
	told  string    // the last word of that
	sum   digest.Verifier
}

// fillShared writes a blob to w: from the object store as far as it is there or on its way
// there, else from upstream, by one replica at a time, which uploads it meanwhile.
func (g *Gateway) fillShared(ctx context.Context, repo Repo, desc ocispec.Descriptor, w io.Writer) error {
	f := &sharedFill{g: g, repo: repo, desc: desc, work: "fetch " + desc.Digest.String(), w: w, parts: partsOf(desc), moved: time.Now(), sum: desc.Digest.Verifier()}
	for {
		err := f.take(ctx)
		switch {
		case err == nil:
			return f.verify(ctx)
		case errors.Is(err, cache.ErrDown):
			return f.rest(ctx)
		case !errors.Is(err, cache.ErrNotExist):
			return err
		}
		lease, err := cache.Acquire(ctx, g.Store, f.work, g.Replica, fetchLease)
		switch {
		case err == nil:
			return f.lead(ctx, lease)
		case !errors.Is(err, cache.ErrHeld) || time.Since(f.moved) > fetchPatience:
			return f.rest(ctx)
		}
		if err := f.await(ctx); err != nil {
			return err
		}
	}
}

// take writes the parts that are in the object store, up to the first that isn't.
func (f *sharedFill) take(ctx context.Context) error {
	for len(f.parts) > 0 {
		p := f.parts[0]
		body, err := f.g.Objects.Get(ctx, p.name, p.size)
		if err != nil {
			f.count(err)
			return err
		}
		if f.n == 0 { // what the store has is anybody's: upstream must have it in this repository too
			if err = f.g.vouchFor(ctx, f.repo, f.desc); err == nil {
				f.g.sized.Store(sizeKey(f.repo.String(), f.desc.Digest, f.desc.Size), nil)
			}
		}
		if err == nil {
			err = f.copy(body, p.size)
		}
		body.Close()
		if err != nil {
			return err
		}
		f.parts, f.moved = f.parts[1:], time.Now()
	}
	f.g.Metrics.objects.WithLabelValues("found").Inc()
	return nil
}

func (f *sharedFill) count(err error) {
	outcome := "unusable"
	if errors.Is(err, cache.ErrNotExist) {
		outcome = "missing"
	}
	f.g.Metrics.objects.WithLabelValues(outcome).Inc()
}

// copy writes a part. Where it breaks off, upstream goes on.
func (f *sharedFill) copy(body io.Reader, size int64) error {
	buf := f.g.buffers.get()
	defer f.g.buffers.put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{f.w}, io.TeeReader(io.LimitReader(body, size), f.sum), *buf)
	f.n += n
	f.g.Metrics.objectBytes.WithLabelValues("in").Add(float64(n))
	if err != nil || n < size {
		outcome := "broken"
		if errors.Is(err, cache.ErrDamaged) {
			outcome = "damaged"
		}
		f.g.Metrics.objects.WithLabelValues(outcome).Inc()
		return errors.Join(cache.ErrDown, err)
	}
	return nil
}

// verify removes a blob that is damaged. Of its bytes the spool keeps nothing, and gives
// nobody the last one.
func (f *sharedFill) verify(ctx context.Context) error {
	if f.sum.Verified() {
		return nil
	}
	f.g.Metrics.objects.WithLabelValues("damaged").Inc()
	f.g.Log.Error("the object store has other bytes than a blob's: they are deleted there, and clients that were served them have to ask again", "digest", f.desc.Digest)
	f.g.discard(ctx, partsOf(f.desc))
	return errDamaged
}

var errDamaged = errors.New("the shared object store had other bytes, which are deleted")

// discard removes parts that are not those of their blob, also when ctx has ended.
func (g *Gateway) discard(ctx context.Context, parts []part) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTimeout)
	defer cancel()
	for _, p := range parts {
		if err := g.Objects.Delete(ctx, p.name); err != nil {
			g.Log.Warn("a damaged object could not be deleted", "object", p.name, "error", err)
			return
		}
	}
}

// rest writes what is still to come, from upstream, whose bytes are right: where all of it is
// not the blob, what came before was damaged.
func (f *sharedFill) rest(ctx context.Context) error {
	if f.n == 0 {
		return f.g.fill(ctx, f.repo, f.desc, f.w)
	}
	if err := f.g.fill(ctx, f.repo, f.desc, &behind{w: io.MultiWriter(f.w, f.sum), skip: f.n}); err != nil {
		return err
	}
	return f.verify(ctx)
}

// lead fetches the blob as the one replica that does, and uploads it meanwhile. The lease
// goes back when that is done.
func (f *sharedFill) lead(ctx context.Context, lease *cache.Lease) error {
	err := f.take(ctx) // what came to be there until the lease was had
	switch {
	case err == nil:
		lease.Release()
		return f.verify(ctx)
	case !errors.Is(err, cache.ErrNotExist) && !errors.Is(err, cache.ErrDown):
		lease.Release()
		return err
	}
	if !f.g.upload(f.repo, f.desc, lease) {
		lease.Release()
	}
	return f.rest(ctx)
}

// await returns when the next part may be there, or no other replica is at it any more, or
// patience is over.
func (f *sharedFill) await(ctx context.Context) error {
	next := time.NewTimer(2 * lookEvery)
	defer next.Stop()
	if held, err := cache.Held(ctx, f.g.Store, f.work); !held || err != nil {
		return ctx.Err()
	}
	if told, err := f.g.Store.Get(ctx, fetchedKey(f.desc)); err == nil && string(told) != f.told {
		f.told, f.moved = string(told), time.Now()
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-next.C:
		return nil
	}
}

// upload puts a blob that comes from upstream into the object store as it comes: no client
// waits for it. The lease goes back afterwards. It is false where there is no place for it.
func (g *Gateway) upload(repo Repo, desc ocispec.Descriptor, lease *cache.Lease) bool {
	blob, err := g.Blobs.OpenFrom(repo.String(), desc.Digest, desc.Size)
	if err != nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.upping >= maxUploads || blob.Size() != desc.Size {
		blob.Close()
		g.Metrics.objects.WithLabelValues("not_uploaded").Inc()
		return false
	}
	g.upping++
	g.running.Go(func() {
		defer blob.Close()
		g.putting <- struct{}{}
		outcome := "uploaded"
		r := blob.NewReader(g.ctx)
		if err := g.putParts(g.ctx, partsOf(desc), &toldReader{Reader: r, tell: g.tellFetched(desc), at: time.Now()}); err != nil {
			outcome = "not_uploaded"
			g.Log.Warn("a blob could not be uploaded; other gateways fetch it from upstream", "digest", desc.Digest, "error", err)
		}
		r.Close()
		<-g.putting
		lease.Release()
		g.Metrics.objects.WithLabelValues(outcome).Inc()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.upping--
	})
	return true
}

// A toldReader tells from time to time how many bytes came of what it reads.
type toldReader struct {
	io.Reader
	tell func(n int64)
	n    int64
	at   time.Time // it was last told
}

func (r *toldReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.n += int64(n); n > 0 && time.Since(r.at) > fetchedEvery {
		r.tell(r.n)
		r.at = time.Now()
	}
	return n, err
}

// tellFetched lets others know how much has come of a blob. Where it can't they wait less long.
func (g *Gateway) tellFetched(desc ocispec.Descriptor) func(n int64) {
	return func(n int64) {
		if err := g.Store.Put(g.ctx, fetchedKey(desc), strconv.AppendInt(nil, n, 10), fetchPatience); err != nil {
			g.Log.Debug("can't tell other gateways how much of a blob has come", "digest", desc.Digest, "error", err)
		}
	}
}

func fetchedKey(desc ocispec.Descriptor) cache.Key {
	return cache.Name(kindFetched, desc.Digest.String())
}

// putParts uploads parts as r brings them. The last byte of a blob comes when all of it is
// verified; where it never does, what was uploaded is removed.
func (g *Gateway) putParts(ctx context.Context, parts []part, r io.Reader) error {
	var largest int64
	for _, p := range parts {
		largest = max(largest, p.size)
	}
	buf := make([]byte, largest)
	for i, p := range parts {
		if _, err := io.ReadFull(r, buf[:p.size]); err != nil {
			g.discard(ctx, parts[:i])
			return err
		}
		if err := g.putPart(ctx, p.name, buf[:p.size]); err != nil {
			return err
		}
		g.Metrics.objectBytes.WithLabelValues("out").Add(float64(p.size))
	}
	return nil
}

func (g *Gateway) putPart(ctx context.Context, name string, object []byte) error {
	for try := 1; ; try++ {
		err := g.Objects.Put(ctx, name, object)
		if err == nil || try == uploadTries {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(try) * 3 * time.Second):
		}
	}
}

// behind drops what comes first, since w has it.
type behind struct {
	w    io.Writer
	skip int64
}

func (b *behind) Write(p []byte) (int, error) {
	drop := min(b.skip, int64(len(p)))
	b.skip -= drop
	if drop == int64(len(p)) {
		return len(p), nil
	}
	n, err := b.w.Write(p[drop:])
	return int(drop) + n, err
}
