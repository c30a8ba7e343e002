package proxy

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/scan"
)

const (
	// scanLease is how long a replica that has died, or lost the Store, keeps others from
	// scanning the image that it was at.
	scanLease = 5 * time.Second
	// lookEvery is how often a replica that waits for another's verdict looks for it. What
	// it looks at is in its own memory until something changes (cache.Local).
	lookEvery = 50 * time.Millisecond
	// claimEvery is how often it tries to take the scan over.
	claimEvery = time.Second
	// databasePatience is how long an image waits for a replica that has the database which
	// is decided by, or for that database.
	databasePatience = 2 * time.Minute
)

// scanOnce returns the verdict on an image that replicas meet at the same time: one of
// them scans and matches it, and the others take the verdict when it is published, and bring
// the blobs of one that is new for their own clients. Where the one dies, or fails, or lacks
// the database that is decided by, the next goes on.
func (g *Gateway) scanOnce(ctx context.Context, p *pull) (*scan.Verdict, error) {
	v, err, mine := g.scanLeased(ctx, p)
	if mine {
		return v, err
	}
	ctx, cancel := context.WithCancel(ctx)
	brought := make(chan struct{})
	go func() {
		defer close(brought)
		if !g.Scanner.Catalogued(ctx, p.m.Digest) {
			_ = g.bring(ctx, p) // else clients bring what they ask for
		}
	}()
	defer func() {
		cancel()
		<-brought
	}()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	claimed, held := time.Now(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
		if v, err := g.published(ctx, p); err == nil {
			return v, g.bringConfig(ctx, p, v)
		}
		if time.Since(claimed) < claimEvery {
			continue
		}
		v, err, mine := g.scanLeased(ctx, p)
		switch {
		case mine:
			return v, err
		case !errors.Is(err, scan.ErrDatabaseElsewhere):
			held = time.Now()
		case time.Since(held) > databasePatience:
			return nil, err
		}
		claimed = time.Now()
	}
}

// published returns the verdict on the image of p that another replica has made.
func (g *Gateway) published(ctx context.Context, p *pull) (*scan.Verdict, error) {
	v, err := g.Scanner.Cached(ctx, p.m.Digest)
	p.elsewhere = err == nil
	return v, err
}

// scanLeased scans the image of p, unless another replica does, or has taken it over, or is
// to match it: that is an error which wraps scan.ErrDatabaseElsewhere.
func (g *Gateway) scanLeased(ctx context.Context, p *pull) (v *scan.Verdict, err error, mine bool) {
	l, err := cache.Acquire(ctx, g.Store, "scan "+p.m.Digest.String(), g.Replica, scanLease)
	switch {
	case errors.Is(err, cache.ErrHeld):
		return nil, nil, false
	case ctx.Err() != nil:
		return nil, context.Cause(ctx), true
	case err != nil:
		return nil, storeDown(err), true
	}
	defer l.Release()
	if v, err = g.published(l.Context(), p); err == nil { // by who had the lease before
		err = g.bringConfig(l.Context(), p, v)
	} else {
		v, err = g.knownOrScanned(l.Context(), p, l.Token)
	}
	switch {
	case errors.Is(context.Cause(l.Context()), cache.ErrLost):
		g.Log.Warn("the scan of an image goes to another replica: this one could not keep its lease in the store", "image", p.repo.String()+"@"+p.m.Digest.String())
		return nil, nil, false
	case errors.Is(err, scan.ErrDatabaseElsewhere):
		return nil, err, false
	}
	return v, err, true
}

// bring has the blobs of an image that another replica scans here, for clients of this one,
// and for a scan that is to be taken over.
func (g *Gateway) bring(ctx context.Context, p *pull) error {
	var total int64
	for _, d := range p.m.descriptors() {
		total += d.Size
	}
	res, err := g.Blobs.Reserve(total)
	if err != nil {
		return err // clients bring what they ask for
	}
	defer res.Release()
	if _, err := g.fetchConfig(ctx, p, res); err != nil {
		return err
	}
	layers, ctx := errgroup.WithContext(ctx)
	layers.SetLimit(g.Gate.Layers)
	for _, desc := range p.m.layers {
		layers.Go(func() error {
			blob, err := g.fetchBlob(p.repo, desc, res)
			if err != nil {
				return err
			}
			defer blob.Close()
			if err := g.vouch(ctx, p.repo, blob, desc); err != nil {
				return err
			}
			r := blob.NewReader(ctx)
			defer r.Close()
			_, err = io.Copy(io.Discard, progressReader{r, p, g.now})
			return err
		})
	}
	return layers.Wait()
}
