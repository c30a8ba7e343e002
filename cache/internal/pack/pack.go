// Package pack makes of a value what a Store keeps: compressed where that is worth
// it, and with a checksum, so that a damaged value is an error.
//
//	packed = form, crc32c(form, value) as 4 bytes big-endian, body
//	form   = 1: body is the value    2: body is the value as one zstd frame
package pack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

const (
	plain      = 1
	compressed = 2

	header = 5 // bytes before the body
	// Below this, a frame's own header and the time for it outweigh what is saved.
	compressFrom = 1 << 10
)

// A Codec packs and unpacks values. Its methods may be called concurrently.
type Codec struct {
	max        int
	table      *crc32.Table
	compress   *zstd.Encoder
	decompress *zstd.Decoder
}

// New returns a Codec for values of at most max bytes. It must be closed.
func New(max int) (*Codec, error) {
	// The checksum here covers what the frame's own would.
	w, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(uint64(max)), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &Codec{max, crc32.MakeTable(crc32.Castagnoli), w, r}, nil
}

// Close releases what c holds.
func (c *Codec) Close() {
	c.decompress.Close()
	_ = c.compress.Close() // nothing is ever buffered in it
}

// Pack returns value in its packed form, in a new slice.
func (c *Codec) Pack(value []byte) []byte {
	packed := make([]byte, header, header+len(value))
	form := byte(plain)
	if len(value) >= compressFrom {
		if p := c.compress.EncodeAll(value, packed); len(p) < header+len(value)-len(value)/16 {
			packed, form = p, compressed
		}
	}
	if form == plain {
		packed = append(packed[:header], value...)
	}
	packed[0] = form
	binary.BigEndian.PutUint32(packed[1:header], c.sum(form, value))
	return packed
}

// Unpack returns the value that was packed, in a new slice, or an error where packed
// is not what Pack has returned.
func (c *Codec) Unpack(packed []byte) ([]byte, error) {
	if len(packed) < header {
		return nil, fmt.Errorf("%d bytes are too few for a stored value", len(packed))
	}
	var value []byte
	form, body := packed[0], packed[header:]
	switch form {
	case plain:
		value = append([]byte{}, body...)
	case compressed:
		var err error
		if value, err = c.decompress.DecodeAll(body, []byte{}); err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
	default:
		return nil, fmt.Errorf("unknown form %d of a stored value: damaged, or written by a later version", form)
	}
	if len(value) > c.max {
		return nil, fmt.Errorf("the stored value has more than %d bytes", c.max)
	}
	if binary.BigEndian.Uint32(packed[1:header]) != c.sum(form, value) {
		return nil, errors.New("the stored value does not match its checksum")
	}
	return value, nil
}

func (c *Codec) sum(form byte, value []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte{form}, c.table), c.table, value)
}
