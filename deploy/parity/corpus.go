package main

import (
	"archive/tar"
	"context"
	"io"
	"os"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/scan"
)

const (
	gzipped   = ocispec.MediaTypeImageLayerGzip
	zstandard = ocispec.MediaTypeImageLayerZstd
	plain     = ocispec.MediaTypeImageLayer
)

// A subject is an image of the corpus.
type subject struct {
	name, about string
	make        func(context.Context, *pantry, *layout) error

	slow       bool       // takes a package mirror, or minutes
	arch       string     // of the image in an index of several
	state      scan.State // that its verdict has; empty is complete
	sample     bool       // matched with the sample database, which has what it is about
	golden     string     // list of what is to be found
	goldenType string     // the list covers packages of one type

	layout string // folder
}

// corpus returns all images.
func corpus() []*subject {
	return append(shipped(), append(built(), debian()...)...)
}

// shipped are the images of the data folder.
func shipped() []*subject {
	var out []*subject
	for _, name := range []string{"wolfi-2023-10-python", "wolfi-2024-06-db", "wolfi-2025-04-min", "wolfi-2025-04-node"} {
		out = append(out, &subject{name: name, golden: name, about: "of Wolfi's packages, assembled by apko",
			make: func(_ context.Context, p *pantry, l *layout) error {
				file, err := p.shared(name + ".tar")
				if err != nil {
					return err
				}
				img, err := tarball.ImageFromPath(file, nil)
				if err != nil {
					return err
				}
				return l.copyOf(img)
			}})
	}
	out = append(out, &subject{name: "wolfi-base-real", golden: "wolfi-base-real", about: "the package database of wolfi-base",
		make: func(_ context.Context, p *pantry, l *layout) error {
			db, err := p.apkDatabase()
			if err != nil {
				return err
			}
			return l.stack("amd64", gzipped, of(wolfiRelease, entry{name: "lib/apk/db/installed", content: db}))
		}})
	for _, name := range []string{"java-app.tar", "php-composer.tar", "ruby-bundle.tar", "rust-auditable.tar", "debian12.0-era-big-meta.tar.xz"} {
		short, _, _ := strings.Cut(name, ".tar")
		s := &subject{name: short, golden: short, about: "a root file system in one layer",
			make: func(_ context.Context, p *pantry, l *layout) error {
				file, err := p.shared(name)
				if err != nil {
					return err
				}
				return l.stack("amd64", gzipped, archive(file, nil))
			}}
		if strings.HasPrefix(name, "debian") {
			s.goldenType, s.slow = "deb", true
		}
		out = append(out, s)
	}
	return out
}

// stack adds an image of layers of one type, bottom first.
func (l *layout) stack(arch, mediaType string, fills ...filling) error {
	var layers []layer
	for _, fill := range fills {
		p, err := l.layer(mediaType, fill)
		if err != nil {
			return err
		}
		layers = append(layers, p)
	}
	return l.image(arch, layers...)
}

// wolfiRelease is what Wolfi's wolfi-baselayout has.
var wolfiRelease = entry{name: "etc/os-release", content: "ID=wolfi\nNAME=\"Wolfi\"\nPRETTY_NAME=\"Wolfi\"\nVERSION_ID=\"20230201\"\nHOME_URL=\"https://wolfi.dev\"\n"}

// apkDatabase returns the installed database of a real image.
func (p *pantry) apkDatabase() (string, error) {
	file, err := p.shared("wolfi-base.apk-installed")
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(file)
	return string(b), err
}

// without returns an apk database with fewer packages.
func without(db string, names ...string) string {
	var kept []string
	for _, rec := range strings.Split(strings.TrimSpace(db), "\n\n") {
		drop := false
		for _, n := range names {
			drop = drop || strings.Contains("\n"+rec+"\n", "\nP:"+n+"\n")
		}
		if !drop {
			kept = append(kept, rec)
		}
	}
	return strings.Join(kept, "\n\n") + "\n\n"
}

// moved fills a layer with what lies under a path of an archive, under another path.
func moved(file, from, to string) filling {
	return func(w *tar.Writer) error {
		return walk(file, func(h *tar.Header, r io.Reader) error {
			rest, ok := strings.CutPrefix(path.Clean(h.Name)+"/", from+"/")
			if !ok {
				return nil
			}
			h.Name = path.Join(to, rest)
			return add(w, h, r)
		})
	}
}

// debian are images of a real Debian, built in stages by its package manager.
func debian() []*subject {
	image := func(name, about string, make func(p *pantry, stages []string, l *layout) error) *subject {
		return &subject{name: name, about: about, slow: true, make: func(ctx context.Context, p *pantry, l *layout) error {
			stages, err := p.debian(ctx)
			if err != nil {
				return err
			}
			return make(p, stages, l)
		}}
	}
	through := image("debian-through-links", "files written through /lib and /bin, which are links in the layer below: runtimes differ",
		func(_ *pantry, s []string, l *layout) error {
			return l.stack("amd64", gzipped, archive(s[0], nil), throughLinks)
		})
	through.state = scan.Partial
	return []*subject{
		through,
		image("debian-stages", "Python, Ruby, Perl, PHP and Node.js installed; some purged; Java installed: a layer each",
			func(_ *pantry, s []string, l *layout) error {
				return l.stack("amd64", gzipped, archive(s[0], nil), difference(s[0], s[1]), difference(s[1], s[2]), difference(s[2], s[3]))
			}),
		image("debian-moved", "whiteouts, opaque directories, files moved, and replaced by links",
			func(_ *pantry, s []string, l *layout) error {
				return l.stack("amd64", gzipped, archive(s[0], nil), difference(s[0], s[1]), upheaval(s[1]))
			}),
		image("debian-base-java", "Java on a base that another image has",
			func(_ *pantry, s []string, l *layout) error {
				return l.stack("amd64", zstandard, archive(s[0], nil), difference(s[0], s[3]))
			}),
		image("debian-base-jars", "jars and their database on the same base",
			func(p *pantry, s []string, l *layout) error {
				jars, err := p.shared("java-app.tar")
				if err != nil {
					return err
				}
				noRelease := func(h *tar.Header) bool { return path.Clean(h.Name) != "etc/os-release" } // it is another distribution's
				return l.stack("amd64", zstandard, archive(s[0], nil), archive(jars, noRelease))
			}),
	}
}

// upheaval moves things about, as later steps of a build do.
func upheaval(stage string) filling {
	return both(
		// moved: a JavaScript package, and a Python one with its metadata
		of(entry{name: "usr/share/nodejs/.wh.lodash"}, entry{name: "usr/lib/python3/dist-packages/.wh.yaml"}),
		moved(stage, "usr/share/nodejs/lodash", "opt/app/node_modules/lodash"),
		moved(stage, "usr/lib/python3/dist-packages/yaml", "opt/venv/lib/python3.11/site-packages/yaml"),
		// a directory that becomes a link to where it went
		of(entry{name: "usr/share/nodejs/.wh.semver"}),
		moved(stage, "usr/share/nodejs/semver", "opt/semver"),
		of(entry{name: "opt/app/node_modules/semver", link: "/opt/semver"}),
		// directories of which nothing but what is here stays
		of(entry{name: "usr/share/doc/"}, entry{name: "usr/share/doc/.wh..wh..opq"},
			entry{name: "usr/share/doc/bash/copyright", content: "License: GPL-3+\n"}),
		of(entry{name: "usr/share/rubygems-integration/"}, entry{name: "usr/share/rubygems-integration/.wh..wh..opq"}),
		// a file where a directory was, and a directory where a file was
		of(entry{name: "usr/share/perl5", content: "no directory\n"}, entry{name: "etc/debian_version/"}, entry{name: "etc/debian_version/now"}),
		// a package database beside the first, as distroless images have it
		of(entry{name: "var/lib/dpkg/status.d/extra", content: "Package: extra\nVersion: 1.0-1\nArchitecture: amd64\nMaintainer: nobody\nSource: zlib (1:1.2.13.dfsg-1)\nDescription: x\n"}),
	)
}

// throughLinks writes below directories that are links in a lower layer.
var throughLinks = of(
	entry{name: "lib/node_modules/through/package.json", content: `{"name":"through","version":"2.3.8","license":"MIT"}`},
	entry{name: "bin/tool", content: "#!/bin/sh\n"},
	entry{name: "usr/lib/os-release", content: "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nPRETTY_NAME=\"replaced\"\n"},
)
