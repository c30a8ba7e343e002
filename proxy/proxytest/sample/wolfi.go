package sample

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Package is an apk package with what it installs.
type Package struct {
	Name, Version, Origin, License, Description string
	Depends                                     string
	Files                                       []File
}

// group is a set of packages that share a layer, as apko lays them out by origin.
type group []Package

// osRelease is what tells a scanner that the distribution is Wolfi. VERSION_ID means
// nothing there.
const osRelease = "ID=wolfi\nNAME=\"Wolfi\"\nPRETTY_NAME=\"Wolfi\"\nVERSION_ID=\"20230201\"\nHOME_URL=\"https://wolfi.dev\"\n" +
	"BUG_REPORT_URL=\"https://github.com/wolfi-dev/os/issues\"\n"

// releases holds the versions of one point in time, by origin.
type releases map[string]string

// clean is Wolfi of July 2025, against which nothing is known.
func clean() releases {
	return releases{
		"wolfi-baselayout": "20230201-r23", "ca-certificates": "20250619-r3", "glibc": "2.41-r55", "gcc": "15.1.0-r3",
		"openssl": "3.5.1-r1", "zlib": "1.3.1-r51", "apk-tools": "2.14.10-r6", "libxcrypt": "4.4.38-r3",
		"busybox": "1.37.0-r47", "wolfi-keys": "1-r12", "wolfi-base": "1-r7",
	}
}

// old is Wolfi of 2023: glibc before CVE-2023-4911 was fixed in 2.38-r5, openssl
// before CVE-2023-5363 was in 3.1.4-r0, zlib before CVE-2023-45853 was in 1.3-r1.
func old() releases {
	return releases{
		"wolfi-baselayout": "20230201-r6", "ca-certificates": "20230506-r0", "glibc": "2.37-r1", "gcc": "13.2.0-r2",
		"openssl": "3.1.3-r0", "zlib": "1.3-r0", "apk-tools": "2.14.0-r0", "libxcrypt": "4.4.36-r0",
		"busybox": "1.36.1-r2", "wolfi-keys": "1-r5", "wolfi-base": "1-r3",
	}
}

// WolfiClean returns an image like Chainguard's wolfi-base, with nothing known
// against it.
func WolfiClean(o Options) (v1.Image, error) {
	return wolfi(o, "wolfi-base", clean())
}

// WolfiVulnerable returns the same image with packages of 2023.
func WolfiVulnerable(o Options) (v1.Image, error) {
	return wolfi(o, "wolfi-base", old())
}

func wolfi(o Options, name string, r releases, above ...[]File) (v1.Image, error) {
	layers, err := wolfiLayers(o, name, r)
	if err != nil {
		return nil, err
	}
	return Build(o, name, append(layers, above...)...)
}

// wolfiLayers returns the layers that apko would: the packages by origin, and the
// package database written again in each, so that the last one counts.
func wolfiLayers(o Options, name string, r releases) ([][]File, error) {
	groups := r.groups()
	if o.Packages > 0 {
		groups = append(groups, inventedPackages(o.Packages))
	}
	var layers [][]File
	var installed []Package
	for i, g := range groups {
		var files []File
		if i == 0 {
			files = append(files, baseFiles()...)
		}
		for _, p := range g {
			p.Files = append(slices.Clone(p.Files), spdx(p))
			files = append(files, p.Files...)
			installed = append(installed, p)
		}
		files = append(files, database(o.apkArch(), installed))
		if i == len(groups)-1 {
			manifest, err := apkoManifest(o, name, installed)
			if err != nil {
				return nil, err
			}
			files = append(files, manifest)
		}
		layers = append(layers, files)
	}
	return layers, nil
}

func (o Options) apkArch() string {
	if o.arch() == "arm64" {
		return "aarch64"
	}
	return "x86_64"
}

// groups lists the packages of wolfi-base, with openssl's command beside it.
func (r releases) groups() []group {
	pkg := func(name, origin, license, description, depends string, files ...string) Package {
		p := Package{Name: name, Version: r[origin], Origin: origin, License: license, Description: description, Depends: depends}
		for _, f := range files {
			p.Files = append(p.Files, File{Path: f, Mode: 0o755, Data: placeholder(name, r[origin], f)})
		}
		return p
	}
	const gnu, lgpl = "GPL-3.0-or-later WITH GCC-exception-3.1", "LGPL-2.1-or-later"
	return []group{{
		pkg("wolfi-baselayout", "wolfi-baselayout", "MIT", "baselayout data for Wolfi", "ca-certificates-bundle", "etc/profile", "etc/secfixes.d/wolfi"),
		pkg("glibc-locale-posix", "glibc", lgpl, "the GNU C library (POSIX locale data)", "", "usr/lib/locale/C.utf8/LC_CTYPE"),
		pkg("libgcc", "gcc", gnu, "GNU Compiler Collection runtime", "so:libc.so.6", "usr/lib/libgcc_s.so.1"),
		pkg("glibc", "glibc", lgpl, "the GNU C library", "glibc-locale-posix wolfi-baselayout so:ld-linux-x86-64.so.2", "usr/lib/libc.so.6", "usr/lib/libm.so.6"),
		pkg("ld-linux", "glibc", lgpl, "the GNU C library (dynamic loader)", "wolfi-baselayout", "usr/lib/ld-linux-x86-64.so.2"),
	}, {
		pkg("ca-certificates-bundle", "ca-certificates", "MPL-2.0 AND MIT", "CA certificates from the Mozilla trusted root program", "", "etc/ssl/certs/ca-certificates.crt"),
		pkg("libcrypto3", "openssl", "Apache-2.0", "openssl libcrypto shared library", "so:libc.so.6", "usr/lib/libcrypto.so.3"),
		pkg("libssl3", "openssl", "Apache-2.0", "openssl libssl shared library", "so:libc.so.6 so:libcrypto.so.3", "usr/lib/libssl.so.3"),
		pkg("openssl", "openssl", "Apache-2.0", "the OpenSSL cryptography suite", "so:libcrypto.so.3 so:libssl.so.3", "usr/bin/openssl"),
	}, {
		pkg("zlib", "zlib", "MPL-2.0 AND MIT", "a library implementing the zlib compression algorithms", "so:libc.so.6", "usr/lib/libz.so.1"),
		pkg("apk-tools", "apk-tools", "GPL-2.0-only", "apk-tools (Wolfi package manager)", "so:libcrypto.so.3 so:libssl.so.3 so:libz.so.1", "usr/bin/apk"),
		pkg("libxcrypt", "libxcrypt", "GPL-2.0-or-later AND LGPL-2.1-or-later", "Modern library for one-way hashing of passwords", "so:libc.so.6", "usr/lib/libcrypt.so.1"),
		pkg("libcrypt1", "glibc", lgpl, "the GNU C library (libcrypt)", "libxcrypt", "usr/share/libcrypt1/README"),
		pkg("busybox", "busybox", "GPL-2.0-only", "swiss-army knife for embedded systems", "so:libc.so.6 so:libcrypt.so.1", "usr/bin/busybox"),
		pkg("wolfi-keys", "wolfi-keys", "MIT", "Wolfi signing keyring", "", "etc/apk/keys/wolfi-signing.rsa.pub"),
		pkg("wolfi-base", "wolfi-base", "MIT", "Wolfi base metapackage", "apk-tools busybox wolfi-keys"),
	}}
}

// inventedPackages are n packages of names that no database has.
func inventedPackages(n int) group {
	var g group
	for i := range n {
		name, version := fmt.Sprintf("sample-filler-%04d", i), fmt.Sprintf("1.%d.%d-r0", i/50, i%50)
		file := fmt.Sprintf("usr/lib/%s/lib%d.so", name, i)
		g = append(g, Package{
			Name: name, Version: version, Origin: name, License: "MIT", Description: "a package that stands for another",
			Files: []File{{Path: file, Data: placeholder(name, version, file)}},
		})
	}
	return g
}

// placeholder is the content of a package's file. It is text, so that nothing in it
// looks like a binary whose version could be told.
func placeholder(name, version, file string) []byte {
	return fmt.Appendf(nil, "placeholder for %s of %s %s\n", file, name, version)
}

// baseFiles are what apko adds beside packages.
func baseFiles() []File {
	return []File{
		{Path: "etc/os-release", Data: []byte(osRelease)},
		{Path: "etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/home/nonroot:/bin/sh\n")},
		{Path: "etc/group", Data: []byte("root:x:0:root\nnonroot:x:65532:\n")},
		{Path: "etc/apk/repositories", Data: []byte("https://packages.wolfi.dev/os\n")},
		{Path: "home/nonroot/", Mode: 0o700, UID: 65532},
		{Path: "lib/apk", Link: "../usr/lib/apk"},
		{Path: "root/", Mode: 0o700},
		{Path: "tmp/", Mode: 0o1777},
	}
}

// database writes usr/lib/apk/db/installed as apk does.
func database(arch string, packages []Package) File {
	var b bytes.Buffer
	for _, p := range packages {
		size := 0
		for _, f := range p.Files {
			size += len(f.Data)
		}
		fmt.Fprintf(&b, "P:%s\nV:%s\nA:%s\nL:%s\nT:%s\no:%s\nm:wolfi\nU:\nD:%s\np:\n", p.Name, p.Version, arch, p.License, p.Description, p.Origin, p.Depends)
		commit := sha1.Sum([]byte(p.Origin + p.Version))
		fmt.Fprintf(&b, "c:%s\ni:[]\nt:%d\nS:%d\nI:%d\nk:0\nC:%s\n", hex.EncodeToString(commit[:]), Created.Unix(), size/2+512, size, apkSum([]byte(p.Name+p.Version)))
		writeFiles(&b, p.Files)
		b.WriteByte('\n')
	}
	return File{Path: "usr/lib/apk/db/installed", Data: b.Bytes()}
}

// writeFiles writes a record's F:, R:, a: and Z: lines, files below their folders.
func writeFiles(b *bytes.Buffer, files []File) {
	byDir := map[string][]File{}
	var dirs []string
	for _, f := range files {
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if _, ok := byDir[dir]; !ok {
				byDir[dir] = nil
				dirs = append(dirs, dir)
			}
		}
		byDir[path.Dir(f.Path)] = append(byDir[path.Dir(f.Path)], f)
	}
	slices.Sort(dirs)
	for _, dir := range dirs {
		fmt.Fprintf(b, "F:%s\n", dir)
		for _, f := range byDir[dir] {
			fmt.Fprintf(b, "R:%s\n", path.Base(f.Path))
			if f.Mode != 0 && f.Mode != 0o644 {
				fmt.Fprintf(b, "a:0:0:%04o\n", f.Mode)
			}
			fmt.Fprintf(b, "Z:%s\n", apkSum(f.Data))
		}
	}
}

// apkSum is a checksum in apk's form: Q1 for SHA-1, and base64.
func apkSum(data []byte) string {
	sum := sha1.Sum(data)
	return "Q1" + base64.StdEncoding.EncodeToString(sum[:])
}

// spdx is the document that every Wolfi package brings about itself.
func spdx(p Package) File {
	name := p.Name + "-" + p.Version
	doc := fmt.Sprintf(`{"SPDXID":"SPDXRef-DOCUMENT","name":"apk-%s","spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0",`+
		`"creationInfo":{"created":"%s","creators":["Tool: melange","Organization: Chainguard, Inc"]},`+
		`"documentNamespace":"https://spdx.org/spdxdocs/chainguard/melange/%s",`+
		`"packages":[{"SPDXID":"SPDXRef-Package-%s","name":%q,"versionInfo":%q,"filesAnalyzed":false,"licenseDeclared":%q,"downloadLocation":"NOASSERTION"}]}`,
		name, Created.Format("2006-01-02T15:04:05Z"), name, strings.NewReplacer("_", "-", ":", "-").Replace(name), p.Name, p.Version, p.License)
	return File{Path: "var/lib/db/sbom/" + name + ".spdx.json", Data: []byte(doc)}
}

// apkoManifest is /etc/apko.json: what the image was made from.
func apkoManifest(o Options, name string, packages []Package) (File, error) {
	var pinned []string
	for _, p := range packages {
		pinned = append(pinned, p.Name+"="+p.Version)
	}
	slices.Sort(pinned)
	data, err := json.Marshal(map[string]any{
		"contents":    map[string]any{"repositories": []string{"https://packages.wolfi.dev/os"}, "packages": pinned},
		"accounts":    map[string]any{"run-as": "65532"},
		"archs":       []string{o.arch()},
		"annotations": map[string]string{"org.opencontainers.image.title": name},
		"layering":    map[string]any{"strategy": "origin", "budget": 10},
	})
	if err != nil {
		return File{}, err
	}
	return File{Path: "etc/apko.json", Mode: 0o444, Data: data}, nil
}
