package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	crowdClients  = 50
	memoryClients = 100
	sampleEvery   = 20 * time.Millisecond
)

// A crowd is one row: clients that all at once ask a gateway for an image that it has
// never seen, against one client that does.
type crowd struct {
	image  *image
	origin *origin

	one, all         []time.Duration // until the last client had everything
	oneAsks, allAsks []int           // requests of which upstream saw
}

// run adds one pull by one client and one by all, the first of which alternates.
func (c *crowd) run(ctx context.Context, y *yard, round int) error {
	for i := range 2 {
		clients, took, asks := 1, &c.one, &c.oneAsks
		if (i+round)%2 == 1 {
			clients, took, asks = crowdClients, &c.all, &c.allAsks
		}
		c.origin.ResetCounts()
		d, err := c.pull(ctx, y, clients)
		if err != nil {
			return err
		}
		*took, *asks = append(*took, d), append(*asks, len(c.origin.Requests()))
	}
	last := len(c.one) - 1
	fmt.Fprintf(os.Stderr, "%-34.34s %-22s one client %7.3f s and %d requests upstream, %d clients %7.3f s and %d\n", c.image.about, c.origin.about,
		c.one[last].Seconds(), c.oneAsks[last], crowdClients, c.all[last].Seconds(), c.allAsks[last])
	return nil
}

// pull starts a gateway and has clients pull by it at once.
func (c *crowd) pull(ctx context.Context, y *yard, clients int) (took time.Duration, err error) {
	s, err := y.gateway(ctx, c.origin)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop(), os.RemoveAll(filepath.Dir(s.log))) }()
	began := time.Now()
	if err := pullAtOnce(ctx, s.registry, c.image, clients); err != nil {
		return 0, s.fault(err)
	}
	took = time.Since(began)
	if _, err := y.verdict(ctx, s, c.image); err != nil {
		return 0, s.fault(err)
	}
	return took, c.image.fetchedOnce(c.origin.Server)
}

// pullAtOnce has clients pull an image side by side, each as if there were no other.
func pullAtOnce(ctx context.Context, r registry, img *image, clients int) error {
	g, ctx := errgroup.WithContext(ctx)
	for range clients {
		g.Go(func() error {
			_, err := pull(ctx, r, img, sideBySide)
			return err
		})
	}
	return g.Wait()
}

// A burden is one row: what clients at once add to the memory of the gateway's process.
type burden struct {
	image   *image
	clients int

	before, peak int64 // resident bytes
}

// measureMemory starts a gateway for each burden, has it pull a small image so that all
// of it was in use before, and then has the clients pull.
func measureMemory(ctx context.Context, y *yard, c *corpus) ([]*burden, error) {
	from, err := newOrigin("unshaped", 0, 0, c.small, c.light, c.heavy)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	rows := []*burden{{image: c.light, clients: 1}, {image: c.heavy, clients: 1}, {image: c.heavy, clients: memoryClients}}
	for _, b := range rows {
		if err := b.run(ctx, y, from, c.small); err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%-34.34s %d clients: %s resident before, at most %s\n", b.image.about, b.clients, size(b.before), size(b.peak))
	}
	return rows, nil
}

func (b *burden) run(ctx context.Context, y *yard, from *origin, first *image) (err error) {
	s, err := y.gateway(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(), os.RemoveAll(filepath.Dir(s.log))) }()
	if err := pullAtOnce(ctx, s.registry, first, 1); err != nil {
		return s.fault(err)
	}
	if b.before, err = resident(s.cmd.Process.Pid); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for t := time.NewTicker(sampleEvery); ctx.Err() == nil; <-t.C {
			if n, err := resident(s.cmd.Process.Pid); err == nil {
				b.peak = max(b.peak, n)
			}
		}
	})
	err = pullAtOnce(ctx, s.registry, b.image, b.clients)
	stop()
	watching.Wait()
	if err != nil {
		return s.fault(err)
	}
	return nil
}

// resident returns how much memory a process holds, without its children.
func resident(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of the gateway: %w; -only pulls and -only warm do without it", err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("memory of the gateway: /proc/%d/status does not tell", pid)
}
