package sbom

import (
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/sluicegate/sluice/scan/hostile"
)

// FuzzRun: images with /var/run as a link to /run, and layers that put things below one
// or the other. Where nothing is told of them, what a runtime that unpacks onto the tree
// so far has is among what the scanner sees, under one of the two names.
func FuzzRun(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	old := syscall.Umask(0)
	f.Cleanup(func() { syscall.Umask(old) })
	f.Fuzz(func(t *testing.T, seed uint64) {
		layers, story := layersOfRun(rand.New(rand.NewPCG(seed, 2)))
		seen, ok := scannedClean(t, layers)
		if !ok {
			return
		}
		for name, unpack := range map[string]func(*testing.T, [][]byte) (tree, error){"native": unpackNative, "overlayfs": unpackOverlay} {
			got, err := unpack(t, layers)
			if err != nil {
				continue
			}
			for p, what := range got {
				other := path.Join("/var", p)
				if !strings.HasPrefix(p, "/run") {
					other = strings.TrimPrefix(p, "/var")
				}
				if strings.HasPrefix(what, "file ") && seen[p] != what && seen[other] != what {
					t.Errorf("%s\n%s has %s at %s\nthe scanner  %q", story, name, what, p, seen)
				}
			}
		}
	})
}

// layersOfRun returns two to four layers, and what is in them.
func layersOfRun(rnd *rand.Rand) (layers [][]byte, story string) {
	one := func(of ...string) string { return of[rnd.IntN(len(of))] }
	base := new(hostile.Tar).Dir("var/").Symlink("var/run", one("/run", "../run", "../run/")).Dir("lib/").File("lib/f", "base")
	if rnd.IntN(2) == 0 {
		base.Dir("run/").File("run/f", "base")
	}
	if rnd.IntN(4) == 0 {
		base.Symlink(one("run", "run/d"), one("lib", "/lib"))
	}
	layers = [][]byte{base.End()}
	for i := range 1 + rnd.IntN(3) {
		var b hostile.Tar
		for j := range 1 + rnd.IntN(3) {
			n := one("var/run/", "var/run/", "run/", "var/run/d/") + one("f", "g")
			switch what := one("file", "file", "file", "dir", "symlink", "whiteout", "opaque"); what {
			case "file":
				b.File(n, fmt.Sprint(i, j))
				story += fmt.Sprintln("layer", i, what, n)
			case "dir":
				n = one("var/", "var/run/", "run/", "var/run/d/")
				b.Dir(n)
				story += fmt.Sprintln("layer", i, what, n)
			case "symlink":
				n = one("run", "var/run", "var", "var/run/d")
				to := one("/lib", "/run", "../run", "/var/run")
				b.Symlink(n, to)
				story += fmt.Sprintln("layer", i, what, n, to)
			case "whiteout":
				n = one(".wh.run", "var/.wh.run", ".wh.var", "run/.wh.f", "var/run/.wh.f", "var/run/.wh.d")
				b.File(n, "")
				story += fmt.Sprintln("layer", i, what, n)
			case "opaque":
				n = one("run/", "var/run/", "var/") + ".wh..wh..opq"
				b.File(n, "")
				story += fmt.Sprintln("layer", i, what, n)
			}
		}
		layers = append(layers, b.End())
	}
	return layers, story
}
