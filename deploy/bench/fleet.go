package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	fleetClients  = 24
	fleetRequests = 3000 // a row and run
	warmPulls     = 100
	remembered    = 10_000 // images that Redis's memory is told for
)

// A fleet is what gateways that share a Redis do, and what they ask of it.
type fleet struct {
	missing string // why nothing was measured
	rows    []*fleetRow

	commands, idle float64 // that Redis ran during warmPulls, and in as long a time without
	burdens        []*redisBurden
}

// A fleetRow is how many decisions gateways make, as many by each of them.
type fleetRow struct {
	about    string
	gateways int
	shared   bool // by Redis

	rates []float64       // decisions a second, by run
	took  []time.Duration // each request of all runs
}

// A redisBurden is what one more image adds to the memory of Redis.
type redisBurden struct {
	image            *image // of which each is a variant
	packages, images int
	bytes            int64 // of all of them
}

// measureFleet starts a Redis without persistence, and gateways on it.
func measureFleet(ctx context.Context, y *yard, c *corpus, o options) (f *fleet, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return &fleet{missing: "redis-server is not installed"}, nil
	}
	f = &fleet{rows: []*fleetRow{{about: "embedded store", gateways: 1}, {about: "Redis", gateways: 1, shared: true}, {about: "Redis", gateways: 3, shared: true}}}
	r, err := startRedis(ctx, y, program)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	from, err := newOrigin("unshaped", 0, 0, c.small)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	var gateways []*server // the first has a store of its own
	for i := range 4 {
		store := ""
		if i > 0 {
			store = r.config
		}
		g, err := y.gatewayOn(ctx, from, store)
		if err != nil {
			return nil, err
		}
		defer g.stop() //nolint:errcheck // measured before
		gateways = append(gateways, g)
	}
	for _, g := range gateways {
		if _, err := pull(ctx, g.registry, c.small, sideBySide); err != nil {
			return nil, g.fault(err)
		}
		if _, err := y.verdict(ctx, g, c.small); err != nil {
			return nil, err
		}
	}
	requests := fleetRequests
	if o.quick {
		requests /= 10
	}
	for range o.runs {
		for _, row := range f.rows {
			of := gateways[:1]
			if row.shared {
				of = gateways[1 : 1+row.gateways]
			}
			if err := row.run(ctx, of, c.small, requests); err != nil {
				return nil, err
			}
		}
	}
	if err := f.roundTrips(ctx, r, gateways[1], c.small); err != nil {
		return nil, err
	}
	return f, f.fill(ctx, y, c, r, gateways[1], from, o)
}

// run asks for a manifest by digest, which is decided each time.
func (row *fleetRow) run(ctx context.Context, gateways []*server, img *image, requests int) error {
	g, ctx := errgroup.WithContext(ctx)
	path := "manifests/" + digest.FromBytes(img.manifest).String()
	took := make([]time.Duration, requests)
	began := time.Now()
	for worker := range fleetClients {
		g.Go(func() error {
			c := newClient(gateways[worker%len(gateways)].registry, img.repo)
			defer c.close()
			for n := worker; n < requests; n += fleetClients {
				sent := time.Now()
				resp, err := c.ask(ctx, http.MethodGet, path)
				if err != nil {
					return err
				}
				if _, err := drop(&bytes.Buffer{}, resp.Body); err != nil {
					return err
				}
				resp.Body.Close()
				took[n] = time.Since(sent)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("%s, %d gateways: %w", row.about, row.gateways, err)
	}
	row.rates = append(row.rates, float64(requests)/time.Since(began).Seconds())
	row.took = append(row.took, took...)
	fmt.Fprintf(os.Stderr, "%-20s %d gateways %8.0f decisions a second\n", row.about, row.gateways, row.rates[len(row.rates)-1])
	return nil
}

// roundTrips counts what Redis is asked while a gateway serves warm pulls.
func (f *fleet) roundTrips(ctx context.Context, r *redisServer, g *server, img *image) error {
	before, err := r.info("total_commands_processed")
	if err != nil {
		return err
	}
	began := time.Now()
	for range warmPulls {
		if _, err := pull(ctx, g.registry, img, sideBySide); err != nil {
			return g.fault(err)
		}
		time.Sleep(20 * time.Millisecond) // some seconds in all, so that what goes on beside them comes to a mean
	}
	took := time.Since(began)
	during, err := r.info("total_commands_processed")
	if err != nil {
		return err
	}
	time.Sleep(took)
	after, err := r.info("total_commands_processed")
	f.commands, f.idle = float64(during-before), float64(after-during)
	return err
}

// fill has a gateway pull images, and looks how much memory Redis takes for them.
func (f *fleet) fill(ctx context.Context, y *yard, c *corpus, r *redisServer, g *server, from *origin, o options) error {
	for _, b := range []*redisBurden{{image: c.small, images: smallReviewed}, {image: c.large, images: largeReviewed}} {
		if o.quick {
			b.images = max(2, b.images/20)
		}
		var before int64
		for i := range b.images + 1 { // the first brings what all of them share
			img, err := variant(b.image, i)
			if err != nil {
				return err
			}
			img.push(from.Server)
			v := &review{image: b.image}
			if err := v.pull(ctx, g, img); err != nil {
				return g.fault(err)
			}
			b.packages = v.packages
			if i > 0 {
				continue
			}
			if before, err = r.info("used_memory"); err != nil {
				return err
			}
		}
		after, err := r.info("used_memory")
		if err != nil {
			return err
		}
		b.bytes = after - before
		f.burdens = append(f.burdens, b)
		fmt.Fprintf(os.Stderr, "%-20.20s %d images take %s of Redis\n", b.image.about, b.images, size(b.bytes))
	}
	return nil
}

// A redisServer is a Redis on loopback.
type redisServer struct {
	addr   string
	config string // of a gateway that uses it
	cmd    *exec.Cmd
	log    bytes.Buffer
}

func startRedis(ctx context.Context, y *yard, program string) (*redisServer, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	keyFile := filepath.Join(y.dir, "seal.key")
	if err := os.WriteFile(keyFile, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		return nil, err
	}
	r := &redisServer{addr: addr, config: fmt.Sprintf("store: redis://%s/0\nseal_key_file: %s\n", addr, keyFile)}
	r.cmd = exec.Command(program, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", y.dir)
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := r.info("used_memory")
		if err == nil {
			return r, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("redis-server does not answer: %w\n%s", err, r.log.Bytes()), r.stop())
		}
	}
}

// info returns a number that INFO tells.
func (r *redisServer) info(field string) (int64, error) {
	conn, err := net.DialTimeout("tcp", r.addr, 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := conn.Write([]byte("INFO\r\nQUIT\r\n")); err != nil {
		return 0, err
	}
	var said bytes.Buffer
	if _, err := drop(&said, conn); err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(said.String(), "\n"+field+":")
	if !found {
		return 0, fmt.Errorf("redis-server tells no %s", field)
	}
	value, _, _ := strings.Cut(rest, "\r")
	return strconv.ParseInt(value, 10, 64)
}

func (r *redisServer) stop() error {
	_ = r.cmd.Process.Kill() // it keeps nothing
	var ended *exec.ExitError
	if err := r.cmd.Wait(); err != nil && !errors.As(err, &ended) {
		return err
	}
	return nil
}

func (r *report) writeFleet(b *strings.Builder) {
	f := r.fleet
	if f.missing != "" {
		fmt.Fprintf(b, "Gateways that share a Redis were not measured: %s.\n\n", f.missing)
		return
	}
	fmt.Fprintf(b, "Decisions on a manifest by digest, each answered to one of %d clients that ask at once; clients,\n"+
		"gateways and Redis share the machine's cores, so three gateways can't be three times as fast:\n\n", fleetClients)
	b.WriteString("| gateways | store | decisions a second | half within | 99 of 100 within |\n|--:|---|--:|--:|--:|\n")
	for _, row := range f.rows {
		fmt.Fprintf(b, "| %d | %s | **%.0f** | %s | %s |\n", row.gateways, row.about, median(row.rates), fine(median(row.took)), fine(most(row.took)))
	}
	fmt.Fprintf(b, "\nDuring %d warm pulls Redis ran %.0f commands, and in as long a time without a pull %.0f: **%.2f** for\n"+
		"each pull. Its memory for images that are known:\n\n", warmPulls, f.commands, f.idle, max(0, (f.commands-f.idle)/warmPulls))
	fmt.Fprintf(b, "| image | packages | images | memory of Redis | %d,000 images |\n|---|--:|--:|--:|--:|\n", remembered/1000)
	for _, m := range f.burdens {
		fmt.Fprintf(b, "| %s | %d | %d | %s | **%s** |\n", short(m.image.about), m.packages, m.images, size(m.bytes), size(m.bytes*remembered/int64(m.images)))
	}
	b.WriteString("\n")
}
