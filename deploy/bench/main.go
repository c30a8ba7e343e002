package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// distributionVersion is what the gateway is compared with.
const distributionVersion = "3.1.2"

// The way across the internet.
const (
	bandwidth = 200e6 / 8 // bytes a second
	delay     = 20 * time.Millisecond
)

// unshaped is the way within a machine.
const unshaped = "unshaped"

// parts are what can be measured alone.
var parts = []string{"pulls", "verdict", "reevaluate", "crowd", "memory", "warm", "decisions", "fleet"}

type options struct {
	sluice, distribution string // programs
	readme               string // "" writes no file
	database             string // folder with a vulnerability.db, "" for the sample database
	only                 string // one of parts, or "" for all
	runs                 int
	quick                bool
	invented             bool
	big                  bool
}

func main() {
	var o options
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the gateway's program")
	flag.StringVar(&o.distribution, "distribution", "", "distribution's registry `program` (default: tools/registry beside sluice, installed where it is missing)")
	flag.StringVar(&o.readme, "readme", "", "`file` in which the table is written between "+opening+" and "+closing)
	flag.StringVar(&o.database, "db", "", "`folder` with a vulnerability database, in place of the sample; the gateway then warns and denies nothing")
	flag.StringVar(&o.only, "only", "", "measure one `part` alone, "+strings.Join(parts, ", ")+"; nothing is written into the README")
	flag.IntVar(&o.runs, "runs", 3, "runs of each kind")
	flag.BoolVar(&o.quick, "quick", false, "a tenth of image A and one run, to see that all works; nothing is written into the README")
	flag.BoolVar(&o.invented, "invented", false, "make image A of invented contents also where mmdebstrap could make a real one")
	flag.BoolVar(&o.big, "big", false, "pull image B too, which takes some minutes more")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if flag.NArg() > 0 || o.runs < 1 || o.only != "" && !slices.Contains(parts, o.only) {
		return fmt.Errorf("no arguments are known but flags; -runs is at least 1, -only is one of %s", strings.Join(parts, ", "))
	}
	if o.quick {
		o.runs = 1
	}
	if o.sluice, err = filepath.Abs(o.sluice); err != nil {
		return err
	}
	if _, err := os.Stat(o.sluice); err != nil {
		return fmt.Errorf("%w; run make build", err)
	}
	if o.measures("warm") {
		if o.distribution, err = findDistribution(ctx, o); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	y, err := newYard(ctx, dir, o)
	if err != nil {
		return err
	}
	c, err := newCorpus(ctx, filepath.Dir(o.sluice), o)
	if err != nil {
		return err
	}
	r, err := measure(ctx, y, c, o)
	if err != nil {
		return err
	}
	fmt.Print(r.markdown())
	if o.readme == "" || o.only != "" || o.quick {
		return nil
	}
	return publish(o.readme, r.markdown())
}

// measures reports whether a part is measured.
func (o options) measures(part string) bool { return o.only == "" || o.only == part }

// measure runs all that is asked for.
func measure(ctx context.Context, y *yard, c *corpus, o options) (r *report, err error) {
	r = &report{when: time.Now(), runs: o.runs}
	if o.measures("pulls") {
		if r.pulls, err = measurePulls(ctx, y, c, o); err != nil {
			return nil, err
		}
	}
	if o.measures("verdict") {
		if r.verdicts, err = measureVerdicts(ctx, y, c, o, r.pulls); err != nil {
			return nil, err
		}
	}
	if o.measures("reevaluate") {
		if r.reviews, err = measureReviews(ctx, y, c, o); err != nil {
			return nil, err
		}
	}
	if o.measures("crowd") {
		if r.crowds, err = measureCrowds(ctx, y, c, o); err != nil {
			return nil, err
		}
	}
	if o.measures("memory") {
		if r.memory, err = measureMemory(ctx, y, c); err != nil {
			return nil, err
		}
	}
	if o.measures("decisions") {
		if r.decisions, err = measureDecisions(ctx, o); err != nil {
			return nil, err
		}
	}
	if o.measures("fleet") {
		if r.fleet, err = measureFleet(ctx, y, c, o); err != nil {
			return nil, err
		}
	}
	if o.measures("warm") {
		if r.warm, r.manifests, err = measureWarm(ctx, y, c, o); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// measureCrowds runs the crowds over the internet, every kind once a round.
func measureCrowds(ctx context.Context, y *yard, c *corpus, o options) (rows []*crowd, err error) {
	from, err := newOrigin("200 Mbit/s, 20 ms", bandwidth, delay, c.small, c.ten)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	for _, img := range []*image{c.small, c.ten} {
		rows = append(rows, &crowd{image: img, origin: from})
	}
	for round := range o.runs {
		for _, row := range rows {
			if err := row.run(ctx, y, round); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

// measurePulls runs the first pulls, every kind once a round.
func measurePulls(ctx context.Context, y *yard, c *corpus, o options) ([]*firstPull, error) {
	images := []*image{c.small, c.ten, c.large}
	if c.big != nil {
		images = append(images, c.big)
	}
	var rows []*firstPull
	for _, way := range []struct {
		about     string
		bandwidth int64
		delay     time.Duration
	}{{"200 Mbit/s, 20 ms", bandwidth, delay}, {unshaped, 0, 0}} {
		from, err := newOrigin(way.about, way.bandwidth, way.delay, images...)
		if err != nil {
			return nil, err
		}
		defer from.Close()
		for _, img := range images {
			shapes := []shape{configFirst, sideBySide}
			if way.about == unshaped {
				shapes = shapes[1:] // they differ by round trips, of which there are none
			}
			for _, s := range shapes {
				rows = append(rows, &firstPull{image: img, origin: from, shape: s})
			}
		}
	}
	for round := range o.runs {
		for _, f := range rows {
			if err := f.run(ctx, y, round); err != nil {
				return nil, err
			}
		}
	}
	return rows, nil
}

// findDistribution returns distribution's registry, which it installs where it is not.
func findDistribution(ctx context.Context, o options) (string, error) {
	tools := filepath.Join(filepath.Dir(o.sluice), "tools")
	program := cmp.Or(o.distribution, filepath.Join(tools, "registry"))
	if _, err := os.Stat(program); err == nil || o.distribution != "" {
		return program, err
	}
	fmt.Fprintln(os.Stderr, "installing distribution", distributionVersion, "into", tools, "(some minutes, once)")
	cmd := exec.CommandContext(ctx, "go", "install", "github.com/distribution/distribution/v3/cmd/registry@v"+distributionVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+tools, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("install distribution: %w; -only pulls does without it", err)
	}
	return program, nil
}
