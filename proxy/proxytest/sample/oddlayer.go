package sample

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// bombSize is what the bomb's one file unpacks to.
const bombSize = 256 << 20

// oddLayers are images with one good layer and one that is odd.
func oddLayers() map[string]maker {
	return map[string]maker{
		"no-tar":         {"a layer that unpacks to text", above(ocispec.MediaTypeImageLayerGzip, textLayer)},
		"all-no-tar":     {"an image by its config's type, of layers that are no tar", alone(ocispec.MediaTypeImageLayerGzip, textLayer)},
		"truncated-gzip": {"a gzip stream that ends too early, under its right digest", above(ocispec.MediaTypeImageLayerGzip, truncatedLayer)},
		"truncated-tar":  {"a tar that ends in the middle of a file, well packed", above(ocispec.MediaTypeImageLayerGzip, truncatedTar)},
		"trailing-data":  {"bytes behind the end of the gzip stream", above(ocispec.MediaTypeImageLayerGzip, trailingLayer)},
		"second-archive": {"another tar behind the end of the first, with a file that some readers see", above(ocispec.MediaTypeImageLayerGzip, secondArchive)},
		"two-members":    {"a tar in two gzip members, which is allowed", above(ocispec.MediaTypeImageLayerGzip, twoMembers)},
		"sparse":         {"a sparse file of a terabyte in GNU's format", above(ocispec.MediaTypeImageLayerGzip, sparseLayer)},
		"escaping-names": {"names that lead out of the root", above(ocispec.MediaTypeImageLayerGzip, escapingLayer)},
		"symlink-loop":   {"symbolic links in a circle, one of them over usr", above(ocispec.MediaTypeImageLayerGzip, loopLayer)},
		"device-node":    {"a device, a FIFO and an entry of an unknown type", above(ocispec.MediaTypeImageLayerGzip, deviceLayer)},
		"long-name":      {"an entry whose name has a million bytes", above(ocispec.MediaTypeImageLayerGzip, longNameLayer)},
		"whiteout":       {"a vulnerable jar that the layer above deletes", (*Oddity).whiteout},
		"encrypted":      {"an encrypted layer", above(ocispec.MediaTypeImageLayerGzip+"+encrypted", noise)},
		"erofs":          {"a file system image for a layer", above("application/vnd.erofs.layer.v1", erofsLayer)},
		"unknown-layer":  {"a layer of a type that nobody knows", above("application/vnd.example.layer.v1.tar+brotli", noise)},
		"gzip-as-plain":  {"a gzip layer that is said to be an uncompressed one", above(ocispec.MediaTypeImageLayer, goodLayer)},
		"empty-layer":    {"a layer of no bytes at all", above(ocispec.MediaTypeImageLayerGzip, func() ([]byte, error) { return nil, nil })},
		"bomb":           {"a file of 256 MiB of zeros in a quarter of a megabyte", (*Oddity).bomb},
	}
}

// above puts an odd layer above a good one.
func above(mediaType string, content func() ([]byte, error)) func(*Oddity) error {
	return func(o *Oddity) error {
		l, _, err := o.rootfs()
		if err != nil {
			return err
		}
		data, err := content()
		if err != nil {
			return err
		}
		return o.imageOf(l, o.blob(mediaType, data))
	}
}

func alone(mediaType string, content func() ([]byte, error)) func(*Oddity) error {
	return func(o *Oddity) error {
		data, err := content()
		if err != nil {
			return err
		}
		return o.imageOf(o.blob(mediaType, data))
	}
}

func goodLayer() ([]byte, error) {
	l, err := newLayer(Options{}, []File{{Path: "opt/notes.txt", Data: []byte("nothing to see here\n")}})
	if err != nil {
		return nil, err
	}
	return l.compressed, nil
}

func textLayer() ([]byte, error) {
	return gzipped(bytes.Repeat([]byte("This is no tar archive, however long it goes on.\n"), 100))
}

func truncatedLayer() ([]byte, error) {
	l, err := fillerLayer(Options{}, 0, 64<<10)
	if err != nil {
		return nil, err
	}
	return l.compressed[:len(l.compressed)/2], nil
}

func truncatedTar() ([]byte, error) {
	l, err := fillerLayer(Options{Compression: None}, 0, 64<<10)
	if err != nil {
		return nil, err
	}
	return gzipped(l.compressed[:len(l.compressed)/2+100])
}

func trailingLayer() ([]byte, error) {
	data, err := goodLayer()
	return append(bytes.Clone(data), "and something more"...), err
}

func secondArchive() ([]byte, error) {
	first, err := newLayer(Options{Compression: None}, []File{{Path: "opt/first.txt", Data: []byte("first\n")}})
	if err != nil {
		return nil, err
	}
	hidden, err := jar("org.apache.logging.log4j", "log4j-core", "2.14.1")
	if err != nil {
		return nil, err
	}
	second, err := newLayer(Options{Compression: None}, []File{{Path: "opt/log4j-core-2.14.1.jar", Data: hidden}})
	if err != nil {
		return nil, err
	}
	return gzipped(append(bytes.Clone(first.compressed), second.compressed...))
}

func twoMembers() ([]byte, error) {
	l, err := newLayer(Options{Compression: None}, []File{{Path: "opt/notes.txt", Data: bytes.Repeat([]byte("note\n"), 500)}})
	if err != nil {
		return nil, err
	}
	head, err := gzipped(l.compressed[:1000])
	if err != nil {
		return nil, err
	}
	tail, err := gzipped(l.compressed[1000:])
	return append(head, tail...), err
}

func noise() ([]byte, error) { return newFiller(0, "noise").next("noise").Data, nil }

// erofsLayer begins as an EROFS image does: its magic number is at 1024.
func erofsLayer() ([]byte, error) {
	data := make([]byte, 8192)
	copy(data[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0})
	return data, nil
}

// rawTar packs headers as they are.
func rawTar(headers ...*tar.Header) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.ModTime = Created
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%.40s: %w", h.Name, err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return gzipped(b.Bytes())
}

func escapingLayer() ([]byte, error) {
	return rawTar(
		&tar.Header{Typeflag: tar.TypeReg, Name: "../../../../tmp/escaped", Mode: 0o644, Size: 8},
		&tar.Header{Typeflag: tar.TypeReg, Name: "/absolute", Mode: 0o644, Size: 8},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "opt/out", Linkname: "../../../../etc/shadow"},
		&tar.Header{Typeflag: tar.TypeLink, Name: "opt/hard", Linkname: "../../../../etc/shadow"},
		&tar.Header{Typeflag: tar.TypeReg, Name: "opt/../../up", Mode: 0o644, Size: 8})
}

func loopLayer() ([]byte, error) {
	return rawTar(
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "opt/a", Linkname: "b"},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "opt/b", Linkname: "a"},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "opt/self", Linkname: "self/self"},
		&tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/share/again", Linkname: "/usr"})
}

func deviceLayer() ([]byte, error) {
	return rawTar(
		&tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		&tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Mode: 0o600, Devmajor: 8},
		&tar.Header{Typeflag: tar.TypeFifo, Name: "run/pipe", Mode: 0o600},
		&tar.Header{Typeflag: 'Q', Name: "opt/unknown", Mode: 0o600})
}

func longNameLayer() ([]byte, error) {
	name := bytes.Repeat([]byte("n"), 1_000_000)
	return rawTar(&tar.Header{Typeflag: tar.TypeReg, Name: string(name), Mode: 0o644, Format: tar.FormatPAX})
}

// sparseLayer turns a plain header into GNU's old sparse one: archive/tar reads
// those and writes none.
func sparseLayer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "opt/sparse.img", Mode: 0o644, Size: 512, Format: tar.FormatGNU, ModTime: Created}
	if err := w.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := w.Write(make([]byte, 512)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	block := b.Bytes()[:512]
	const terabyte = 1 << 40
	block[156] = tar.TypeGNUSparse
	// One stretch of data at the very end; %011o has no room for it, base 256 does.
	putNumber(block[386:398], terabyte-512)
	putNumber(block[398:410], 512)
	putNumber(block[483:495], terabyte)
	copy(block[148:156], "        ")
	sum := 0
	for _, c := range block {
		sum += int(c)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return gzipped(b.Bytes())
}

// putNumber writes a number in base 256, as GNU tar does for large ones.
func putNumber(field []byte, n int64) {
	for i := len(field) - 1; i > 0; i-- {
		field[i] = byte(n)
		n >>= 8
	}
	field[0] = 0x80
}

func (o *Oddity) whiteout() error {
	archive, err := jar("org.apache.logging.log4j", "log4j-core", "2.14.1")
	if err != nil {
		return err
	}
	base, _, err := o.rootfs()
	if err != nil {
		return err
	}
	layers := []ocispec.Descriptor{base}
	for _, files := range [][]File{
		{{Path: "app/lib/log4j-core-2.14.1.jar", Data: archive}, {Path: "app/old/log4j-core.jar", Data: archive}},
		{{Path: "app/lib/.wh.log4j-core-2.14.1.jar"}, {Path: "app/old/.wh..wh..opq"}},
	} {
		l, err := newLayer(Options{}, files)
		if err != nil {
			return err
		}
		layers = append(layers, o.blob(ocispec.MediaTypeImageLayerGzip, l.compressed))
	}
	return o.imageOf(layers...)
}

// bomb repeats one gzip member of zeros, which costs no more to make than one.
func (o *Oddity) bomb() error {
	const step = 16 << 20
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "opt/zeros", Mode: 0o644, Size: bombSize, ModTime: Created}); err != nil {
		return err
	}
	data, err := gzipped(head.Bytes())
	if err != nil {
		return err
	}
	zeros := make([]byte, step)
	member, err := gzipped(zeros)
	if err != nil {
		return err
	}
	end, err := gzipped(zeros[:1024])
	if err != nil {
		return err
	}
	diff := sha256.New()
	diff.Write(head.Bytes())
	for range bombSize / step {
		data = append(data, member...)
		diff.Write(zeros)
	}
	data = append(data, end...)
	diff.Write(zeros[:1024])
	base, diffID, err := o.rootfs()
	if err != nil {
		return err
	}
	config, err := o.config(diffID, digest.NewDigest(digest.SHA256, diff))
	if err != nil {
		return err
	}
	return o.image(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{base, o.blob(ocispec.MediaTypeImageLayerGzip, data)}})
}
