package sample

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Created is the time of every file and image: builds must not differ by the clock.
var Created = time.Date(2025, 7, 22, 0, 0, 0, 0, time.UTC)

// A Compression is how a layer's tar is packed.
type Compression string

const (
	Gzip Compression = "gzip"
	Zstd Compression = "zstd"
	None Compression = "none"
)

// A File is an entry of a layer. Folders above it are added by themselves.
type File struct {
	Path string // without a slash in front; with one at its end it is a folder
	Data []byte
	Mode int64  // 0644, of a folder 0755, where it is 0
	Link string // target of a symbolic link
	UID  int
}

// layer is a layer in memory.
type layer struct {
	compressed []byte
	digest     v1.Hash
	diffID     v1.Hash
	mediaType  types.MediaType
}

var _ v1.Layer = (*layer)(nil)

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.diffID, nil }
func (l *layer) Size() (int64, error)                 { return int64(len(l.compressed)), nil }
func (l *layer) MediaType() (types.MediaType, error)  { return l.mediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return newBody(l.compressed), nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return unpack(l.compressed, l.mediaType) }

func newBody(data []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(data)) }

func unpack(data []byte, t types.MediaType) (io.ReadCloser, error) {
	switch {
	case strings.HasSuffix(string(t), "zstd"):
		r, err := zstd.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	case strings.HasSuffix(string(t), "gzip"):
		return gzip.NewReader(bytes.NewReader(data))
	}
	return newBody(data), nil
}

// mediaType names a layer's type. Docker knows no zstd, so that is OCI's.
func (o Options) mediaType() types.MediaType {
	switch {
	case o.Compression == Zstd:
		return types.OCILayerZStd
	case o.Compression == None && o.Docker:
		return types.DockerUncompressedLayer
	case o.Compression == None:
		return types.OCIUncompressedLayer
	case o.Docker:
		return types.DockerLayer
	}
	return types.OCILayer
}

// A tarball is a layer that is being written. Its compressed size can be asked on
// the way, which is how filler stops at a size.
type tarball struct {
	out    bytes.Buffer
	pack   packer
	diff   *countingHash
	tar    *tar.Writer
	made   map[string]bool // folders that are in it
	option Options
}

type packer interface {
	io.WriteCloser
	Flush() error
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }
func (plain) Flush() error { return nil }

func newTarball(o Options) (*tarball, error) {
	t := &tarball{made: map[string]bool{}, diff: newCountingHash(), option: o}
	switch o.Compression {
	case Zstd:
		w, err := zstd.NewWriter(&t.out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		t.pack = w
	case None:
		t.pack = plain{&t.out}
	default:
		t.pack = gzip.NewWriter(&t.out)
	}
	t.tar = tar.NewWriter(io.MultiWriter(t.pack, t.diff))
	return t, nil
}

func (t *tarball) add(f File) error {
	if err := t.addParents(path.Dir(strings.TrimSuffix(f.Path, "/"))); err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), Uid: f.UID, Gid: f.UID, ModTime: Created, Format: tar.FormatPAX}
	switch {
	case strings.HasSuffix(f.Path, "/"):
		if t.made[strings.TrimSuffix(f.Path, "/")] {
			return nil
		}
		t.made[strings.TrimSuffix(f.Path, "/")] = true
		h.Typeflag = tar.TypeDir
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.Link, 0
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if h.Typeflag != tar.TypeReg {
			h.Mode = 0o755
		}
	}
	if err := t.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", f.Path, err)
	}
	if h.Size == 0 {
		return nil
	}
	_, err := t.tar.Write(f.Data)
	return err
}

func (t *tarball) addParents(dir string) error {
	if dir == "." || t.made[dir] {
		return nil
	}
	return t.add(File{Path: dir + "/"})
}

// close ends the tar and returns the layer.
func (t *tarball) close() (*layer, error) {
	if err := t.tar.Close(); err != nil {
		return nil, err
	}
	if err := t.pack.Close(); err != nil {
		return nil, err
	}
	digest, _, err := v1.SHA256(bytes.NewReader(t.out.Bytes()))
	if err != nil {
		return nil, err
	}
	return &layer{t.out.Bytes(), digest, t.diff.sum(), t.option.mediaType()}, nil
}

// newLayer packs files into a layer, in their order.
func newLayer(o Options, files []File) (*layer, error) {
	t, err := newTarball(o)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := t.add(f); err != nil {
			return nil, err
		}
	}
	return t.close()
}
