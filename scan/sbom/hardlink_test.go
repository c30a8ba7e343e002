package sbom

import (
	"bytes"
	"testing"

	"github.com/sluicegate/sluice/scan/hostile"
)

// TestHardLinkOutlivesItsTarget: a package database that is a hard link keeps what it was
// made of, when a later layer changes, removes or hides the name that it was made from.
func TestHardLinkOutlivesItsTarget(t *testing.T) {
	below := new(hostile.Tar).Dir("etc/").File("etc/os-release", "ID=wolfi\nVERSION_ID=\"1\"\n").Dir("x/").File("x/f", hostile.Package("2.37-r1")).
		Dir("lib/").Dir("lib/apk/").Dir("lib/apk/db/").Link(hostile.Installed, "x/f").End()
	for name, above := range map[string]*hostile.Tar{
		"changed":          new(hostile.Tar).Dir("x/").File("x/f", hostile.Package("2.40-r1")),
		"removed":          new(hostile.Tar).Dir("x/").File("x/.wh.f", ""),
		"hidden":           new(hostile.Tar).Dir("x/").File("x/.wh..wh..opq", ""),
		"a link by now":    new(hostile.Tar).Dir("x/").Symlink("x/f", "/dev/null"),
		"a directory":      new(hostile.Tar).Dir("x/").Dir("x/f/"),
		"gone with it all": new(hostile.Tar).File(".wh.x", ""),
	} {
		t.Run(name, func(t *testing.T) {
			s := sampleOf(t, name, imageOf(t, below, above.End()))
			got := by(t, fresh(t), s)
			if !bytes.Contains(got.JSON, []byte(`"name":"glibc","version":"2.37-r1"`)) || got.Packages != 1 || len(got.Problems) > 0 {
				t.Errorf("%d packages in %s, problems %v", got.Packages, got.JSON, got.Problems)
			}
		})
	}
}
