package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

func TestPullAtOnce(t *testing.T) {
	img := tiny(t)
	o := startOrigin(t, img)
	if err := pullAtOnce(context.Background(), o.direct(), img, 3); err != nil {
		t.Fatal(err)
	}
	if times, n := o.Served(img.blobs[1].Digest); times != 3 || n != 3*img.blobs[1].Size {
		t.Errorf("three clients had a layer %d times, %d bytes", times, n)
	}
	o.DeleteBlob(img.repo, img.blobs[1].Digest)
	if err := pullAtOnce(context.Background(), o.direct(), img, 3); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("without a layer: %v", err)
	}
}

func TestResident(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip(err)
	}
	if n, err := resident(os.Getpid()); err != nil || n < 1<<20 || n > 1<<36 {
		t.Errorf("this process holds %d bytes, %v", n, err)
	}
	if _, err := resident(-1); err == nil {
		t.Error("a process that there can't be holds memory")
	}
}

// A HEAD must tell the size, and a GET must bring as much.
func TestLoad(t *testing.T) {
	img := tiny(t)
	o := startOrigin(t, img)
	for _, method := range []string{"", "HEAD"} {
		for _, wrong := range []int64{0, 1} {
			l := &load{method: method, requests: 4, parallel: 2, path: func(int) string { return "manifests/" + img.tag },
				size: func(int) int64 { return int64(len(img.manifest)) + wrong }}
			c := newClient(o.direct(), img.repo)
			defer c.close()
			if _, err := c.resolve(context.Background(), img.tag); err != nil {
				t.Fatal(err)
			}
			if err := l.one(context.Background(), c, 0, make([]byte, 100)); (err == nil) != (wrong == 0) {
				t.Errorf("%s of %d bytes more: %v", method, wrong, err)
			}
		}
	}
}

func TestReportOfCrowds(t *testing.T) {
	img := tiny(t)
	r := &report{
		crowds: []*crowd{{image: img, origin: &origin{about: "unshaped"}, one: []time.Duration{2e9}, all: []time.Duration{3e9}, oneAsks: []int{7}, allAsks: []int{8}}},
		memory: []*burden{{image: img, clients: 100, before: 90 << 20, peak: 130 << 20}},
		warm:   []*load{{about: "blobs", gateway: []float64{1}, distribution: []float64{1}}},
	}
	row := &manifestLoad{about: "GET by digest"}
	for range clientsOfManifests {
		row.loads = append(row.loads, &load{gateway: []float64{300}, distribution: []float64{200}})
	}
	r.manifests = []*manifestLoad{row}
	for _, want := range []string{
		"| tiny | unshaped | **1.50** | 3.0 s | 2.0 s | 8, for one 7 |",
		"| tiny, of one layer | 100 | **40 MiB** | 90 MiB | 130 MiB |",
		"| | 1 at once | 8 at once | 50 at once |",
		"| GET by digest | **1.50** (300, 200) | **1.50** (300, 200) | **1.50** (300, 200) |",
	} {
		if got := r.markdown(); !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}
