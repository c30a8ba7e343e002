package disk

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// What a record is.
const (
	value   = 'v' // body: a packed value
	mapping = 'm' // body: number of fields, 8 bytes
	field   = 'f' // body: a packed value
)

const (
	recordHeader = 1 + 8 + 4 // kind, end, sum
	summed       = 8         // bytes of the body that the sum covers
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A record is what lies under a key of the bucket "entries":
//
//	kind, end of life in Unix nanoseconds (0 is never), sum, body
//
// The sum covers the key, kind, end and the first bytes of the body, which hold the
// body's own checksum. It ties a body to its key and can be checked without reading
// a large body.
type record struct {
	kind byte
	end  int64
	body []byte
}

func (r record) encode(key []byte) []byte {
	b := make([]byte, recordHeader, recordHeader+len(r.body))
	b[0] = r.kind
	binary.BigEndian.PutUint64(b[1:], uint64(r.end))
	b = append(b, r.body...)
	binary.BigEndian.PutUint32(b[9:], recordSum(key, b))
	return b
}

// decode returns the record in b. Its body is part of b and not yet checked.
func decode(key, b []byte) (record, error) {
	switch {
	case len(b) < recordHeader:
		return record{}, errors.New("a record is cut short")
	case binary.BigEndian.Uint32(b[9:]) != recordSum(key, b):
		return record{}, errors.New("a record does not match its checksum")
	case b[0] != value && b[0] != mapping && b[0] != field || b[0] == mapping && len(b) != recordHeader+8:
		return record{}, errors.New("a record of unknown kind")
	}
	return record{b[0], int64(binary.BigEndian.Uint64(b[1:])), b[recordHeader:]}, nil
}

// recordSum needs no more of record than its header and the first bytes of its body.
func recordSum(key, record []byte) uint32 {
	sum := crc32.Checksum(key, castagnoli)
	sum = crc32.Update(sum, castagnoli, record[:9])
	return crc32.Update(sum, castagnoli, record[recordHeader:min(len(record), recordHeader+summed)])
}

func (r record) expired(now time.Time) bool { return r.end != 0 && r.end <= now.UnixNano() }

// fields returns the number of fields of a mapping.
func (r record) fields() uint64 { return binary.BigEndian.Uint64(r.body) }

func head(end int64, fields uint64) record {
	return record{mapping, end, binary.BigEndian.AppendUint64(nil, fields)}
}

// entryKey returns where k's value or head lies. No entryKey is the beginning of
// another one.
func entryKey(k cache.Key) []byte {
	b := binary.AppendUvarint(nil, uint64(len(k.Kind())))
	b = append(b, k.Kind()...)
	b = binary.AppendUvarint(b, uint64(len(k.ID())))
	return append(b, k.ID()...)
}

// fieldKey returns where a field of the map under entry lies.
func fieldKey(entry []byte, name string) []byte {
	b := append(make([]byte, 0, len(entry)+1+len(name)), entry...)
	return append(append(b, field), name...)
}

// endKey returns where an end of life is noted.
func endKey(end int64, entry []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(end)), entry...)
}

// endOf returns the end of life of what is written now to live for ttl.
func endOf(now time.Time, ttl time.Duration) int64 {
	if ttl == 0 {
		return 0
	}
	return now.Add(max(ttl, time.Millisecond)).UnixNano()
}

// A tally is over all records and ends. It tells whether one is missing, or older
// than it should be.
type tally struct{ count, sum uint64 }

func (t *tally) add(sum uint32) {
	t.count++
	t.sum += uint64(sum)
}

func (t *tally) remove(sum uint32) {
	t.count--
	t.sum -= uint64(sum)
}

// sumIn returns the sum that an encoded record holds, sumOf that of an end's key.
func sumIn(record []byte) uint32 { return binary.BigEndian.Uint32(record[9:]) }
func sumOf(end []byte) uint32    { return crc32.Checksum(end, castagnoli) }

func (t tally) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, t.count)
	b = binary.BigEndian.AppendUint64(b, t.sum)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeTally(b []byte) (tally, error) {
	if len(b) != 20 || binary.BigEndian.Uint32(b[16:]) != crc32.Checksum(b[:16], castagnoli) {
		return tally{}, errors.New("the tally does not match its checksum")
	}
	return tally{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}
