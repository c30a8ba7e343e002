package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// A load is what is asked of a server again and again.
type load struct {
	about    string
	method   string             // "" is GET
	path     func(n int) string // of the n-th request, below the repository
	size     func(n int) int64
	requests int
	parallel int
	bytes    bool // the rate is told in bytes, else in requests

	gateway, distribution []float64 // a second
}

// run measures both servers, the first of which alternates.
func (l *load) run(ctx context.Context, repo string, gateway, distribution *server, round int) error {
	for i := range 2 {
		s, rates := gateway, &l.gateway
		if (i+round)%2 == 1 {
			s, rates = distribution, &l.distribution
		}
		rate, err := l.measure(ctx, s.registry, repo)
		if err != nil {
			return s.fault(err)
		}
		*rates = append(*rates, rate)
	}
	fmt.Fprintf(os.Stderr, "%-40s gateway %s, distribution %s\n", l.about, l.text(l.gateway[len(l.gateway)-1]), l.text(l.distribution[len(l.distribution)-1]))
	return nil
}

// measure returns what a second carries. Of answers the length is checked; the digests
// were when the server was warmed.
func (l *load) measure(ctx context.Context, r registry, repo string) (float64, error) {
	c := newClient(r, repo)
	defer c.close()
	g, ctx := errgroup.WithContext(ctx)
	var total counter
	sums := make([]int64, l.parallel)
	began := time.Now()
	for worker := range l.parallel {
		g.Go(func() (err error) {
			buf := make([]byte, 256<<10)
			for n := worker; n < l.requests && err == nil; n += l.parallel {
				sums[worker] += l.size(n)
				err = l.one(ctx, c, n, buf)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	took := time.Since(began).Seconds()
	for _, n := range sums {
		total += counter(n)
	}
	if l.bytes {
		return float64(total) / took, nil
	}
	return float64(l.requests) / took, nil
}

func (l *load) one(ctx context.Context, c *client, n int, buf []byte) error {
	resp, err := c.ask(ctx, cmp.Or(l.method, http.MethodGet), l.path(n))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if l.method == http.MethodHead {
		if resp.ContentLength != l.size(n) {
			err = fmt.Errorf("HEAD of %s says %d bytes, not %d", l.path(n), resp.ContentLength, l.size(n))
		}
		return err
	}
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{resp.Body}, buf)
	if err == nil && got != l.size(n) {
		err = fmt.Errorf("%d bytes of %s came, not %d", got, l.path(n), l.size(n))
	}
	return err
}

func (l *load) text(rate float64) string {
	if l.bytes {
		return fmt.Sprintf("%.0f MiB/s", rate/(1<<20))
	}
	return fmt.Sprintf("%.0f/s", rate)
}

// loads are the rows of the warm table.
func (c *corpus) loads(quick bool) []*load {
	large, small := c.largeBlob(), c.smallBlobs()
	oneLarge := func(int) string { return "blobs/" + large.Digest.String() }
	largeSize := func(int) int64 { return large.Size }
	oneSmall := func(n int) string { return "blobs/" + small[n%len(small)].Digest.String() }
	smallSize := func(n int) int64 { return small[n%len(small)].Size }
	times := 4
	if quick {
		times = 1
	}
	return []*load{
		{about: "256 MiB blob, one at a time", path: oneLarge, size: largeSize, requests: 2 * times, parallel: 1, bytes: true},
		{about: "256 MiB blob, 8 in parallel", path: oneLarge, size: largeSize, requests: 8 * times / min(times, 2), parallel: 8, bytes: true},
		{about: "1 MiB blobs, one at a time", path: oneSmall, size: smallSize, requests: 200 * times, parallel: 1, bytes: true},
		{about: "1 MiB blobs, 8 in parallel", path: oneSmall, size: smallSize, requests: 300 * times, parallel: 8, bytes: true},
	}
}

// clientsOfManifests are how many ask for a manifest at once.
var clientsOfManifests = []int{1, 8, 50}

// A manifestLoad is one row: one request, by ever more clients.
type manifestLoad struct {
	about string
	loads []*load // one for each of clientsOfManifests
}

// manifestLoads are the rows of the table of manifests. For each request by tag
// distribution asks upstream.
func (c *corpus) manifestLoads(quick bool) (rows []*manifestLoad) {
	requests := 1000
	if quick {
		requests = 500
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		for _, by := range []struct{ about, reference string }{{"by digest", digest.FromBytes(c.warm.manifest).String()}, {"by tag", c.warm.tag}} {
			row := &manifestLoad{about: method + " " + by.about}
			for _, n := range clientsOfManifests {
				row.loads = append(row.loads, &load{about: fmt.Sprintf("manifest, %s, %d in parallel", row.about, n), method: method, requests: requests, parallel: n,
					path: func(int) string { return "manifests/" + by.reference },
					size: func(int) int64 { return int64(len(c.warm.manifest)) }})
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// measureWarm warms both servers with one pull and runs the loads.
func measureWarm(ctx context.Context, y *yard, c *corpus, o options) (loads []*load, manifests []*manifestLoad, err error) {
	from, err := newOrigin("unshaped", 0, 0, c.warm)
	if err != nil {
		return nil, nil, err
	}
	defer from.Close()
	gateway, err := y.gateway(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	defer gateway.stop()
	distribution, err := y.cache(ctx, from)
	if err != nil {
		return nil, nil, err
	}
	defer distribution.stop()
	for _, s := range []*server{gateway, distribution} {
		from.ResetCounts()
		for range 2 { // distribution stores what it served once it has ended
			if _, err := pull(ctx, s.registry, c.warm, sideBySide); err != nil {
				return nil, nil, s.fault(err)
			}
		}
	}
	if _, err := y.verdict(ctx, gateway, c.warm); err != nil {
		return nil, nil, err
	}
	from.ResetCounts()
	loads, manifests = c.loads(o.quick), c.manifestLoads(o.quick)
	all := loads
	for _, m := range manifests {
		all = slices.Concat(all, m.loads)
	}
	for round := range o.runs {
		for _, l := range all {
			if err := l.run(ctx, c.warm.repo, gateway, distribution, round); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, b := range c.warm.blobs {
		if times, _ := from.Served(b.Digest); times > 0 {
			return nil, nil, fmt.Errorf("a warm server fetched %s again", b.Digest)
		}
	}
	return loads, manifests, nil
}
