package sbom

import (
	"math/rand"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/scan/worker"
)

// TestDiskFull: what a worker without disk can't unpack is no fact about the image. So
// there is no SBOM, which would be remembered with what is missing in it, and a worker
// that has disk makes a whole one.
func TestDiskFull(t *testing.T) {
	filler := make([]byte, 4<<20)
	rand.New(rand.NewSource(1)).Read(filler)
	inner := zipOf(t, manifest("inner"), [2]string{"filler", string(filler)})
	layer := tarOf(t, entry{name: "etc/os-release", content: osRelease}, entry{name: "opt/app.jar", content: zipOf(t, manifest("app"), [2]string{"lib/inner.jar", inner})})
	s := sampleOf(t, "disk full", imageOf(t, layer))

	small := newPool(t, func(p *worker.Pool) { p.TempLimit = 1 << 20 })
	sess, err := small.Begin(t.Context(), s.img, s.diffIDs)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	if err := sess.Layer(0, s.tars[0]); err != nil {
		t.Fatal(err)
	}
	if got, err := sess.Catalogue(t.Context()); err == nil || !strings.Contains(err.Error(), "worker_temp") && !strings.Contains(err.Error(), "temporary space") || strings.Contains(err.Error(), small.TempDir) {
		t.Errorf("%+v, %v; want an error that says what to do", got, err)
	}
	if got := through(t, newPool(t), s); got.Packages != 2 || len(got.Problems) > 0 {
		t.Errorf("with disk: %d packages, %v", got.Packages, got.Problems)
	}
}
