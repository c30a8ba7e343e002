package vuln

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"

	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/sbom"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// cataloguer is one for all tests: its licence scanner is slow to build.
var cataloguer sbom.Cataloguer

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// data returns the directory of real images, databases and golden lists that lies
// beside the repository.
func data(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	check(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(filepath.Dir(dir), "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no real data: %s is not there", dir)
	}
	return dir
}

// realDatabase unpacks the real database.
func realDatabase(t testing.TB) scan.Database {
	t.Helper()
	d := &Databases{Root: t.TempDir(), MaxAge: 1e6 * time.Hour}
	db, err := d.Import(t.Context(), filepath.Join(data(t), "db"))
	check(t, err)
	return db
}

// first is the sample database that all others are copied from, in a folder that TestMain
// removes.
var first = sync.OnceValues(func() (scan.Database, error) {
	dir, err := os.MkdirTemp("", "sample")
	if err != nil {
		return scan.Database{}, err
	}
	return sampledb.Build(dir, time.Now())
})

// sample makes a sample database.
func sample(t testing.TB) scan.Database {
	t.Helper()
	return sampleOf(t, 0)
}

// sampleOf makes a sample database that is this old.
func sampleOf(t testing.TB, age time.Duration) scan.Database {
	t.Helper()
	of, err := first()
	check(t, err)
	db, err := sampledb.Copy(of, filepath.Join(t.TempDir(), "db"), time.Now().Add(-age))
	check(t, err)
	return db
}

// files are the entries of a layer.
type files map[string]string

func (f files) layer(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	var names []string
	for name := range f {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(f[name])), Mode: 0o644}))
		_, err := io.WriteString(w, f[name])
		check(t, err)
	}
	check(t, w.Close())
	return buf.Bytes()
}

// image makes an image of one layer.
func image(t testing.TB, layer []byte) v1.Image {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil },
		tarball.WithMediaType(types.OCILayer))
	check(t, err)
	base := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	cfg, err := base.ConfigFile()
	check(t, err)
	cfg.OS, cfg.Architecture = "linux", "amd64"
	base, err = mutate.ConfigFile(base, cfg)
	check(t, err)
	img, err := mutate.AppendLayers(base, l)
	check(t, err)
	return img
}

// realImage reads one of the real images: an archive of an image, or of a root file
// system, or an apk database.
func realImage(t testing.TB, file string) v1.Image {
	t.Helper()
	name := filepath.Join(data(t), "images", file)
	b, err := os.ReadFile(name)
	check(t, err)
	switch {
	case strings.HasPrefix(file, "wolfi-") && strings.HasSuffix(file, ".tar"):
		img, err := tarball.ImageFromPath(name, nil)
		check(t, err)
		return img
	case strings.HasSuffix(file, ".apk-installed"):
		return image(t, files{"lib/apk/db/installed": string(b), "etc/os-release": osRelease("wolfi", "20230201")}.layer(t))
	case strings.HasSuffix(file, ".xz"):
		r, err := xz.NewReader(bytes.NewReader(b))
		check(t, err)
		b, err = io.ReadAll(r)
		check(t, err)
	}
	return image(t, b)
}

// catalogue writes the SBOM of an image and returns the name of the file.
func catalogue(t testing.TB, img v1.Image) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var in scan.Image
	var err error
	in.Manifest, err = img.RawManifest()
	check(t, err)
	in.Config, err = img.RawConfigFile()
	check(t, err)
	mediaType, err := img.MediaType()
	check(t, err)
	in.MediaType, in.Digest, in.Reference = string(mediaType), digest.FromBytes(in.Manifest), "example.org/test:1"
	var m ocispec.Manifest
	check(t, json.Unmarshal(in.Manifest, &m))
	in.Layers = m.Layers

	layers, err := img.Layers()
	check(t, err)
	dir := t.TempDir()
	var ids []digest.Digest
	for i, l := range layers {
		id, err := l.DiffID()
		check(t, err)
		ids = append(ids, digest.Digest(id.String()))
		r, err := l.Uncompressed()
		check(t, err)
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		check(t, err)
		_, err = io.Copy(f, r)
		check(t, err)
		check(t, f.Close())
	}
	s, err := cataloguer.Begin(ctx, in, ids, t.TempDir())
	check(t, err)
	defer s.Close()
	for i := range layers {
		check(t, s.Layer(i, filepath.Join(dir, fmt.Sprint(i))))
	}
	out, err := s.Catalogue(ctx)
	check(t, err)
	name := filepath.Join(t.TempDir(), "sbom.json")
	check(t, os.WriteFile(name, out.JSON, 0o600))
	return name
}

func osRelease(id, version string) string {
	return fmt.Sprintf("ID=%s\nNAME=%q\nVERSION_ID=%q\n", id, id, version)
}

// apk is an entry of apk's database.
func apk(name, version, origin string) string {
	return fmt.Sprintf("P:%s\nV:%s\nA:x86_64\no:%s\nL:MIT\nT:%s\n\n", name, version, origin, name)
}

// row is a finding as a golden list has it.
type row struct{ ID, Package, Version string }

func (r row) String() string { return r.ID + " " + r.Package + " " + r.Version }
