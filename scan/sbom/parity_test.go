package sbom

import (
	"testing"

	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/google/go-cmp/cmp"
)

// A Go program that knows the mark of .NET's bundles, as every program with syft in it
// does, was taken for a bundle that could not be read, and its image refused.
func TestGoProgramIsNoBundle(t *testing.T) {
	const bundle = "dotnet-deps-binary-cataloger: embedded deps.json of 80413376830 bytes is past the 3145728 byte limit"
	program := file.Coordinates{RealPath: "/usr/bin/scanner", FileSystemID: "sha256:a"}
	below := file.Coordinates{RealPath: "/usr/bin/scanner", FileSystemID: "sha256:b"}
	other := file.Coordinates{RealPath: "/app/service", FileSystemID: "sha256:a"}
	module := pkg.Package{Name: "example.org/scanner", Version: "v1", Type: pkg.GoModulePkg, Locations: file.NewLocationSet(file.NewLocationFromCoordinates(program))}
	module.SetID()
	found := &syftsbom.SBOM{Artifacts: syftsbom.Artifacts{
		Packages: pkg.NewCollection(module),
		Unknowns: map[file.Coordinates][]string{
			program: {bundle, "go-module-binary-cataloger: unreadable"},
			below:   {bundle},
			other:   {bundle},
		},
	}}
	var got []string
	for _, p := range problems(believed(found), nil, nil) {
		got = append(got, p.Path+" "+p.Detail)
	}
	want := []string{other.RealPath + " " + bundle, below.RealPath + " " + bundle, program.RealPath + " go-module-binary-cataloger: unreadable"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := len(found.Artifacts.Unknowns[program]); n != 2 {
		t.Errorf("the SBOM's own list was changed: %d", n)
	}
}
