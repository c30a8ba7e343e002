package hostile

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Layer is a layer as it is served, and what the image's config says of it.
type Layer struct {
	MediaType string
	Blob      []byte
	DiffID    digest.Digest
}

// Descriptor returns the layer as a manifest names it.
func (l Layer) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: l.MediaType, Digest: digest.FromBytes(l.Blob), Size: int64(len(l.Blob))}
}

// packed is a layer of these bytes, which unpack to plain.
func packed(blob, plain []byte) Layer {
	return Layer{ocispec.MediaTypeImageLayerGzip, blob, digest.FromBytes(plain)}
}

// zipped is a layer of one gzip member.
func zipped(plain []byte) Layer { return packed(Member(plain, "", ""), plain) }

// bare is a layer of bytes of which nobody gets to see what they unpack to.
func bare(blob []byte) Layer { return packed(blob, nil) }

// An Image is a Case built.
type Image struct {
	Manifest, Config []byte
	Layers           []Layer // bottom first
}

// Build returns the image: what the case puts above a base of one package.
func (c Case) Build() Image {
	img := Image{Layers: append([]Layer{base()}, c.Layers()...)}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range img.Layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		m.Layers = append(m.Layers, l.Descriptor())
	}
	if c.Config != nil {
		c.Config(&config)
	}
	img.Config = encode(config)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(img.Config), Size: int64(len(img.Config))}
	img.Manifest = encode(m)
	return img
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own types
	}
	return b
}

// base is a root file system with one package, against which nothing is known.
func base() Layer {
	var t Tar
	t.Dir("etc/").Dir("usr/").Dir("usr/bin/").Dir("usr/lib/").Dir("var/").Dir("lib/").Dir("lib/apk/").Dir("lib/apk/db/")
	t.Symlink("bin", "usr/bin").Symlink("lib64", "usr/lib")
	t.File("etc/os-release", "ID=wolfi\nNAME=\"Wolfi\"\nPRETTY_NAME=\"Wolfi\"\nVERSION_ID=\"20230201\"\n")
	return zipped(t.File(Installed, Package("2.40-r1")).End())
}

// Installed is where the package database of a Case lies.
const Installed = "lib/apk/db/installed"

// glibc is what glibc 2.37-r1 has, as the sample database knows.
const glibc = "CVE-2023-4911"

// Package is a package database with glibc of the version given.
func Package(version string) string {
	return "P:glibc\nV:" + version + "\nA:x86_64\nT:the GNU C library\nL:GPL-3.0-or-later\no:glibc\nI:6000000\n\n"
}
