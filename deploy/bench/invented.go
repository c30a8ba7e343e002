package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// What image A has of each, and how many KiB of files without a meaning belong to one.
var shares = []struct {
	kind    string
	count   int
	filler  int // KiB
	files   int // that the filler is parted into
	content func(n int) map[string][]byte
}{
	{"deb", 380, 900, 35, deb},
	{"python", 40, 900, 60, python},
	{"npm", 90, 150, 30, npm},
	{"jar", 40, 0, 0, jar},
	{"program", 120, 1500, 1, program},
}

// inventedLayers are the layers of a Debian of which nothing is real: names that no
// database has, in the forms that a scanner's cataloguers read, between files that
// compress to a third. factor scales the number of everything.
func inventedLayers(factor float64) ([]*layer, error) {
	layers := make([]*layer, 1+len(shares))
	var g errgroup.Group
	g.Go(func() (err error) {
		layers[0], err = inventedBase(int(float64(shares[0].count) * factor))
		return err
	})
	for i, share := range shares {
		g.Go(func() (err error) {
			w, err := newInventor(share.kind)
			if err != nil {
				return err
			}
			for n := range int(float64(share.count) * factor) {
				files := share.content(n)
				for _, name := range slices.Sorted(maps.Keys(files)) {
					w.file(name, files[name])
				}
				w.filler(share.kind, n, share.filler<<10, share.files)
			}
			layers[1+i], err = w.close()
			return err
		})
	}
	return layers, g.Wait()
}

// inventedBase tells the distribution and what is installed.
func inventedBase(debs int) (*layer, error) {
	w, err := newInventor("base")
	if err != nil {
		return nil, err
	}
	w.file("etc/os-release", []byte("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n"+
		"VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n"))
	var status bytes.Buffer
	for n := range debs {
		fmt.Fprintf(&status, "Package: %s\nStatus: install ok installed\nPriority: optional\nSection: libs\nInstalled-Size: 900\n"+
			"Maintainer: Nobody <nobody@example.com>\nArchitecture: amd64\nSource: %s\nVersion: 1.%d-2+deb12u1\n", debName(n), debName(n/2), n)
		if n > 2 {
			fmt.Fprintf(&status, "Depends: %s (>= 1.0), %s, %s\n", debName(n-1), debName(n/2), debName(n/3))
		}
		status.WriteString("Description: a package that stands for another\n It has a description of a few lines, as packages do,\n" +
			" so that the status file has the length that status files have.\n\n")
	}
	w.file("var/lib/dpkg/status", status.Bytes())
	return w.close()
}

func debName(n int) string { return fmt.Sprintf("libsample-filler%d", n) }

// deb is what dpkg keeps of a package beside its status.
func deb(n int) map[string][]byte {
	var sums, list strings.Builder
	for i := range 60 {
		fmt.Fprintf(&sums, "%032x  usr/share/%s/file-%02d.dat\n", n*100+i, debName(n), i)
		fmt.Fprintf(&list, "/usr/share/%s/file-%02d.dat\n", debName(n), i)
	}
	info := "var/lib/dpkg/info/" + debName(n) + ":amd64"
	return map[string][]byte{
		info + ".md5sums": []byte(sums.String()),
		info + ".list":    []byte(list.String()),
		"usr/share/doc/" + debName(n) + "/copyright": []byte("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n" +
			"Files: *\nCopyright: 2020 Nobody\nLicense: GPL-2+\n On Debian systems the full text is in /usr/share/common-licenses/GPL-2.\n"),
	}
}

// python is an installed distribution.
func python(n int) map[string][]byte {
	name := fmt.Sprintf("sample_filler_%d", n)
	dir := fmt.Sprintf("usr/lib/python3/dist-packages/%s-2.%d.dist-info/", name, n)
	var record strings.Builder
	for i := range 60 {
		fmt.Fprintf(&record, "%s/module_%02d.py,sha256=%043x,%d\n", name, i, n*100+i, 1000+i)
	}
	return map[string][]byte{
		dir + "METADATA": fmt.Appendf(nil, "Metadata-Version: 2.1\nName: %s\nVersion: 2.%d\nLicense: MIT\n"+
			"Requires-Dist: sample_filler_%d\n\nA package.\n", name, n, max(0, n-1)),
		dir + "RECORD":        []byte(record.String()),
		dir + "top_level.txt": []byte(name + "\n"),
	}
}

// npm is an installed module.
func npm(n int) map[string][]byte {
	dir := fmt.Sprintf("usr/share/nodejs/sample-filler-%d/", n)
	return map[string][]byte{dir + "package.json": fmt.Appendf(nil,
		`{"name":"sample-filler-%d","version":"3.%d.0","license":"MIT","main":"index.js","dependencies":{"sample-filler-%d":"^3.0.0"}}`, n, n, max(0, n-1))}
}

// jar is an archive as Maven makes it, with classes of which nothing can be read.
func jar(n int) map[string][]byte {
	name := fmt.Sprintf("sample-filler-%d", n)
	place := "META-INF/maven/com.example/" + name + "/"
	noise := rand.NewChaCha8([32]byte{byte(n), 'j'})
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	add := func(name string, data []byte) {
		if f, err := z.Create(name); err == nil { // a buffer takes everything
			_, _ = f.Write(data)
		}
	}
	add("META-INF/MANIFEST.MF", fmt.Appendf(nil, "Manifest-Version: 1.0\r\nImplementation-Title: %s\r\nImplementation-Version: 4.%d\r\n\r\n", name, n))
	add(place+"pom.properties", fmt.Appendf(nil, "version=4.%d\ngroupId=com.example\nartifactId=%s\n", n, name))
	add(place+"pom.xml", fmt.Appendf(nil, "<project><groupId>com.example</groupId><artifactId>%s</artifactId><version>4.%d</version></project>\n", name, n))
	for i := range 200 {
		data := make([]byte, 2500)
		noise.Read(data[:1200])
		add(fmt.Sprintf("com/example/filler%d/Class%03d.class", n, i), data)
	}
	_ = z.Close()
	return map[string][]byte{"usr/share/java/" + name + "-4.jar": out.Bytes()}
}

// program is a file that begins as an ELF executable and has no sections: scanners
// look through all of it for versions, and find none.
func program(n int) map[string][]byte {
	var head [64]byte
	copy(head[:], "\x7fELF\x02\x01\x01")
	for at, v := range map[int]uint16{16: 2, 18: 62, 20: 1, 52: 64} { // executable, x86-64, version, header size
		binary.LittleEndian.PutUint16(head[at:], v)
	}
	return map[string][]byte{fmt.Sprintf("usr/bin/sample-filler-%d", n): append(head[:], make([]byte, 700<<10)...)}
}

// grow returns an image with one more layer on top, of a few Python and npm packages as
// an application brings them.
func (i *image) grow(repo string) (*image, error) {
	w, err := newInventor(repo)
	if err != nil {
		return nil, err
	}
	for n := range 10 {
		for _, files := range []map[string][]byte{python(5000 + n), npm(5000 + n)} {
			for _, name := range slices.Sorted(maps.Keys(files)) {
				w.file("opt/app/"+name, files[name])
			}
		}
	}
	w.filler("app", 0, 4<<20, 40)
	top, err := w.close()
	if err != nil {
		return nil, err
	}
	return newImage(repo, short(i.about)+" with a new layer on top", append(slices.Clone(i.layers), top))
}

// An inventor writes a layer and keeps the first error.
type inventor struct {
	*packer
	noise *rand.ChaCha8
	draw  *rand.Rand
	err   error
}

func newInventor(kind string) (*inventor, error) {
	p, err := newPacker(-1)
	if err != nil {
		return nil, err
	}
	var key [32]byte
	copy(key[:], kind)
	noise := rand.NewChaCha8(key)
	return &inventor{p, noise, rand.New(noise), nil}, nil
}

func (w *inventor) file(name string, data []byte) {
	if w.err == nil {
		w.err = w.add(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Format: tar.FormatPAX}, bytes.NewReader(data))
	}
}

// filler adds files of size bytes in all that compress to a third, as software does:
// what is new is followed by a stretch of what came before.
func (w *inventor) filler(kind string, n, size, files int) {
	for i := range files {
		b := make([]byte, 0, size/files+256)
		for len(b) < size/files {
			at := len(b)
			b = b[:at+48]
			w.noise.Read(b[at:])
			from := w.draw.IntN(len(b))
			b = append(b, b[from:min(from+48+w.draw.IntN(112), len(b))]...)
		}
		w.file(fmt.Sprintf("usr/share/%s-%d/file-%02d.dat", kind, n, i), b[:size/files])
	}
}

func (w *inventor) close() (*layer, error) {
	l, err := w.packer.close()
	if w.err != nil {
		return nil, w.err
	}
	return l, err
}
