package sbom

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/anchore/stereoscope/pkg/image"
	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/cpe"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	"github.com/anchore/syft/syft/source/stereoscopesource"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/sluicegate/sluice/scan"
)

// fresh returns a Cataloguer that remembers nothing yet.
func fresh(t testing.TB) *Cataloguer {
	t.Helper()
	if err := shared.Warm(); err != nil {
		t.Fatal(err)
	}
	c := new(Cataloguer)
	c.once.Do(func() { c.licences, c.slots = shared.licences, make(chan struct{}, 4) })
	return c
}

// by catalogues s with c.
func by(t testing.TB, c *Cataloguer, s sample) *scan.SBOM {
	t.Helper()
	sess, err := c.Begin(t.Context(), s.img, s.diffIDs, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	for i, path := range s.tars {
		if err := sess.Layer(i, path); err != nil {
			t.Fatal(err)
		}
	}
	out, err := sess.Catalogue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// plainly catalogues s with syft alone: none of this package's shorter ways.
func plainly(t testing.TB, s sample) *scan.SBOM {
	t.Helper()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fail(shared.Warm())
	dir := t.TempDir()
	p, err := newPicture(t.Context(), s.img, s.diffIDs, dir)
	fail(err)
	for i, l := range p.layers {
		fail(l.land(s.tars[i]))
	}
	img := image.New(p, nil, dir, image.WithManifest(p.img.Manifest), image.WithConfig(p.img.Config))
	defer img.Cleanup()
	fail(img.Read(shared.readContext(t.Context())))
	src := stereoscopesource.New(img, stereoscopesource.ImageConfig{Reference: p.img.Reference})
	found, err := syft.CreateSBOM(shared.catalogueContext(t.Context()), src, config())
	fail(err)
	p.files, err = src.FileResolver(config().Search.Scope)
	fail(err)
	out, err := encode(found, p, &errorList{})
	fail(err)
	return out
}

func agree(t testing.TB, what string, want, got *scan.SBOM) {
	t.Helper()
	if !bytes.Equal(want.JSON, got.JSON) {
		at := 0
		for at < min(len(want.JSON), len(got.JSON)) && want.JSON[at] == got.JSON[at] {
			at++
		}
		cut := func(b []byte) []byte { return b[max(0, min(at-200, len(b))):min(at+200, len(b))] }
		t.Errorf("%s: not the same from byte %d of %d and %d:\n-%s\n+%s", what, at, len(want.JSON), len(got.JSON), cut(want.JSON), cut(got.JSON))
	}
	a, b := *want, *got
	a.JSON, b.JSON, a.Steps, b.Steps = nil, nil, nil, nil
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

const twoDebs = "Package: alpha\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0-1\nDepends: beta (>= 1.0)\nDescription: a\n\n" +
	"Package: beta\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.0-1\nDescription: b\n\n"

// base is a small Debian with something for several cataloguers, and with links.
func base(t testing.TB) []byte {
	const sums = "d41d8cd98f00b204e9800998ecf8427e  usr/bin/alpha\nd41d8cd98f00b204e9800998ecf8427e  usr/share/alpha/data\n"
	return tarOf(t,
		entry{name: "etc/os-release", link: "../usr/lib/os-release", kind: tar.TypeSymlink},
		entry{name: "usr/lib/os-release", content: "ID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"},
		entry{name: "usr/lib/os-release.new", content: "ID=ubuntu\nVERSION_ID=\"24.04\"\nVERSION_CODENAME=noble\n"},
		entry{name: "var/lib/dpkg/status", content: twoDebs},
		entry{name: "var/lib/dpkg/info/alpha.md5sums", content: sums},
		entry{name: "var/lib/dpkg/info/alpha.list", content: "/usr/bin/alpha\n"},
		entry{name: "usr/share/doc/alpha/copyright", content: "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nFiles: *\nLicense: MIT\n"},
		entry{name: "usr/bin/alpha", content: "#!/bin/sh\n"},
		entry{name: "usr/share/alpha/data", content: "data"},
		entry{name: "srv/app/node_modules/left-pad/package.json", content: leftPad},
		entry{name: "srv/app/node_modules/odd/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "odd")},
		entry{name: "srv/current", link: "app", kind: tar.TypeSymlink},
		entry{name: "usr/lib/python3/dist-packages/thing-1.0.dist-info/METADATA", content: "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\nLicense: MIT\n"},
		entry{name: "usr/lib/python3/dist-packages/thing-1.0.dist-info/RECORD", content: "thing.py,sha256=abc,1\n"},
		entry{name: "usr/lib/python3/dist-packages/thing-1.0.dist-info/top_level.txt", content: "thing\n"},
	)
}

// private is a layer of one file that only its owner may read.
func private(t testing.TB, name, content string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o600, Typeflag: tar.TypeReg})
	_, err2 := io.WriteString(w, content)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Each upper layer changes something that a cataloguer looked at in the layer below.
// Some change what it finds, some don't; the same bytes as from syft, always.
func uppers(t testing.TB) map[string][]byte {
	whiteout := func(name string) []byte { return tarOf(t, entry{name: name}) }
	return map[string][]byte{
		"nothing":                       tarOf(t, entry{name: "hello", content: "world"}),
		"a package's file changed":      tarOf(t, entry{name: "srv/app/node_modules/left-pad/package.json", content: strings.ReplaceAll(leftPad, "1.3.0", "1.3.1")}),
		"the same bytes, in a layer up": tarOf(t, entry{name: "srv/app/node_modules/left-pad/package.json", content: leftPad}),
		"a package's file removed":      whiteout("srv/app/node_modules/left-pad/.wh.package.json"),
		"its directory removed":         whiteout("srv/app/node_modules/.wh.left-pad"),
		"an opaque directory":           tarOf(t, entry{name: "srv/app/.wh..wh..opq"}, entry{name: "srv/app/other", content: "x"}),
		"a new package":                 tarOf(t, entry{name: "opt/node_modules/more/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "more")}),
		"a file became a directory":     tarOf(t, entry{name: "srv/app/node_modules/left-pad/package.json/", kind: tar.TypeDir}),
		"a file became a link":          tarOf(t, entry{name: "srv/app/node_modules/left-pad/package.json", link: "../odd/package.json", kind: tar.TypeSymlink}),
		"a link that led elsewhere":     tarOf(t, entry{name: "etc/os-release", link: "../usr/lib/os-release.new", kind: tar.TypeSymlink}),
		"where a link leads changed":    tarOf(t, entry{name: "usr/lib/os-release", content: "ID=debian\nVERSION_ID=\"13\"\nVERSION_CODENAME=trixie\n"}),
		"a link to a directory moved":   tarOf(t, entry{name: "srv/current", link: "../opt", kind: tar.TypeSymlink}, entry{name: "opt/node_modules/x/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "x")}),
		"a directory became a link": tarOf(t, entry{name: "opt/node_modules/y/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "y")},
			entry{name: "srv/app", link: "../opt", kind: tar.TypeSymlink}),
		"a licence changed":           tarOf(t, entry{name: "usr/share/doc/alpha/copyright", content: "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nFiles: *\nLicense: GPL-2+\n"}),
		"a licence removed":           whiteout("usr/share/doc/alpha/.wh.copyright"),
		"a licence appeared":          tarOf(t, entry{name: "usr/share/doc/beta/copyright", content: "License: BSD-3-Clause\n"}),
		"a package's list appeared":   tarOf(t, entry{name: "var/lib/dpkg/info/beta.md5sums", content: "d41d8cd98f00b204e9800998ecf8427e  usr/bin/beta\n"}),
		"a package's script appeared": tarOf(t, entry{name: "var/lib/dpkg/info/beta.postinst", content: "#!/bin/sh\n"}),
		"a package installed":         tarOf(t, entry{name: "var/lib/dpkg/status", content: twoDebs + "Package: gamma\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0-1\nDescription: c\n\n"}),
		"an owned file removed":       whiteout("usr/share/alpha/.wh.data"),
		"an owned file became a link": tarOf(t, entry{name: "usr/share/alpha/data", link: "/srv/app/node_modules/odd/package.json", kind: tar.TypeSymlink}),
		"a mode changed":              private(t, "srv/app/node_modules/odd/package.json", strings.ReplaceAll(leftPad, "left-pad", "odd")),
		"a hard link":                 tarOf(t, entry{name: "opt/node_modules/h/package.json", link: "srv/app/node_modules/odd/package.json", kind: tar.TypeLink}),
		"a top level of Python":       tarOf(t, entry{name: "usr/lib/python3/dist-packages/thing-1.0.dist-info/top_level.txt", content: "thing\nother\n"}),
	}
}

// TestRemembered: an image whose base was seen before gives the bytes that syft gives,
// whatever its upper layer does to what was remembered of the base, and the other way.
func TestRemembered(t *testing.T) {
	below := base(t)
	first := sampleOf(t, "base", imageOf(t, below))
	want := plainly(t, first)
	c := fresh(t)
	agree(t, "the base", want, by(t, c, first))
	changed := 0
	for name, layer := range uppers(t) {
		s := sampleOf(t, "upper", imageOf(t, below, layer))
		plain := plainly(t, s)
		if !cmp.Equal(read(t, want.JSON), read(t, plain.JSON)) {
			changed++
		}
		alone := fresh(t)
		by(t, alone, first)
		agree(t, name+", after the base", plain, by(t, alone, s))
		agree(t, "the base, after "+name, want, by(t, alone, first))
		agree(t, name+", after many", plain, by(t, c, s))
		agree(t, name+", again", plain, by(t, c, s))
	}
	if changed < 15 {
		t.Errorf("only %d of the layers change what is found", changed)
	}
}

// TestRememberedIsUsed: what an upper layer leaves alone is not catalogued again.
func TestRememberedIsUsed(t *testing.T) {
	below, up := base(t), uppers(t)
	c := fresh(t)
	by(t, c, sampleOf(t, "base", imageOf(t, below)))
	two := sampleOf(t, "upper", imageOf(t, below, up["a new package"]))
	by(t, c, two)
	for name, want := range map[string]int{"dpkg-db-cataloger": 1, "python-installed-package-cataloger": 1,
		"javascript-package-cataloger " + two.diffIDs[0].String(): 1, "javascript-package-cataloger " + two.diffIDs[1].String(): 1} {
		if got := len(c.memo.outcomes(name)); got != want {
			t.Errorf("%s ran %d times, want %d", name, got, want)
		}
	}
	by(t, c, sampleOf(t, "other", imageOf(t, below, up["a package's file removed"])))
	o := c.memo.outcomes("javascript-package-cataloger " + two.diffIDs[0].String())
	if len(o) != 2 || len(o[0].packages) != 1 || len(o[1].packages) != 2 {
		t.Errorf("of the base, of which one of two packages was removed: %d outcomes", len(o))
	}
}

// TestAnyOrder: all images there are, in any order, several at a time, by one
// Cataloguer: the bytes that syft gives of each.
func TestAnyOrder(t *testing.T) {
	images := append(built(t), shipped(t)...)
	below := base(t)
	for _, layer := range uppers(t) {
		images = append(images, sampleOf(t, "upper", imageOf(t, below, layer)))
	}
	want := make([]*scan.SBOM, len(images))
	for i, s := range images {
		want[i] = plainly(t, s)
	}
	c := fresh(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 2 {
		var wg sync.WaitGroup
		slots := make(chan struct{}, 3)
		for _, i := range random.Perm(len(images)) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				agree(t, images[i].name, want[i], by(t, c, images[i]))
			})
		}
		wg.Wait()
	}
}

// TestWindowsIsNotRemembered: what a hard link of a Windows layer holds is up to the
// layers below it.
func TestWindowsIsNotRemembered(t *testing.T) {
	img := imageOf(t, base(t))
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS = "windows"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	c := fresh(t)
	s := sampleOf(t, "windows", img)
	agree(t, "windows", plainly(t, s), by(t, c, s))
	if len(c.memo.known) > 0 {
		t.Errorf("remembered: %v", c.memo.known)
	}
}

// opened returns the resolver of an image of the layers given.
func opened(t *testing.T, layers ...[]byte) file.Resolver {
	t.Helper()
	s := sampleOf(t, "opened", imageOf(t, layers...))
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
	img := image.New(p, nil, dir)
	t.Cleanup(func() { img.Cleanup() })
	if err := img.Read(shared.readContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	r, err := stereoscopesource.New(img, stereoscopesource.ImageConfig{}).FileResolver("squashed")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// asking is a cataloguer for tests.
type asking struct {
	runs *int
	ask  func(file.Resolver) error
}

func (asking) Name() string { return "asking" }

func (a asking) Catalog(_ context.Context, r file.Resolver) ([]pkg.Package, []artifact.Relationship, error) {
	*a.runs++
	return nil, nil, a.ask(r)
}

// unreadable is a resolver of files whose disk fails.
type unreadable struct{ file.Resolver }

type badDisk struct{ io.ReadCloser }

func (b badDisk) Read([]byte) (int, error)          { return 0, b.fail() }
func (b badDisk) ReadAt([]byte, int64) (int, error) { return 0, b.fail() }
func (b badDisk) Seek(int64, int) (int64, error)    { return 0, b.fail() }
func (badDisk) fail() error {
	return &fs.PathError{Op: "read", Path: "layer", Err: errors.New("input/output error")}
}

func (u unreadable) FileContentsByLocation(l file.Location) (io.ReadCloser, error) {
	rc, err := u.Resolver.FileContentsByLocation(l)
	return badDisk{rc}, err
}

// TestNotRemembered: an outcome that depends on more than the image's layers.
func TestNotRemembered(t *testing.T) {
	resolver := opened(t, base(t))
	aside, err := resolver.FilesByPath("/usr/bin/alpha")
	if err != nil || len(aside) != 1 {
		t.Fatal(aside, err)
	}
	open := func(r file.Resolver) error {
		l, err := r.FilesByPath("/usr/bin/alpha")
		if err != nil || len(l) != 1 {
			return fmt.Errorf("found %v, %w", l, err)
		}
		rc, err := r.FileContentsByLocation(l[0])
		if err != nil {
			return err
		}
		_, _ = io.ReadAll(rc) // as cataloguers do that hide an error
		return nil
	}
	tests := []struct {
		name string
		in   file.Resolver
		ask  func(file.Resolver) error
		runs int
	}{
		{"a file was read", resolver, open, 1},
		{"a disk failed", unreadable{resolver}, open, 2},
		{"an error was returned", resolver, func(file.Resolver) error { return errors.New("a broken file") }, 2},
		{"all files were listed", resolver, func(r file.Resolver) error {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			<-r.AllLocations(ctx)
			return nil
		}, 2},
		{"a file was opened that no answer named", resolver, func(r file.Resolver) error {
			rc, err := r.FileContentsByLocation(aside[0])
			return errors.Join(err, rc.Close())
		}, 2},
		{"a file was looked at that no answer named", resolver, func(r file.Resolver) error {
			_, err := r.FileMetadataByLocation(aside[0])
			return err
		}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var runs int
			seen := new(errorList)
			c := remembered{asking{&runs, tt.ask}, new(memo)}
			for range 2 {
				_, _, _ = c.Catalog(t.Context(), watchedResolver{tt.in, seen, new(searches)})
			}
			if runs != tt.runs {
				t.Errorf("ran %d times, want %d", runs, tt.runs)
			}
			if tt.name == "a disk failed" && len(seen.all()) == 0 {
				t.Error("the failure was not written down")
			}
		})
	}
}

// TestCopies: what is done to a copy, as syft does it, is not done to what is remembered,
// and a copy lies where it is put.
func TestCopies(t *testing.T) {
	at := func(l file.Location) file.LocationData {
		l.AccessPath = "/elsewhere" + l.AccessPath
		return l.LocationData
	}
	p := pkg.Package{Name: "p", CPEs: make([]cpe.CPE, 1, 8), Locations: file.NewLocationSet(file.NewLocation("/a").WithAnnotation("evidence", "primary"))}
	p.Licenses = pkg.NewLicenseSet(pkg.License{Value: "MIT", URLs: make([]string, 1, 8), Locations: file.NewLocationSet(file.NewLocation("/b"))})
	p.SetID()
	packages, relationships, ok := copyFound([]pkg.Package{p}, []artifact.Relationship{{From: p, To: p}}, at)
	if !ok {
		t.Fatal("not copied")
	}
	for _, q := range []pkg.Package{packages[0], relationships[0].From.(pkg.Package)} {
		if l := q.Locations.ToSlice(); len(l) != 1 || l[0].AccessPath != "/elsewhere/a" || l[0].Annotations["evidence"] != "primary" || q.ID() != p.ID() {
			t.Errorf("copied as %+v", q)
		}
		if l := q.Licenses.ToSlice()[0].Locations.ToSlice(); len(l) != 1 || l[0].AccessPath != "/elsewhere/b" {
			t.Errorf("its licence lies at %+v", l)
		}
	}
	q := packages[0]
	q.Locations.Add(file.NewLocation("/c"))
	q.Locations.ToSlice()[0].WithAnnotation("evidence", "other")
	q.Licenses.Add(pkg.License{Value: "GPL"})
	q.CPEs = append(q.CPEs, cpe.CPE{Source: "other"})
	if l := p.Locations.ToSlice(); len(l) != 1 || l[0].Annotations["evidence"] != "primary" || len(p.Licenses.ToSlice()) != 1 || p.CPEs[:2][1].Source != "" {
		t.Errorf("what was copied became %+v", p)
	}
	for name, r := range map[string]artifact.Relationship{
		"to a package that was not returned": {From: p, To: pkg.Package{Name: "other"}},
		"with data":                          {From: p, To: p, Data: "data"},
	} {
		if _, _, ok := copyFound([]pkg.Package{p}, []artifact.Relationship{r}, at); ok {
			t.Errorf("a relationship %s was copied", name)
		}
	}
}

// TestMemoIsBounded: what strangers' images hold does not fill the memory.
func TestMemoIsBounded(t *testing.T) {
	var m memo
	big := pkg.Package{Name: strings.Repeat("x", 5<<20)}
	for i := range 40 {
		m.keep(fmt.Sprint("cataloguer-", i%3), nil, []pkg.Package{big}, nil)
	}
	m.keep("huge", nil, []pkg.Package{{Name: strings.Repeat("x", maxMemoOne+1)}}, nil)
	for i := range 100 {
		m.keep("many", []step{{question: question{byPath, []string{fmt.Sprint(i)}}}}, nil, nil)
	}
	size := 0
	count := 0
	for name := range m.known {
		all := m.outcomes(name)
		if len(all) > maxTraces || len(all) == 0 {
			t.Errorf("%s: %d outcomes", name, len(all))
		}
		for _, o := range all {
			size += o.size
			count++
		}
	}
	if size != m.bytes || size > maxMemo || count != m.order.Len() || count != len(m.at) {
		t.Errorf("%d bytes of %d outcomes remembered, %d of %d and %d counted, at most %d allowed", size, count, m.bytes, m.order.Len(), len(m.at), maxMemo)
	}
	if many := m.outcomes("many"); len(m.outcomes("huge")) > 0 || len(many) != maxTraces || many[0].steps[0].what[0] != "99" {
		t.Errorf("huge %d, many %d", len(m.outcomes("huge")), len(many))
	}
}

// TestCostlyAreSyfts: the cataloguers that are remembered are all among those that syft
// chooses for an image, so that none is added; the bytes of the other tests show that
// none is lost.
func TestCostlyAreSyfts(t *testing.T) {
	s := sampleOf(t, "base", imageOf(t, base(t)))
	used := string(plainly(t, s).JSON)
	for _, c := range costly(config().Packages, nil) {
		if !strings.Contains(used, `"`+c.Name()+`"`) {
			t.Errorf("syft doesn't use %s for an image", c.Name())
		}
	}
}
