package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// A firstPull is one row: an image, the way to its origin, and a shape of client.
type firstPull struct {
	image   *image
	origin  *origin
	shape   shape
	direct  []time.Duration
	gateway []time.Duration

	packages int
}

// run adds one pull of each kind, the first of which alternates.
func (f *firstPull) run(ctx context.Context, y *yard, round int) error {
	steps := []func(context.Context, *yard) error{f.pullDirect, f.pullThrough}
	for i := range steps {
		if err := steps[(i+round)%2](ctx, y); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "%-34.34s %-22s %-32s direct %7.3f s, gateway %7.3f s\n", f.image.about, f.origin.about, f.shape,
		f.direct[len(f.direct)-1].Seconds(), f.gateway[len(f.gateway)-1].Seconds())
	return nil
}

func (f *firstPull) pullDirect(ctx context.Context, _ *yard) error {
	f.origin.ResetCounts()
	took, err := pull(ctx, f.origin.direct(), f.image, f.shape)
	if err == nil {
		err = f.image.fetchedOnce(f.origin.Server)
	}
	f.direct = append(f.direct, took)
	return err
}

// pullThrough pulls by a gateway that was started for it.
func (f *firstPull) pullThrough(ctx context.Context, y *yard) (err error) {
	f.origin.ResetCounts()
	s, err := y.gateway(ctx, f.origin)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop(), os.RemoveAll(filepath.Dir(s.log))) }()
	took, err := pull(ctx, s.registry, f.image, f.shape)
	if err == nil {
		err = f.image.fetchedOnce(f.origin.Server)
	}
	var unfit error // says more than a pull that was cut
	f.packages, unfit = y.verdict(ctx, s, f.image)
	if err = errors.Join(err, unfit); err != nil {
		return s.fault(err)
	}
	f.gateway = append(f.gateway, took)
	return nil
}

// verdict returns how many packages the gateway found in an image, and an error unless
// its scan is complete and allows it.
func (y *yard) verdict(ctx context.Context, s *server, img *image) (int, error) {
	b, err := get(ctx, s.url+"/api/v1/verdict?image="+url.QueryEscape(img.repo+":"+img.tag))
	if err != nil {
		return 0, err
	}
	var v struct {
		Scan struct {
			State    string
			Packages int
			Coverage struct{ Problems []any }
		}
		Decision struct {
			Allow      bool
			Violations []struct{ Message string }
		}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return 0, err
	}
	if y.mode == "enforce" && (v.Scan.State != "complete" || !v.Decision.Allow) {
		return 0, fmt.Errorf("the verdict on %s is %q, violations %v, problems %v", img.repo, v.Scan.State, v.Decision.Violations, v.Scan.Coverage.Problems)
	}
	return v.Scan.Packages, nil
}
