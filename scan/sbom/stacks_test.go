package sbom

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/layer"
)

// TestAnyStack: layers from one small lot, in stacks that repeat, reorder and hide them,
// one image after the other by one Cataloguer: the bytes that syft gives of each. So no
// image gets what was found in another with the same layers in another order, with one
// more or less, or with the same paths from other layers.
func TestAnyStack(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	c := fresh(t)
	for range 4 {
		lot := make([][]byte, 6)
		stories := make([]string, len(lot))
		for i := range lot {
			for ok := false; !ok; {
				lot[i], stories[i] = randomContents(t, rnd)
				_, ok = scannedClean(t, lot[i:i+1])
			}
		}
		for range 15 {
			var layers [][]byte
			var story string
			for range 1 + rnd.IntN(4) {
				i := rnd.IntN(len(lot))
				layers, story = append(layers, lot[i]), story+stories[i]+"--\n"
			}
			s := sampleOf(t, "stack", imageOf(t, layers...))
			got := by(t, c, s)
			got.Problems = slices.DeleteFunc(got.Problems, func(p scan.Problem) bool { return p.Kind == layer.AmbiguousLayout }) // syft tells of none
			if len(got.Problems) == 0 {
				got.Problems = nil
			}
			agree(t, story, plainly(t, s), got)
			if t.Failed() {
				return
			}
		}
	}
}

// randomContents returns a layer of things that cataloguers look for, in few places and
// few versions, with links to them and whiteouts of them.
func randomContents(t *testing.T, rnd *rand.Rand) (contents []byte, story string) {
	one := func(of ...string) string { return of[rnd.IntN(len(of))] }
	jar := func(version string) string {
		return zipOf(t, manifest("lib"), [2]string{"META-INF/maven/g/lib/pom.properties", "groupId=g\nartifactId=lib\nversion=" + version + "\n"})
	}
	version := func() string { return one("1.0.1", "1.0.2") }
	deb := "Package: alpha\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\nDescription: a\n\n"
	files := map[string]func() string{
		"etc/os-release":                  func() string { return "ID=debian\nVERSION_ID=\"" + one("12", "13") + "\"\n" },
		"var/lib/dpkg/status":             func() string { return fmt.Sprintf(deb, version()) },
		"var/lib/dpkg/status.d/alpha":     func() string { return fmt.Sprintf(deb, version()) },
		"var/lib/dpkg/info/alpha.md5sums": func() string { return "d41d8cd98f00b204e9800998ecf8427e  usr/bin/" + one("nginx", "busybox") + "\n" },
		"usr/share/doc/alpha/copyright":   func() string { return "License: " + one("MIT", "GPL-2+") + "\n" },
		"lib/apk/db/installed": func() string {
			return "P:musl\nV:" + version() + "-r0\nA:x86_64\nL:MIT\no:musl\nF:usr/bin\nR:busybox\n\n"
		},
		"app/lib.jar":                          func() string { return jar(version()) },
		"app/node_modules/a/package.json":      func() string { return `{"name":"a","version":"` + version() + `"}` },
		"app/node_modules/a/LICENSE":           func() string { return one("MIT License", "Apache License 2.0") },
		"usr/lib/python3/x.dist-info/METADATA": func() string { return "Metadata-Version: 2.1\nName: x\nVersion: " + version() + "\n" },
		"usr/lib/python3/x.dist-info/RECORD":   func() string { return one("x.py", "y.py") + ",sha256=abc,1\n" },
		"usr/lib/ruby/gems/3.2.0/specifications/a-1.gemspec": func() string {
			return "Gem::Specification.new do |s|\n s.name = \"a\"\n s.version = \"" + version() + "\"\nend\n"
		},
		"usr/bin/nginx":   func() string { return "\x7fELF\x02\x01\x01\x00\x00nginx version: nginx/" + version() + "\x00" },
		"usr/bin/busybox": func() string { return "\x7fELF\x02\x01\x01\x00\x00BusyBox v" + version() + " (2024)\x00" },
	}
	var names []string
	for n := range files {
		names = append(names, n)
	}
	var entries []entry
	for range 1 + rnd.IntN(6) {
		n := names[rnd.IntN(len(names))]
		e := entry{name: n, content: files[n]()}
		switch rnd.IntN(8) {
		case 0:
			at := strings.LastIndex(n, "/")
			e = entry{name: n[:at+1] + ".wh." + n[at+1:]}
		case 1:
			e = entry{name: n, link: "/" + names[rnd.IntN(len(names))], kind: tar.TypeSymlink}
		case 2:
			e = entry{name: one("opt", "app", "usr/bin", "var/lib/dpkg"), link: one("/app", "/opt", "/usr/bin", "/var/lib/dpkg"), kind: tar.TypeSymlink}
		case 3:
			entries = append(entries, e)
			story += fmt.Sprintf("%q\n", e)
			e = entry{name: "opt/" + n[strings.LastIndex(n, "/")+1:], link: n, kind: tar.TypeLink}
		case 4:
			e = entry{name: one("app", "usr", "var/lib/dpkg", "opt") + "/.wh..wh..opq"}
		}
		entries = append(entries, e)
		story += fmt.Sprintf("%q\n", e)
	}
	return tarOf(t, entries...), story
}
