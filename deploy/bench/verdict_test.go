package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// The commands read what the clients pull, byte for byte.
func TestLayout(t *testing.T) {
	img, dir := tiny(t), t.TempDir()
	if err := img.write(dir); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
}

// Images that share layers are other images all the same.
func TestGrown(t *testing.T) {
	img := tiny(t)
	grown, err := img.grow("bench/grown")
	if err != nil {
		t.Fatal(err)
	}
	renamed, err := newImageBy("another author", "bench/renamed", "", img.layers)
	if err != nil {
		t.Fatal(err)
	}
	base := img.blobs[1].Digest
	if len(grown.blobs) != 3 || grown.blobs[1].Digest != base || len(renamed.blobs) != 2 || renamed.blobs[1].Digest != base {
		t.Errorf("%d and %d blobs", len(grown.blobs), len(renamed.blobs))
	}
	if string(renamed.manifest) == string(img.manifest) || renamed.blobs[0].Digest == img.blobs[0].Digest {
		t.Error("another author makes no other image")
	}
}

// A scrape beside a decision may have one metric and not yet the other.
func TestStepsAfter(t *testing.T) {
	decided, scrapes := 0, 0
	s := &server{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		steps := decided
		if scrapes++; scrapes == 3 {
			decided++
		}
		fmt.Fprintf(w, "# HELP sluice_scan_step_seconds …\nsluice_scan_step_seconds_bucket{step=\"match\",le=\"1\"} 9\nsluice_scan_step_seconds_sum{step=\"match\"} %d.5\n"+
			"sluice_decision_delay_seconds_sum %de-3\nsluice_decision_delay_seconds_count %d\n", steps, decided*20, decided)
	}))
	defer srv.Close()
	s.admin = srv.URL
	before, err := s.steps(t.Context())
	if err != nil || before.sums["match"] != 500*time.Millisecond {
		t.Fatal(before, err)
	}
	after, err := s.stepsAfter(t.Context(), before)
	if err != nil || after.delay != 20*time.Millisecond || after.sums["match"]-before.sums["match"] != time.Second {
		t.Errorf("%+v, %v", after, err)
	}
}

func TestStatusBytes(t *testing.T) {
	if n := statusBytes("/proc/self/status", "VmHWM"); n < 1<<20 {
		if _, err := os.Stat("/proc/self/status"); err == nil {
			t.Errorf("this process held %d bytes at most", n)
		}
	}
}

func TestVerdictReport(t *testing.T) {
	s := func(n ...float64) (out []time.Duration) {
		for _, f := range n {
			out = append(out, time.Duration(f*1e9))
		}
		return out
	}
	img := tiny(t)
	cmd := &commandRow{grype: s(8, 8, 9), syft: s(4, 4, 5), direct: s(10, 10, 10), top: 300 << 20}
	r := &report{verdicts: []*verdictRow{
		{about: "A, 200 Mbit/s", image: img, command: cmd, delay: s(2, 1, 3), pull: s(9, 9, 9), memory: 400 << 20, beside: 2, steps: map[string][]time.Duration{
			"backlog": s(.1, .1, .1), "catalogue": s(1, 1, 1), "packages": s(.6, .6, .6), "match": s(.5, .5, .5), "search": s(.2, .2, .2), "decide": s(.05, .05, .05)}},
		{about: "A under another config, after A", image: img, seen: true, command: cmd, delay: s(.02, .02, .02), pull: s(.1, .1, .1)},
	}}
	got := r.markdown()
	for _, want := range []string{
		"| A, 200 Mbit/s | **2.0 s** | **0.250** | 0.500 | 8.0 s | 4.0 s | 400 MiB | 300 MiB |",
		"| A under another config, after A | **20 ms** | **0.003** |",
		"2 worker processes",
		"| A, 200 Mbit/s | 100 | 0 | 600 | 0 | 0 | 400 | 0 | 200 | 300 | 50 | 350 |",
		"| A, 200 Mbit/s | **2.0** | 9.0 s | 18.0 s |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Count(got, "after A") != 2 {
		t.Error("an image whose layers were seen is no first pull")
	}
}
