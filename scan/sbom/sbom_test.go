package sbom

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	_ "github.com/glebarez/sqlite" // as in the binary, where grype registers it: the rpm cataloguer reads with it

	"github.com/sluicegate/sluice/scan"
)

// shared is one Cataloguer for all tests: its licence scanner is slow to build.
var shared Cataloguer

// A sample is an image both as syft would find it and as a session gets it.
type sample struct {
	name    string
	v1      v1.Image
	img     scan.Image
	diffIDs []digest.Digest
	tars    []string
}

// entry is one entry of a test's layer.
type entry struct {
	name, content, link string
	kind                byte
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Size: int64(len(e.content)), Linkname: e.link, Mode: 0o755, Typeflag: e.kind, ModTime: time.Unix(1e9, 0)}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// imageOf makes an image of uncompressed layers.
func imageOf(t testing.TB, layers ...[]byte) v1.Image {
	t.Helper()
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	for _, b := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func sampleOf(t testing.TB, name string, img v1.Image) sample {
	t.Helper()
	s := sample{name: name, v1: img}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	s.img.Manifest, err = img.RawManifest()
	must(err)
	s.img.Config, err = img.RawConfigFile()
	must(err)
	s.img.Digest = digest.FromBytes(s.img.Manifest)
	s.img.Reference = "example.org/" + strings.ToLower(name) + ":1"
	mt, err := img.MediaType()
	must(err)
	s.img.MediaType = string(mt)
	var m ocispec.Manifest
	must(json.Unmarshal(s.img.Manifest, &m))
	s.img.Layers = m.Layers
	layers, err := img.Layers()
	must(err)
	for i, l := range layers {
		h, err := l.DiffID()
		must(err)
		s.diffIDs = append(s.diffIDs, digest.Digest(h.String()))
		r, err := l.Uncompressed()
		must(err)
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		f, err := os.Create(path)
		must(err)
		_, err = io.Copy(f, r)
		must(err)
		must(f.Close())
		s.tars = append(s.tars, path)
	}
	return s
}

// found is what two ways to catalogue must agree on.
type found struct {
	Distro        string
	Packages      []string
	Relationships []string
}

// read takes a found out of syft JSON. Relations to and from files are left out, all
// but ownership: they say what files were catalogued, which a verdict doesn't need.
func read(t *testing.T, doc []byte) found {
	t.Helper()
	var d struct {
		Artifacts             []json.RawMessage
		ArtifactRelationships []struct {
			Parent, Child, Type string
			Metadata            json.RawMessage
		}
		Distro json.RawMessage
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	out := found{Distro: string(d.Distro)}
	ids := map[string]bool{}
	for _, a := range d.Artifacts {
		var id struct{ ID string }
		if err := json.Unmarshal(a, &id); err != nil {
			t.Fatal(err)
		}
		ids[id.ID] = true
		out.Packages = append(out.Packages, string(a))
	}
	for _, r := range d.ArtifactRelationships {
		if !ids[r.Child] {
			continue
		}
		out.Relationships = append(out.Relationships, strings.Join([]string{r.Parent, r.Type, r.Child, string(r.Metadata)}, " "))
	}
	slices.Sort(out.Packages)
	slices.Sort(out.Relationships)
	return out
}

// command catalogues as the syft command does, with the settings of the grype command
// and with its files: from an OCI layout on disk.
func command(t *testing.T, s sample) found {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(s.v1); err != nil {
		t.Fatal(err)
	}
	if err := shared.Warm(); err != nil {
		t.Fatal(err)
	}
	ctx := withValues{t.Context(), shared.licences}
	src, err := syft.GetSource(ctx, dir, syft.DefaultGetSourceConfig().WithSources("oci-dir"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	cfg := syft.DefaultCreateSBOMConfig()
	cfg.Packages.Golang = cfg.Packages.Golang.WithCaptureSymbols(cataloging.SymbolScopeAll)
	cfg.Compliance.MissingVersion = cataloging.ComplianceActionDrop
	doc, err := syft.CreateSBOM(ctx, src, cfg)
	if err != nil {
		t.Fatal(err)
	}
	out, err := encode(doc, &picture{}, &errorList{})
	if err != nil {
		t.Fatal(err)
	}
	return read(t, out.JSON)
}

// catalogue lands the layers in the order given, all at once where it is nil.
func catalogue(t *testing.T, s sample, order []int) *scan.SBOM {
	t.Helper()
	dir := t.TempDir()
	sess, err := shared.Begin(t.Context(), s.img, s.diffIDs, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	var wg sync.WaitGroup
	for i := range s.tars {
		if order != nil {
			if err := sess.Layer(order[i], s.tars[order[i]]); err != nil {
				t.Fatal(err)
			}
			continue
		}
		wg.Go(func() {
			if err := sess.Layer(i, s.tars[i]); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	out, err := sess.Catalogue(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind in the temporary directory: %v", left)
	}
	return out
}

const (
	apkInstalled = "C:Q1p78yvTLG094tHE1+dToJGbmYzQE=\nP:musl\nV:1.2.3-r4\nA:x86_64\nS:383152\nI:622592\nT:the musl c library\nU:https://musl.libc.org/\nL:MIT\no:musl\nF:lib\nR:libc.musl-x86_64.so.1\n\n"
	osRelease    = "ID=wolfi\nNAME=\"Wolfi\"\nVERSION_ID=\"20230201\"\n"
	twoApks      = apkInstalled + "C:Q1p78yvTLG094tHE1+dToJGbmYzQF=\nP:zlib\nV:1.3-r0\nA:x86_64\nS:1\nI:1\nT:zlib\nU:https://zlib.net\nL:Zlib\no:zlib\nD:musl\nF:lib\nR:libz.so.1\n\n"
	leftPad      = `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`
)

// built returns images made for this test: what only several layers can show.
func built(t testing.TB) []sample {
	base := tarOf(t, entry{name: "etc/os-release", content: osRelease}, entry{name: "lib/apk/db/installed", content: twoApks},
		entry{name: "app/node_modules/left-pad/package.json", content: leftPad}, entry{name: "app/node_modules/gone/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "gone")},
		entry{name: "srv/node_modules/hidden/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "hidden")})
	upper := tarOf(t, entry{name: "app/node_modules/.wh.gone"}, entry{name: "srv/node_modules/.wh..wh..opq"},
		entry{name: "srv/node_modules/new/package.json", content: strings.ReplaceAll(leftPad, "left-pad", "new")},
		entry{name: "lib/apk/db/installed", content: apkInstalled})
	links := tarOf(t, entry{name: "opt/current", link: "/app", kind: tar.TypeSymlink}, entry{name: "loop", link: "loop", kind: tar.TypeSymlink},
		entry{name: "dangling", link: "/nowhere", kind: tar.TypeSymlink}, entry{name: "etc/again", link: "etc/os-release", kind: tar.TypeLink})
	broken := tarOf(t, entry{name: "app/node_modules/left-pad/test/broken/package.json", content: "{"}, entry{name: "usr/bin/tool", content: "\x7fELF" + strings.Repeat("x", 500)})
	return []sample{
		sampleOf(t, "whiteouts", imageOf(t, base, upper)),
		sampleOf(t, "links", imageOf(t, base, links, upper, broken)),
		sampleOf(t, "empty-layer", imageOf(t, base, tarOf(t))),
		sampleOf(t, "same-layer-twice", imageOf(t, base, upper, base)),
		sampleOf(t, "no-layers", imageOf(t)),
	}
}

// shipped returns the sample images of the shared data, where there are any.
func shipped(t testing.TB) []sample {
	dir := filepath.Join("..", "..", "..", "shared", "data", "images")
	paths, err := filepath.Glob(filepath.Join(dir, "*.tar*"))
	if err != nil {
		t.Fatal(err)
	}
	if extra := os.Getenv("SLUICE_TEST_ROOTFS"); extra != "" {
		paths = append(paths, filepath.SplitList(extra)...)
	}
	var out []sample
	for _, p := range paths {
		name, _, _ := strings.Cut(filepath.Base(p), ".tar")
		if img, err := tarball.ImageFromPath(p, nil); err == nil {
			out = append(out, sampleOf(t, name, img))
			continue
		}
		out = append(out, sampleOf(t, name, imageOf(t, plain(t, p))))
	}
	return out
}

// plain returns the bytes of a file, uncompressed where it is called .xz.
func plain(t testing.TB, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := io.Reader(f)
	if strings.HasSuffix(path, ".xz") {
		if r, err = xz.NewReader(f); err != nil {
			t.Fatal(err)
		}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEqualToSyft(t *testing.T) {
	images := append(built(t), shipped(t)...)
	for _, s := range images {
		t.Run(s.name, func(t *testing.T) {
			want := command(t, s)
			orders := [][]int{nil}
			if len(s.tars) > 1 {
				orders = append(orders, rand.New(rand.NewPCG(1, 2)).Perm(len(s.tars)))
			}
			for _, order := range orders {
				got := catalogue(t, s, order)
				if diff := cmp.Diff(want, read(t, got.JSON)); diff != "" {
					t.Errorf("order %v (-syft +ours):\n%s", order, diff)
				}
				if len(got.Problems) > 0 {
					t.Errorf("problems: %+v", got.Problems)
				}
				if got.Packages != len(want.Packages) {
					t.Errorf("counted %d packages of %d", got.Packages, len(want.Packages))
				}
			}
			t.Logf("%d packages, %d relationships", len(want.Packages), len(want.Relationships))
		})
	}
	if len(images) == len(built(t)) {
		t.Skip("no sample images in ../shared/data/images: compared only images made here")
	}
}

// TestNoCopy pins the name under which stereoscope looks for an uncompressed layer:
// were it another, each layer would be copied once more.
func TestNoCopy(t *testing.T) {
	s := built(t)[0]
	p, err := newPicture(t.Context(), s.img, s.diffIDs, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range p.layers {
		if err := l.land(s.tars[i]); err != nil {
			t.Fatal(err)
		}
		l.path = filepath.Join(t.TempDir(), "a copy would be made of this")
	}
	dir := filepath.Dir(p.layers[0].link)
	shared.Warm()
	if _, err := shared.catalogue(t.Context(), p, dir); err != nil {
		t.Fatal(err)
	}
}

func TestCancel(t *testing.T) {
	s := built(t)[0]
	tests := []struct {
		name string
		end  func(cancel func(), close func() error)
		want error
	}{
		{"the session's context ends", func(cancel func(), _ func() error) { cancel() }, context.Canceled},
		{"closed", func(_ func(), close func() error) { close() }, errClosed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			sess, err := shared.Begin(ctx, s.img, s.diffIDs, dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := sess.Layer(1, s.tars[1]); err != nil { // layer 0 never lands
				t.Fatal(err)
			}
			tt.end(cancel, sess.Close)
			if got, err := sess.Catalogue(t.Context()); !errors.Is(err, tt.want) || got != nil {
				t.Errorf("Catalogue: %v, %v, want %v", got, err, tt.want)
			}
			shared.Wait()
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestCancelInCatalogue ends the session while its cataloguers work: never a part of
// an SBOM without an error.
func TestCancelInCatalogue(t *testing.T) {
	s := built(t)[0]
	if err := shared.Warm(); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond} {
		ctx, cancel := context.WithCancel(t.Context())
		sess, err := shared.Begin(ctx, s.img, s.diffIDs, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range s.tars {
			if err := sess.Layer(i, p); err != nil {
				t.Fatal(err)
			}
		}
		stop := time.AfterFunc(after, cancel)
		got, err := sess.Catalogue(t.Context())
		stop.Stop()
		if err == nil && got.Packages != 3 {
			t.Errorf("cancelled after %v: %d packages and no error", after, got.Packages)
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after %v: %v", after, err)
		}
		cancel()
	}
	shared.Wait()
}

func TestBadLayers(t *testing.T) {
	s := built(t)[0]
	for name, content := range map[string]string{"no tar": strings.Repeat("no tar at all ", 100), "cut": string(tarOf(t, entry{name: "a", content: strings.Repeat("x", 4000)})[:1024])} {
		t.Run(name, func(t *testing.T) {
			sess, err := shared.Begin(t.Context(), s.img, s.diffIDs, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer sess.Close()
			path := filepath.Join(t.TempDir(), "layer")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(sess.Layer(0, path), sess.Layer(1, s.tars[1])); err != nil {
				t.Fatal(err)
			}
			if got, err := sess.Catalogue(t.Context()); err == nil {
				t.Errorf("no error, %d packages", got.Packages)
			}
		})
	}
}

// TestProblems: a package database that can't be read is never passed over.
func TestProblems(t *testing.T) {
	layer := tarOf(t, entry{name: "etc/os-release", content: osRelease},
		entry{name: "lib/apk/db/installed", content: apkInstalled + "P:broken\nV:1\na line without a field\nR:\x00\n"},
		entry{name: "opt/app.jar", content: "PK\x03\x04 and nothing of a zip file behind it"})
	s := sampleOf(t, "problems", imageOf(t, layer))
	got := catalogue(t, s, nil)
	paths := map[string]bool{}
	for _, p := range got.Problems {
		paths[p.Path] = true
		if p.Layer != s.img.Layers[0].Digest {
			t.Errorf("%s: layer %q", p.Path, p.Layer)
		}
	}
	if want := map[string]bool{"/lib/apk/db/installed": true, "/opt/app.jar": true}; !cmp.Equal(want, paths) {
		t.Errorf("problems: %+v", got.Problems)
	}
}

func TestRecipe(t *testing.T) {
	v, hash, err := Recipe()
	if err != nil {
		t.Fatal(err)
	}
	if v == "unknown" || v == "" {
		t.Errorf("syft's version is %q: keys would not change with it", v)
	}
	if _, again, _ := Recipe(); again != hash {
		t.Errorf("hash %s, then %s", hash, again)
	}
}
