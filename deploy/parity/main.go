package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

type options struct {
	sluice, syft, grype string // programs
	data                string // folder of images, a database and golden lists; not all of it need be there
	dir                 string // what is kept from run to run, and the images to look at
	only                string // names of images, as a regular expression
	quick               bool
	jobs                int
}

func main() {
	var o options
	flag.StringVar(&o.sluice, "sluice", "bin/sluice", "the gateway's program")
	flag.StringVar(&o.syft, "syft", "bin/tools/syft", "the syft `command`, of the version in go.mod")
	flag.StringVar(&o.grype, "grype", "bin/tools/grype", "the grype `command`, of the version in go.mod")
	flag.StringVar(&o.data, "data", "../shared/data", "`folder` with images, golden and db; without it the sample database is taken")
	flag.StringVar(&o.dir, "dir", "bin/parity", "`folder` for what is kept from run to run")
	flag.StringVar(&o.only, "only", "", "compare images whose name matches this `expression`")
	flag.BoolVar(&o.quick, "quick", false, "only images that are made in a moment, without Debian's mirror and npm")
	flag.IntVar(&o.jobs, "jobs", 2, "images at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "parity:", err)
		os.Exit(1)
	}
}

// errDifferent is what a run that found a difference ends with.
var errDifferent = errors.New("not everything is equal")

func run(ctx context.Context, o options) (err error) {
	wanted, err := regexp.Compile(o.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	for _, p := range []*string{&o.sluice, &o.syft, &o.grype, &o.dir, &o.data} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	for _, p := range []string{o.sluice, o.syft, o.grype} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("%w; run make parity", err)
		}
	}
	work, err := os.MkdirTemp("", "sluice-parity-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	database := filepath.Join(o.data, "db")
	if _, err := os.Stat(database); err != nil {
		database = ""
	}
	p, err := newPipeline(ctx, work, o.sluice, database, o.jobs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()

	home := filepath.Join(work, "home")
	if err := os.Mkdir(home, 0o755); err != nil {
		return err
	}
	c := &comparison{
		pipeline: p,
		commands: &commands{syft: o.syft, grype: o.grype, dir: home},
		pantry:   &pantry{dir: o.dir, data: o.data, sluice: o.sluice},
	}
	rows, err := c.all(ctx, o, wanted)
	if err != nil {
		return err
	}
	report(os.Stdout, rows, database == "")
	compared := 0
	for _, r := range rows {
		if r.different() {
			return errDifferent
		}
		if r.missing == "" {
			compared++
		}
	}
	if compared == 0 {
		return errors.New("no image was compared")
	}
	fmt.Printf("\n%d images are equal, %d could not be made, %d were not asked for.\n", compared, len(rows)-compared, len(corpus())-len(rows))
	return nil
}

// all compares all images, some at once.
func (c *comparison) all(ctx context.Context, o options, wanted *regexp.Regexp) ([]*result, error) {
	var rows []*result
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(o.jobs, 1))
	for _, s := range corpus() {
		if o.quick && s.slow || !wanted.MatchString(s.name) {
			continue
		}
		r := &result{subject: s}
		rows = append(rows, r)
		g.Go(func() error {
			s.layout = filepath.Join(o.dir, "images", s.name)
			begun := time.Now()
			err := c.one(ctx, r)
			if errors.Is(err, errMissing) {
				r.missing = err.Error()
				return nil
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s compared in %.1f s\n", s.name, time.Since(begun).Seconds())
			return nil
		})
	}
	return rows, g.Wait()
}
