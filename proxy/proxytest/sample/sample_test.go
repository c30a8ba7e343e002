package sample_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/proxytest/sample"
)

var _ sample.Registry = (*proxytest.Server)(nil)

type build func(sample.Options) (v1.Image, error)

func TestImagesAreSaneAndDeterministic(t *testing.T) {
	builds := map[string]build{
		"clean": sample.WolfiClean, "vulnerable": sample.WolfiVulnerable, "node": sample.NodeApp, "java": sample.JavaApp,
	}
	options := map[string]sample.Options{
		"defaults":   {},
		"docker":     {Docker: true},
		"zstd":       {Compression: sample.Zstd},
		"plain":      {Compression: sample.None},
		"ten layers": {Layers: 10},
		"filler":     {Filler: 1 << 20, FillerLayers: 2, Packages: 20},
	}
	for name, b := range builds {
		for how, o := range options {
			t.Run(name+" "+how, func(t *testing.T) {
				img := must(b(o))(t)
				checkLayers(t, img)
				// The library's own check knows gzip alone.
				if err := validate.Image(img); err != nil && (o.Compression == "" || o.Compression == sample.Gzip) {
					t.Error(err)
				}
				again := must(b(o))(t)
				if a, b := must(img.Digest())(t), must(again.Digest())(t); a != b {
					t.Errorf("built twice: %v, %v", a, b)
				}
			})
		}
	}
}

// checkLayers holds each layer's bytes against the manifest and the config.
func checkLayers(t *testing.T, img v1.Image) {
	t.Helper()
	manifest, config := must(img.Manifest())(t), must(img.ConfigFile())(t)
	for i, l := range must(img.Layers())(t) {
		packed, unpacked := must(l.Compressed())(t), must(l.Uncompressed())(t)
		digest, size := must2(v1.SHA256(packed))(t)
		diffID, _ := must2(v1.SHA256(unpacked))(t)
		if d := manifest.Layers[i]; d.Digest != digest || d.Size != size || config.RootFS.DiffIDs[i] != diffID {
			t.Errorf("layer %d is %v of %d bytes, diff ID %v; the manifest says %v, the config %v", i, digest, size, diffID, d, config.RootFS.DiffIDs[i])
		}
		packed.Close()
		unpacked.Close()
	}
}

func TestOptions(t *testing.T) {
	img := must(sample.WolfiClean(sample.Options{Layers: 60}))(t)
	if layers := must(img.Layers())(t); len(layers) != 63 {
		t.Errorf("%d layers, want 60 and the three of the base", len(layers))
	}
	const want = 4 << 20
	img = must(sample.WolfiClean(sample.Options{Filler: want, FillerLayers: 4}))(t)
	compressed, unpacked := weigh(t, img)
	if compressed < want || compressed > want+want/4 {
		t.Errorf("%d bytes compressed, want about %d", compressed, want)
	}
	if ratio := float64(unpacked) / float64(compressed); ratio < 2 || ratio > 4 {
		t.Errorf("unpacks to %.1f times its size, want what software does", ratio)
	}
	one := must(must(sample.WolfiClean(sample.Options{Layers: 1, Seed: 1}))(t).Digest())(t)
	two := must(must(sample.WolfiClean(sample.Options{Layers: 1, Seed: 2}))(t).Digest())(t)
	if one == two {
		t.Error("two seeds gave one image")
	}
}

func weigh(t *testing.T, img v1.Image) (compressed, unpacked int64) {
	for _, l := range must(img.Layers())(t) {
		compressed += must(l.Size())(t)
		r := must(l.Uncompressed())(t)
		unpacked += must(io.Copy(io.Discard, r))(t)
		r.Close()
	}
	return compressed, unpacked
}

// The large image, made small: packing all of it takes seconds, with the race detector
// minutes.
func TestLarge(t *testing.T) {
	img := must(sample.Large(sample.Options{Filler: 2 << 20, FillerLayers: 8}))(t)
	if layers := must(img.Layers())(t); len(layers) != 12 {
		t.Errorf("%d layers, want eight of filler on four of packages", len(layers))
	}
	if n := strings.Count(flatten(t, img)["usr/lib/apk/db/installed"], "P:"); n != 586 {
		t.Errorf("%d packages, want 586", n)
	}
}

// A later layer's package database replaces that of the layers below.
func TestPackages(t *testing.T) {
	tests := []struct {
		name  string
		build build
		want  []string
	}{
		{"clean", sample.WolfiClean, []string{"P:glibc\nV:2.41-r55\n", "P:libssl3\nV:3.5.1-r1\n", "o:openssl\n"}},
		{"vulnerable", sample.WolfiVulnerable, []string{"P:glibc\nV:2.37-r1\n", "P:libssl3\nV:3.1.3-r0\n", "P:zlib\nV:1.3-r0\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := flatten(t, must(tt.build(sample.Options{}))(t))
			db := files["usr/lib/apk/db/installed"]
			for _, want := range tt.want {
				if !strings.Contains(db, want) {
					t.Errorf("no %q in the database:\n%s", want, db)
				}
			}
			if n := strings.Count(db, "P:"); n != 16 {
				t.Errorf("%d packages, want 16", n)
			}
			if !strings.HasPrefix(files["etc/os-release"], "ID=wolfi\n") || !json.Valid([]byte(files["etc/apko.json"])) {
				t.Errorf("os-release %q, apko.json %q", files["etc/os-release"], files["etc/apko.json"])
			}
		})
	}
	node := flatten(t, must(sample.NodeApp(sample.Options{}))(t))
	if !strings.Contains(node["app/node_modules/jquery/package.json"], `"version": "3.4.1"`) {
		t.Error("no jquery 3.4.1 in the Node.js application")
	}
}

// flatten returns the files of an image as the top layer leaves them.
func flatten(t *testing.T, img v1.Image) map[string]string {
	files := map[string]string{}
	for _, l := range must(img.Layers())(t) {
		r := must(l.Uncompressed())(t)
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(must(io.ReadAll(tr))(t))
		}
		r.Close()
	}
	return files
}

func TestIndex(t *testing.T) {
	for _, docker := range []bool{false, true} {
		index := must(sample.Index(sample.Options{Docker: docker}, sample.JavaApp))(t)
		var platforms []string
		for _, m := range must(index.IndexManifest())(t).Manifests {
			platforms = append(platforms, m.Platform.String())
			child := must(index.Image(m.Digest))(t)
			// The check does not know of layers that are no root file systems.
			if err := validate.Image(child); err != nil && m.Platform.OS == "linux" {
				t.Error(err)
			}
		}
		if want := []string{"linux/amd64", "linux/arm64", "unknown/unknown"}; !slices.Equal(platforms, want) {
			t.Errorf("platforms %v, want %v", platforms, want)
		}
	}
}

func TestOddities(t *testing.T) {
	s := must(proxytest.Start(proxytest.Origin{}))(t)
	defer s.Close()
	list := must(sample.Oddities())(t)
	again := must(sample.Oddities())(t)
	for i, o := range list {
		t.Run(o.Name, func(t *testing.T) {
			if o.Digest != again[i].Digest {
				t.Errorf("built twice: %s, %s", o.Digest, again[i].Digest)
			}
			if real := o.Digest.Algorithm().FromBytes(o.Manifest); (real == o.Digest) == (o.Name == "lying-manifest") {
				t.Errorf("digest %s, of its bytes %s", o.Digest, real)
			}
			if json.Valid(o.Manifest) == (o.Name == "invalid-json") {
				t.Errorf("manifest %.100s", o.Manifest)
			}
			for d, data := range o.Blobs {
				if d != d.Algorithm().FromBytes(data) && o.Name != "lying-layer" {
					t.Errorf("blob %s is %s", d, digest.FromBytes(data))
				}
			}
			o.Push(s, "odd/things")
			if d, ok := s.Descriptor("odd/things", o.Name); !ok || d.Digest != o.Digest || d.MediaType != o.MediaType {
				t.Errorf("the origin has %+v, want %s as %s", d, o.Digest, o.MediaType)
			}
		})
	}
	if _, err := sample.Odd("no such thing"); err == nil {
		t.Error("an oddity that is none was found")
	}
}

// must returns the value, or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func must2[A, B any](a A, b B, err error) func(testing.TB) (A, B) {
	return func(t testing.TB) (A, B) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}
