package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" // apk's own format
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// apkArch is the architecture of the repository that is made.
const apkArch = "x86_64"

// olderPackages stand in the repository besides those of wolfi-base, in versions with
// known vulnerabilities.
const olderPackages = `P:openssl
V:3.1.1-r0
o:openssl
L:Apache-2.0
T:Toolkit for TLS
F:usr/bin
R:openssl

P:py3-urllib3
V:2.0.5-r0
o:py3-urllib3
L:MIT
T:HTTP library
F:usr/lib/python3.11/site-packages/urllib3-2.0.5.dist-info
R:METADATA

`

// contents are the files that cataloguers and apko read; all others hold their own name.
var contents = map[string]string{
	"etc/os-release":             wolfiRelease.content,
	"etc/passwd":                 "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532:nonroot:/home/nonroot:/bin/sh\n",
	"etc/group":                  "root:x:0:\nnonroot:x:65532:\n",
	"etc/ld.so.conf":             "include /etc/ld.so.conf.d/*.conf\n",
	"etc/ld.so.conf.d/libc.conf": "/usr/lib\n",
	"usr/lib/python3.11/site-packages/urllib3-2.0.5.dist-info/METADATA": "Metadata-Version: 2.1\nName: urllib3\nVersion: 2.0.5\n",
}

// links are where symbolic links of the packages lead; an installed database doesn't say.
var links = map[string]string{"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib", "usr/lib64": "lib", "usr/sbin": "bin"}

// apkoImage returns a folder with image.tar, which apko built from a repository of real
// names and versions with placeholder payloads.
func (p *pantry) apkoImage(ctx context.Context) (string, error) {
	db, err := p.apkDatabase()
	if err != nil {
		return "", err
	}
	program, err := p.kept(filepath.Join("apko", "apko"), func(part string) error {
		env := append(os.Environ(), "CGO_ENABLED=0")
		if err := p.run(ctx, filepath.Join("deploy", "parity", "apko"), env, "go", "build", "-o", part, "chainguard.dev/apko"); err != nil {
			return missing("apko can't be built: %v", err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return p.kept(filepath.Join("apko", named("image", db, olderPackages, fmt.Sprint(contents, links))), func(part string) error {
		repo := filepath.Join(part, "repository")
		names, err := writeRepository(repo, db+olderPackages)
		if err != nil {
			return err
		}
		config := fmt.Sprintf("contents:\n  repositories: [%q]\n  packages: [%s]\narchs: [x86_64]\nentrypoint:\n  command: /bin/sh\n", repo, strings.Join(names, ", "))
		if err := os.WriteFile(filepath.Join(part, "apko.yaml"), []byte(config), 0o644); err != nil {
			return err
		}
		return p.run(ctx, part, nil, program, "build", "apko.yaml", "parity.test/apko:1", "image.tar",
			"--arch", apkArch, "--ignore-signatures", "--build-date", epoch.UTC().Format("2006-01-02T15:04:05Z"), "--vcs=false", "--cache-dir", filepath.Join(part, "cache"))
	})
}

// writeRepository writes the packages of an installed database as a repository, and
// returns their names.
func writeRepository(dir, installed string) (names []string, err error) {
	dir = filepath.Join(dir, apkArch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var index strings.Builder
	for _, text := range strings.Split(strings.TrimSpace(installed), "\n\n") {
		rec := parseAPK(text)
		apk, checksum, err := rec.pack()
		if err != nil {
			return nil, fmt.Errorf("package %s: %w", rec.field['P'], err)
		}
		name := rec.field['P'] + "-" + rec.field['V'] + ".apk"
		if err := os.WriteFile(filepath.Join(dir, name), apk, 0o644); err != nil {
			return nil, err
		}
		fmt.Fprintf(&index, "C:%s\nA:%s\nS:%d\nI:%d\n", checksum, apkArch, len(apk), len(apk))
		for _, k := range "PVTULoDp" {
			if v := rec.field[k]; v != "" {
				fmt.Fprintf(&index, "%c:%s\n", k, v)
			}
		}
		index.WriteString("\n")
		names = append(names, rec.field['P'])
	}
	packed, err := gzipTar(true, of(entry{name: "APKINDEX", content: index.String()}))
	if err != nil {
		return nil, err
	}
	return names, os.WriteFile(filepath.Join(dir, "APKINDEX.tar.gz"), packed, 0o644)
}

// An apk is one record of an installed database.
type apk struct {
	field map[rune]string
	files []apkFile
}

type apkFile struct {
	name string
	link bool
}

func parseAPK(text string) *apk {
	r := &apk{field: map[rune]string{}}
	var folder string
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch key {
		case "F":
			folder = value
		case "R":
			r.files = append(r.files, apkFile{name: path.Join(folder, value)})
		case "a":
			r.files[len(r.files)-1].link = strings.HasSuffix(value, ":0777")
		case "M", "Z":
		default:
			r.field[rune(key[0])] = value
		}
	}
	return r
}

// pack returns the package, and its checksum as an index has it.
func (a *apk) pack() (packed []byte, checksum string, err error) {
	data, err := gzipTar(true, a.fill)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(data)
	info := fmt.Sprintf("pkgname = %s\npkgver = %s\narch = %s\nsize = %d\norigin = %s\npkgdesc = %s\nurl = %s\nlicense = %s\ndatahash = %s\n",
		a.field['P'], a.field['V'], apkArch, len(data), a.field['o'], a.field['T'], a.field['U'], a.field['L'], hex.EncodeToString(sum[:]))
	for _, d := range strings.Fields(a.field['D']) {
		info += "depend = " + d + "\n"
	}
	for _, p := range strings.Fields(a.field['p']) {
		info += "provides = " + p + "\n"
	}
	control, err := gzipTar(false, of(entry{name: ".PKGINFO", content: info}))
	if err != nil {
		return nil, "", err
	}
	id := sha1.Sum(control)
	return append(control, data...), "Q1" + base64.StdEncoding.EncodeToString(id[:]), nil
}

// fill writes the files, with the directories that they lie in.
func (a *apk) fill(w *tar.Writer) error {
	made := map[string]bool{".": true}
	for _, f := range a.files {
		if err := directories(w, made, path.Dir(f.name)); err != nil {
			return err
		}
		h := &tar.Header{Name: f.name, Mode: 0o755, ModTime: epoch, Typeflag: tar.TypeReg}
		content, ok := contents[f.name]
		if !ok {
			content = f.name + "\n"
		}
		h.Size = int64(len(content))
		if f.link {
			content = cmp.Or(links[f.name], "elsewhere")
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, content, 0
		}
		sum := sha1.Sum([]byte(content))
		h.PAXRecords = map[string]string{"APK-TOOLS.checksum.SHA1": hex.EncodeToString(sum[:])}
		if err := add(w, h, strings.NewReader(content)); err != nil {
			return err
		}
	}
	return nil
}

func directories(w *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := directories(w, made, path.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	return add(w, &tar.Header{Name: dir + "/", Mode: 0o755, ModTime: epoch, Typeflag: tar.TypeDir}, nil)
}

// gzipTar returns a compressed archive. The first parts of a package are cut off before
// the end of theirs.
func gzipTar(whole bool, fill filling) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	err := fill(w)
	if whole {
		err = errors.Join(err, w.Close())
	} else {
		err = errors.Join(err, w.Flush())
	}
	err = errors.Join(err, z.Close())
	return out.Bytes(), err
}
