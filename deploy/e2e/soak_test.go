//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// soakRate is how many rounds of requests a second the soak makes.
const soakRate = 4

// A soak is a gateway under a steady load for as long as SLUICE_SOAK says, beside the other
// stories.
type soak struct {
	g       *gateway
	done    chan struct{}
	samples []footprint
	rounds  int
	wrong   []string
}

// A footprint is what a gateway's process takes, right after a garbage collection.
type footprint struct {
	at                      time.Duration
	heap, goroutines, files float64
}

// beginSoak starts the soak, and returns nil where none is asked for.
func (s *scene) beginSoak(t *testing.T) *soak {
	long, err := time.ParseDuration(os.Getenv("SLUICE_SOAK"))
	if err != nil {
		return nil
	}
	own := s.apart(t, fronts-1) // which no other story has
	k := &soak{g: own.newGateway(t, "gate: {tag_ttl: 1s}"), done: make(chan struct{})}
	k.g.start(t)
	ctx, cancel := context.WithTimeout(context.Background(), long)
	t.Cleanup(func() { cancel(); <-k.done })
	go func() {
		defer close(k.done)
		k.run(ctx, own)
	}()
	return k
}

func (k *soak) run(ctx context.Context, s *scene) {
	start, next := time.Now(), time.Now()
	limit := rate.NewLimiter(soakRate, 1)
	for limit.Wait(ctx) == nil {
		k.round(s)
		if k.rounds++; time.Now().After(next) {
			k.samples = append(k.samples, k.measure(time.Since(start)))
			next = time.Now().Add(10 * time.Second)
		}
	}
}

// round asks what clients ask: a tag, its manifest, config and layers, an image that is
// denied, one that isn't there, a part of a layer by one who hangs up, a verdict, a list.
func (k *soak) round(s *scene) {
	repo := "/v2/" + s.small.repo()
	for _, ask := range []struct {
		path string
		want int
		read int64 // bytes, -1 for all
	}{
		{repo + "/manifests/1", 200, -1}, {repo + "/manifests/" + s.small.manifest.String(), 200, -1},
		{repo + "/blobs/" + s.small.config.String(), 200, -1}, {repo + "/blobs/" + s.small.layers[0].String(), 200, -1},
		{repo + "/blobs/" + s.small.layers[0].String(), 200, 1000},
		{"/v2/" + s.bad.repo() + "/manifests/" + s.bad.manifest.String(), 403, -1},
		{repo + "/manifests/none", 404, -1}, {repo + "/tags/list", 200, -1},
		{"/api/v1/verdict?image=" + s.small.ref, 200, -1},
	} {
		status, err := k.ask(ask.path, ask.read)
		if (err != nil || status != ask.want) && len(k.wrong) < 10 && k.rounds > 8*soakRate { // until then the images are new
			k.wrong = append(k.wrong, fmt.Sprintf("round %d, %s: %d, %v, want %d", k.rounds, ask.path, status, err, ask.want))
		}
	}
}

func (k *soak) ask(path string, read int64) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.g.url+path, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if read < 0 {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		_, err = io.CopyN(io.Discard, resp.Body, read)
	}
	return resp.StatusCode, err
}

func (k *soak) measure(at time.Duration) footprint {
	k.g.get("/debug/pprof/heap?gc=1")
	return footprint{at, k.g.metric("go_memstats_heap_inuse_bytes"), k.g.metric("go_goroutines"), k.g.metric("process_open_fds")}
}

// flat waits for the soak's end, and wants memory, goroutines and open files in its last
// minute to be what they were in its second.
func (k *soak) flat(t *testing.T) {
	<-k.done
	for _, w := range k.wrong {
		t.Error(w)
	}
	end := k.samples[len(k.samples)-1].at
	if end < 3*time.Minute {
		t.Fatalf("the soak lasted %s only", end)
	}
	early := k.median(time.Minute, 2*time.Minute)
	late := k.median(end-time.Minute, end)
	t.Logf("%d rounds in %s; heap %.1f and %.1f MiB, goroutines %.0f and %.0f, open files %.0f and %.0f", k.rounds, end.Round(time.Second),
		early.heap/(1<<20), late.heap/(1<<20), early.goroutines, late.goroutines, early.files, late.files)
	for _, m := range []struct {
		what        string
		early, late float64
		slack       float64
	}{{"heap", early.heap, late.heap, 8 << 20}, {"goroutines", early.goroutines, late.goroutines, 10}, {"open files", early.files, late.files, 10}} {
		if m.late > 1.1*m.early+m.slack {
			t.Errorf("%s grew from %.0f to %.0f", m.what, m.early, m.late)
		}
	}
}

// median returns the medians of the samples from a time to another.
func (k *soak) median(from, to time.Duration) footprint {
	middle := func(of func(footprint) float64) float64 {
		var vs []float64
		for _, s := range k.samples {
			if s.at >= from && s.at <= to {
				vs = append(vs, of(s))
			}
		}
		if len(vs) == 0 {
			return 0
		}
		slices.Sort(vs)
		return vs[len(vs)/2]
	}
	return footprint{0, middle(func(s footprint) float64 { return s.heap }), middle(func(s footprint) float64 { return s.goroutines }), middle(func(s footprint) float64 { return s.files })}
}
