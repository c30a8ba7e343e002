package hostile

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// Member returns a gzip member of b, with every field that its header can have: the
// extra field of eStargz and pigz, a name, a comment, a checksum of the header.
func Member(b []byte, extra, name string) []byte {
	var flags byte
	if extra != "" {
		flags |= 0x04
	}
	if name != "" {
		flags |= 0x08 | 0x10 | 0x02
	}
	head := []byte{0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 0xff}
	if extra != "" {
		head = append(binary.LittleEndian.AppendUint16(head, uint16(len(extra))), extra...)
	}
	if name != "" {
		head = append(append(append(append(head, name...), 0), "a comment"...), 0)
		head = binary.LittleEndian.AppendUint16(head, uint16(crc32.ChecksumIEEE(head)))
	}
	body := append(head, Deflate(b)...)
	body = binary.LittleEndian.AppendUint32(body, crc32.ChecksumIEEE(b))
	return binary.LittleEndian.AppendUint32(body, uint32(len(b)))
}

// Deflate returns b compressed, without any frame around it.
func Deflate(b []byte) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err == nil {
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // of a buffer
	}
	return out.Bytes()
}

// Zstd returns b as one zstd frame with its checksum.
func Zstd(b []byte, opts ...zstd.EOption) []byte {
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		panic(err) // of the options, which are ours
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// Skippable returns a zstd frame that decoders pass over.
func Skippable(b []byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(b))), b...)
}

// A mebibyte is what bombs are counted in.
const mebibyte = 1 << 20

// deflatedZeros returns so many mebibytes of zeros compressed to about a thousandth. It
// compresses three, and repeats the last: what is ahead of each is the same.
func deflatedZeros(mebibytes int) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	chunk := make([]byte, mebibyte)
	var ends [3]int
	for i := range ends {
		if err == nil {
			_, err = w.Write(chunk)
		}
		if err == nil {
			err = w.Flush()
		}
		ends[i] = out.Len()
	}
	if err != nil {
		panic(err) // of a buffer
	}
	b := out.Bytes()
	return join(b[:ends[0]], bytes.Repeat(b[ends[1]:ends[2]], mebibytes-1), []byte{3, 0})
}

// zerosSum returns the checksum of so many mebibytes of zeros.
func zerosSum(mebibytes int) uint32 {
	chunk := make([]byte, mebibyte)
	var sum uint32
	for range mebibytes {
		sum = crc32.Update(sum, crc32.IEEETable, chunk)
	}
	return sum
}

// join returns its parts one behind the other.
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// flip returns b with a bit turned at a place, counted from the end where it is negative.
func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 0x10
	return b
}
