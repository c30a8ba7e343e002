package proxy_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
)

// lateNews is a shared Store that beats well, and whose news of what was written are late.
type lateNews struct{ cache.Store }

func (s lateNews) Watch(ctx context.Context, beat func(time.Time), _ func(cache.Key)) error {
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		beat(time.Now())
		select {
		case <-ctx.Done():
			tick.Stop()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// A client gets the manifest from one replica and its blobs from another, which had just
// looked for one of them and has no news of it yet.
func TestListingWithoutNews(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	two := l.another(func(n *lab, _ *policy.Config) {
		local := cache.NewLocal(lateNews{l.gateway.Store}, cache.LocalConfig{})
		n.Cleanup(func() { _ = local.Close() })
		n.gateway.Store, n.gateway.Scanner.Store = local, local
	})
	img := l.push("acme/app", "1", 100_000)
	for range 2 { // the second time from memory
		two.want(404, "", "GET", blobPath("acme/app", img.layers[0]))
	}
	l.want(200, "", "GET", manifestPath("acme/app", "1"))
	two.want(200, "", "GET", blobPath("acme/app", img.layers[0]))
}
