package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sluicegate/sluice/scan"
)

// built are images that are made here, of real content where they have any.
func built() []*subject {
	return append([]*subject{
		{name: "no-layers", about: "nothing in it at all",
			make: func(_ context.Context, _ *pantry, l *layout) error { return l.image("amd64") }},
		{name: "empty-layer", about: "one layer without an entry",
			make: func(_ context.Context, _ *pantry, l *layout) error { return l.stack("amd64", gzipped, of()) }},
		{name: "scratch-sluice", about: "FROM scratch, and one Go program with 300 modules", slow: true,
			make: func(_ context.Context, p *pantry, l *layout) error {
				return l.stack("amd64", gzipped, disk(p.sluice, "sluice"))
			}},
		{name: "go-called", about: "a Go program with a vulnerable function", make: goImage("called")},
		{name: "go-uncalled", about: "a Go program with the function's module alone", make: goImage("uncalled")},
		{name: "apko", about: "built by apko from a repository made of wolfi-base's packages and some older ones", slow: true, make: apkoImage},
		{name: "npm-a", about: "packages of npm", slow: true, golden: "npm-a", make: npmImage},
		{name: "two-platforms-amd64", about: "a child of an index", arch: "amd64", make: twoPlatforms},
		{name: "two-platforms-arm64", about: "the other child", arch: "arm64", make: twoPlatforms},
		{name: "mixed-layers", about: "gzip, zstd and no compression in one image", make: mixed},
		{name: "owned", about: "a Python package that Wolfi's owns, and has fixed under an old version", make: owned},
		{name: "kernel-headers", about: "Debian's headers of a vulnerable kernel", sample: true, make: kernelHeaders},
		{name: "hard-links", about: "a database and a program under two names each, changed above under one", make: hardLinks(false)},
		{name: "hard-links-below", about: "the same with links into a lower layer, which some runtimes refuse", state: scan.Partial, make: hardLinks(true)},
	}, apkImages()...)
}

func goImage(pkg string) func(context.Context, *pantry, *layout) error {
	return func(ctx context.Context, p *pantry, l *layout) error {
		program, err := p.goProgram(ctx, pkg)
		if err != nil {
			return err
		}
		return l.stack("amd64", gzipped, disk(program, "app/"+pkg))
	}
}

func apkoImage(ctx context.Context, p *pantry, l *layout) error {
	dir, err := p.apkoImage(ctx)
	if err != nil {
		return err
	}
	img, err := tarball.ImageFromPath(filepath.Join(dir, "image.tar"), nil)
	if err != nil {
		return err
	}
	return l.copyOf(img)
}

func npmImage(ctx context.Context, p *pantry, l *layout) error {
	dir, err := p.npm(ctx, "a", "lodash@4.17.15", "moment@2.29.1", "jquery@3.4.1", "chalk@5.3.0", "commander@12.1.0")
	if err != nil {
		return err
	}
	return l.stack("amd64", gzipped, disk(dir, "app"))
}

// twoPlatforms has images of one base and two tops.
func twoPlatforms(_ context.Context, p *pantry, l *layout) error {
	db, err := p.apkDatabase()
	if err != nil {
		return err
	}
	base, err := l.layer(gzipped, of(wolfiRelease))
	if err != nil {
		return err
	}
	for _, arch := range []struct{ oci, apk string }{{"amd64", "x86_64"}, {"arm64", "aarch64"}} {
		top, err := l.layer(gzipped, of(entry{name: "lib/apk/db/installed", content: strings.ReplaceAll(db, "\nA:x86_64\n", "\nA:"+arch.apk+"\n")}))
		if err != nil {
			return err
		}
		if err := l.image(arch.oci, base, top); err != nil {
			return err
		}
	}
	return nil
}

// mixed has each layer in another compression.
func mixed(_ context.Context, p *pantry, l *layout) error {
	var layers []layer
	for _, part := range []struct{ mediaType, file string }{
		{zstandard, "ruby-bundle.tar"}, {plain, "php-composer.tar"}, {gzipped, "rust-auditable.tar"}, {zstandard, "java-app.tar"},
	} {
		file, err := p.shared(part.file)
		if err != nil {
			return err
		}
		one, err := l.layer(part.mediaType, archive(file, nil))
		if err != nil {
			return err
		}
		layers = append(layers, one)
	}
	return l.image("amd64", layers...)
}

// owned has what grype sets aside, since Wolfi's package says that it is fixed.
func owned(_ context.Context, _ *pantry, l *layout) error {
	const dir = "usr/lib/python3.11/site-packages/urllib3-2.0.5.dist-info"
	return l.stack("amd64", gzipped,
		of(wolfiRelease, entry{name: "lib/apk/db/installed", content: "P:py3-urllib3\nV:2.0.6-r0\nA:x86_64\no:py3-urllib3\nL:MIT\nF:" + dir + "\nR:METADATA\n\n"}),
		of(entry{name: dir + "/METADATA", content: "Metadata-Version: 2.1\nName: urllib3\nVersion: 2.0.5\n"}))
}

// kernelHeaders has what grype ignores, beside the kernel itself.
func kernelHeaders(_ context.Context, _ *pantry, l *layout) error {
	const release = "ID=debian\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n"
	status := "Package: linux-libc-dev\nStatus: install ok installed\nArchitecture: amd64\nSource: linux\nVersion: 6.1.69-1\nDescription: headers\n\n" +
		"Package: linux-image-6.1.0-17-amd64-unsigned\nStatus: install ok installed\nArchitecture: amd64\nSource: linux\nVersion: 6.1.69-1\nDescription: kernel\n\n"
	return l.stack("amd64", gzipped, of(entry{name: "etc/os-release", content: release}, entry{name: "var/lib/dpkg/status", content: status}))
}

// hardLinks has a package database and a program under two names, of which a later
// layer changes one. The second names lie in the layer of the first ones, or above it.
func hardLinks(above bool) func(context.Context, *pantry, *layout) error {
	return func(ctx context.Context, p *pantry, l *layout) error {
		db, err := p.apkDatabase()
		if err != nil {
			return err
		}
		program, err := p.goProgram(ctx, "called")
		if err != nil {
			return err
		}
		first := both(of(wolfiRelease, entry{name: "lib/apk/db/installed", content: db}), disk(program, "usr/bin/called"))
		second := of(entry{name: "opt/backup/lib/apk/db/installed", hard: "lib/apk/db/installed"},
			entry{name: "usr/local/bin/called", hard: "usr/bin/called"}, entry{name: "etc/apk/os-release", hard: "etc/os-release"})
		third := of(entry{name: "lib/apk/db/installed", content: without(db, "busybox")}, entry{name: "usr/bin/.wh.called"})
		if above {
			return l.stack("amd64", gzipped, first, second, third)
		}
		return l.stack("amd64", gzipped, both(first, second), third)
	}
}

// apkImages have the database of apk where Wolfi has it since /lib is a link, and before,
// rewritten by later layers on either way.
func apkImages() []*subject {
	image := func(name, about string, layers func(db string) []filling) *subject {
		return &subject{name: name, about: about, make: func(_ context.Context, p *pantry, l *layout) error {
			db, err := p.apkDatabase()
			if err != nil {
				return err
			}
			return l.stack("amd64", gzipped, layers(db)...)
		}}
	}
	usr := func(db string) entry { return entry{name: "usr/lib/apk/db/installed", content: db} }
	lib := func(db string) entry { return entry{name: "lib/apk/db/installed", content: db} }
	link := entry{name: "lib", link: "usr/lib"}
	images := []*subject{
		image("apk-merged", "/lib is a link; the database is rewritten under /usr/lib", func(db string) []filling {
			return []filling{of(wolfiRelease, link, usr(db)), of(usr(without(db, "busybox")))}
		}),
		image("apk-through-link", "/lib is a link; a later layer rewrites the database as /lib/…", func(db string) []filling {
			return []filling{of(wolfiRelease, link, usr(db)), of(lib(without(db, "busybox")))}
		}),
		image("apk-link-apart", "the link lies in another layer than the database", func(db string) []filling {
			return []filling{of(wolfiRelease, usr(db)), of(link), of(usr(without(db, "busybox")))}
		}),
		image("apk-late-merge", "/lib becomes a link in the layer that moves the database", func(db string) []filling {
			return []filling{of(wolfiRelease, lib(db)), of(entry{name: ".wh.lib"}), of(link, usr(without(db, "busybox")))}
		}),
	}
	images[1].state = scan.Partial // it depends on the runtime which database is the image's
	return images
}
