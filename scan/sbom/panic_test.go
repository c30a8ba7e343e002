package sbom

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/stereoscopesource"

	"github.com/sluicegate/sluice/scan"
)

// panicking is a source that has one cataloguer panic, wherever it is at: in a search,
// or while it parses a file.
type panicking struct {
	source.Source
	at string // a pattern, a path, a type; or where the bytes are read
}

func (p panicking) FileResolver(scope source.Scope) (file.Resolver, error) {
	r, err := p.Source.FileResolver(scope)
	return panickingResolver{r, p.at}, err
}

type panickingResolver struct {
	file.Resolver
	at string
}

func (r panickingResolver) look(at ...string) {
	if slices.ContainsFunc(at, func(s string) bool { return s == r.at }) {
		panic("a cataloguer's bug")
	}
}

func (r panickingResolver) FilesByGlob(patterns ...string) ([]file.Location, error) {
	r.look(patterns...)
	return r.Resolver.FilesByGlob(patterns...)
}

func (r panickingResolver) FilesByPath(paths ...string) ([]file.Location, error) {
	r.look(paths...)
	return r.Resolver.FilesByPath(paths...)
}

func (r panickingResolver) FilesByMIMEType(types ...string) ([]file.Location, error) {
	r.look(types...)
	return r.Resolver.FilesByMIMEType(types...)
}

func (r panickingResolver) FileContentsByLocation(l file.Location) (io.ReadCloser, error) {
	rc, err := r.Resolver.FileContentsByLocation(l)
	if err == nil && "read "+l.RealPath == r.at {
		return panickingReader{rc.(readSeekerAt)}, nil
	}
	return rc, err
}

type panickingReader struct{ readSeekerAt }

func (panickingReader) Read([]byte) (int, error) { panic("a cataloguer's bug") }

// TestPanic: a cataloguer that panics, in its search or in its parser, never leaves an
// SBOM that looks whole: there is none, or a Problem says which file was not read.
func TestPanic(t *testing.T) {
	s := sampleOf(t, "panic", imageOf(t, tarOf(t, entry{name: "etc/os-release", content: osRelease}, entry{name: "lib/apk/db/installed", content: twoApks},
		entry{name: "var/lib/dpkg/status", content: oneDeb}, entry{name: "app/node_modules/left-pad/package.json", content: leftPad},
		entry{name: "srv/gems/specifications/x.gemspec", content: "Gem::Specification.new do |s|\n s.name = \"x\"\n s.version = \"1\"\nend\n"})))
	if err := shared.Warm(); err != nil {
		t.Fatal(err)
	}
	for _, system := range []string{"linux", "windows"} { // with what is remembered, and without
		for _, at := range []string{
			"**/lib/apk/db/installed", "**/lib/dpkg/status", "**/package.json", "**/specifications/**/*.gemspec", "**/*.jar", pkg.RpmDBGlob, // of each kind of cataloguer
			"/etc/os-release", "application/x-executable",
			"read /lib/apk/db/installed", "read /var/lib/dpkg/status", "read /app/node_modules/left-pad/package.json", "read /srv/gems/specifications/x.gemspec",
		} {
			t.Run(system+" "+strings.ReplaceAll(at, "/", "-"), func(t *testing.T) {
				dir := t.TempDir()
				p, err := newPicture(t.Context(), s.img, s.diffIDs, dir)
				if err != nil {
					t.Fatal(err)
				}
				for i, l := range p.layers {
					if err := l.land(s.tars[i]); err != nil {
						t.Fatal(err)
					}
				}
				img := image.New(p, nil, dir, image.WithManifest(p.img.Manifest), image.WithConfig(p.img.Config))
				defer img.Cleanup()
				if err := img.Read(shared.readContext(t.Context())); err != nil {
					t.Fatal(err)
				}
				seen := &errorList{}
				src := watched{panicking{stereoscopesource.New(img, stereoscopesource.ImageConfig{}), at}, seen, new(searches)}
				c := Cataloguer{licences: shared.licences} // one that remembers nothing
				found, err := c.create(t.Context(), src, system)
				if err != nil {
					if !strings.Contains(err.Error(), "a cataloguer's bug") {
						t.Errorf("%v", err)
					}
					return
				}
				p.files = nil // of which nothing is asked any more
				out, err := encode(found, p, seen)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.ContainsFunc(out.Problems, func(q scan.Problem) bool { return "read "+q.Path == at }) {
					t.Errorf("%d packages, and no Problem of it: %+v", out.Packages, out.Problems)
				}
			})
		}
	}
}
