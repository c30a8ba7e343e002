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
	push := func(ref, kev string, build func(sample.Options) (v1.Image, error), o sample.Options) *image {
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
	big := sample.Options{Filler: 24 << 20, FillerLayers: 7}
	s.small = push("lab/web:1", "", sample.WolfiClean, sample.Options{})
	s.big = push("lab/web-big:1", "", sample.WolfiClean, big)
	s.bad = push("lab/orders:1", "CVE-2021-44228", sample.JavaApp, sample.Options{})
	s.badBig = push("lab/orders-big:1", "CVE-2021-44228", sample.JavaApp, big)
}
