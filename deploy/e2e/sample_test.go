//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/sluicegate/sluice/proxy/proxytest/sample"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// sampleDatabase builds a database of the advisories that the project carries.
func sampleDatabase(t *testing.T, dir string) string {
	t.Helper()
	db, err := sampledb.Build(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return db.Dir
}

// sampleImages pushes images like those of `sluice demo`.
func (s *scene) sampleImages(t *testing.T) {
	t.Helper()
	s.small = s.sample(t, "lab/web:1", "", sample.WolfiClean, sample.Options{})
	s.big = s.sample(t, "lab/web-big:1", "", sample.WolfiClean, sample.Options{Filler: 40 << 20, FillerLayers: 9})
	s.bad = s.sample(t, "lab/orders:1", "CVE-2021-44228", sample.JavaApp, sample.Options{})
}

// bigImages pushes the denied images that are to be stopped in the middle.
func (s *scene) bigImages(t *testing.T) {
	t.Helper()
	o := sample.Options{Filler: 40 << 20, FillerLayers: 9, Seed: 1}
	s.badBig = s.sample(t, "lab/orders-big:1", "CVE-2021-44228", sample.JavaApp, o)
	o.Seed = 2
	s.badLate = s.sample(t, "lab/orders-late:1", "CVE-2021-44228", sample.JavaApp, o)
}

func (s *scene) sample(t *testing.T, ref, kev string, build func(sample.Options) (v1.Image, error), o sample.Options) *image {
	t.Helper()
	img, err := build(o)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.dir, "samples", strings.NewReplacer("/", "-", ":", "-").Replace(ref))
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	must(t, "crane", "push", "--insecure", dir, s.back+"/"+ref)
	return s.add(ref, kev)
}
