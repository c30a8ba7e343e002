package hostile

import (
	"bytes"
	"encoding/binary"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// compressed is what attacks on the way to the tar.
func compressed() []Case {
	small := func() []byte { return new(Tar).File("f", "contents").End() }
	return []Case{
		one("gzip ratio bomb", limit, "for each compressed", func() Layer { return bare(Bomb(1024)) }),
		one("gzip bomb of members", limit, "for each compressed", func() Layer {
			head := Member(Huge(Header("zeros", '0', 0)), "", "")
			return bare(join(head, bytes.Repeat(Bomb(64), 40)))
		}),
		one("zstd bomb", limit, "for each compressed", func() Layer {
			return bare(join(Zstd(Header("zeros", '0', 1<<32)), bytes.Repeat(Zstd(make([]byte, 8<<20)), 60)))
		}),
		one("gzip with a wrong checksum", failed, "no readable gzip", func() Layer { return bare(flip(Member(small(), "", ""), -8)) }),
		one("gzip with a wrong length", failed, "no readable gzip", func() Layer { return bare(flip(Member(small(), "", ""), -1)) }),
		one("gzip with a wrong checksum of its header", failed, "no readable gzip", func() Layer { return bare(flip(Member(small(), "", "name"), 12)) }),
		one("gzip with a name without end", failed, "no readable gzip", func() Layer {
			return bare(join([]byte{0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte("n"), 4<<20)))
		}),
		one("gzip cut short", failed, "no readable gzip", func() Layer { b := Member(small(), "", ""); return bare(b[:len(b)-9]) }),
		one("bytes behind gzip", partial, "trailing_data", func() Layer { return packed(append(Member(small(), "", ""), "more"...), small()) }),
		one("a tar behind gzip", partial, "trailing_data", func() Layer { return packed(join(Member(small(), "", ""), small()), small()) }),
		one("zstd with a wrong checksum", failed, "no readable zstd", func() Layer { return bare(flip(Zstd(small()), -1)) }),
		one("zstd with a window of a gigabyte", limit, "zstd window", func() Layer { return bare(zstdFrame(0x00, 20<<3)) }),
		one("zstd of a terabyte in one piece", limit, "uncompressed bytes", func() Layer {
			return bare(zstdFrame(0xe0, 0, 0, 0, 0, 0, 1, 0, 0)) // all of it is its window
		}),
		one("zstd with a dictionary", failed, "no readable zstd", func() Layer { return bare(zstdFrame(0x01, 0, 0x7f)) }),
		one("bytes behind zstd", failed, "no readable zstd", func() Layer { return bare(append(Zstd(small()), "more"...)) }),
		one("bzip2", failed, "bzip2", func() Layer { return bare([]byte("BZh91AY&SY" + strings.Repeat("x", 600))) }),
		one("xz", failed, "xz", func() Layer { return bare([]byte("\xfd7zXZ\x00\x00\x04" + strings.Repeat("x", 600))) }),
		one("lz4", failed, "no tar", func() Layer { return packed([]byte("\x04\x22\x4d\x18"+strings.Repeat("x", 600)), nil) }),
		one("gzip in gzip", failed, "no tar", func() Layer { return zipped(Member(small(), "", "")) }),
		one("squashfs under a tar's type", failed, "no tar", func() Layer { return bare([]byte("hsqs" + strings.Repeat("\x01", 4096))) }),
		one("EROFS under a tar's type", failed, "file system image", func() Layer { return bare(erofs()) }),
		one("EROFS in gzip", failed, "file system image", func() Layer { return zipped(erofs()) }),
		one("encrypted", failed, "encrypted", func() Layer {
			l := zipped(small())
			l.MediaType += "+encrypted"
			return l
		}),
		one("squashfs under its own type", failed, "squashfs", func() Layer {
			return Layer{"application/vnd.sylabs.image.layer.v1.squashfs", []byte("hsqs" + strings.Repeat("\x01", 4096)), ""}
		}),
		one("random bytes", failed, "no tar", func() Layer {
			return Layer{ocispec.MediaTypeImageLayerZstd, bytes.Repeat([]byte("\x93\x11noise"), 500), ""}
		}),
	}
}

// Bomb returns a gzip member of so many mebibytes of zeros, about a thousandth as long.
func Bomb(mebibytes int) []byte {
	head := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}
	tail := binary.LittleEndian.AppendUint32(nil, zerosSum(mebibytes))
	return join(head, deflatedZeros(mebibytes), binary.LittleEndian.AppendUint32(tail, uint32(mebibytes*mebibyte)))
}

// zstdFrame is a frame that begins with a descriptor and what goes with it, and holds
// one last, empty block.
func zstdFrame(header ...byte) []byte {
	return join([]byte{0x28, 0xb5, 0x2f, 0xfd}, header, []byte{1, 0, 0})
}

// erofs begins as such an image does: a kilobyte of zeros, then its superblock.
func erofs() []byte {
	return join(make([]byte, 1024), []byte{0xe2, 0xe1, 0xf5, 0xe0}, bytes.Repeat([]byte{7}, 8000))
}
