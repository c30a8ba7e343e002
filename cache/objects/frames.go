package objects

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
)

// An object lies in the bucket as frames: up to frameSize bytes of it, and their CRC-32C in
// sumSize bytes, big-endian.
const (
	frameSize = 64 << 10
	sumSize   = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// framedSize returns how many bytes an object of that size takes in the bucket.
func framedSize(size int64) int64 {
	return size + (size+frameSize-1)/frameSize*sumSize
}

// framed returns object as it lies in the bucket.
func framed(object []byte) io.Reader {
	var pieces []io.Reader
	for frame := range slices.Chunk(object, frameSize) {
		sum := binary.BigEndian.AppendUint32(nil, crc32.Checksum(frame, castagnoli))
		pieces = append(pieces, bytes.NewReader(frame), bytes.NewReader(sum))
	}
	return io.MultiReader(pieces...)
}

// whole reports whether a frame and its sum belong together.
func whole(frame, sum []byte) bool {
	return binary.BigEndian.Uint32(sum) == crc32.Checksum(frame, castagnoli)
}
