package sbom

import (
	"log/slog"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan/worker"
)

// TestBehindWalls: what keeps a worker from the machine keeps no cataloguer from an
// image: real images give the same behind the walls as without.
func TestBehindWalls(t *testing.T) {
	images := shipped(t)
	if len(images) == 0 {
		t.Skip("no real images are at hand: name some in SLUICE_TEST_ROOTFS")
	}
	p := &worker.Pool{Command: []string{os.Args[0]}, Env: []string{childVar + "=1"}, Size: 1, TempDir: t.TempDir(),
		Read: []string{os.TempDir()}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	t.Cleanup(func() { p.Close() })
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log(p.Walls())
	for _, s := range images {
		t.Run(s.name, func(t *testing.T) {
			want, got := catalogue(t, s, nil), through(t, p, s)
			if diff := cmp.Diff(read(t, want.JSON), read(t, got.JSON)); diff != "" {
				t.Errorf("-here +behind walls:\n%.4000s", diff)
			}
			if diff := cmp.Diff(want.Problems, got.Problems); diff != "" {
				t.Errorf("-here +behind walls:\n%s", diff)
			}
		})
	}
}
