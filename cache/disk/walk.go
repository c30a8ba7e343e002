package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/sluicegate/sluice/cache"
)

var _ cache.Walker = (*Store)(nil)

// walkBatch is how many records a Walk looks at in one transaction, which keeps the pages
// that it reads from being used again.
const walkBatch = 1000

// Walk implements cache.Walker.
func (s *Store) Walk(ctx context.Context, kind cache.Kind, do func(cache.Entry) error) error {
	var prefix []byte
	if kind != "" {
		prefix = append(binary.AppendUvarint(nil, uint64(len(kind))), kind...)
	}
	for from, more := prefix, true; more; {
		var entries []cache.Entry
		err := s.view(ctx, "list", cache.Name(kind), func(x *tx) (refused, err error) {
			entries, from, err = x.list(prefix, from)
			return nil, err
		})
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := do(e); err != nil {
				return err
			}
		}
		more = from != nil
	}
	return nil
}

// list returns some entries whose keys begin with prefix, the first of them at from or
// behind it, and where to go on; nil where there are no more.
func (x *tx) list(prefix, from []byte) (entries []cache.Entry, next []byte, err error) {
	c := x.entries.Cursor()
	n := 0
	for at, b := c.Seek(from); at != nil && bytes.HasPrefix(at, prefix); at, b = c.Next() {
		r, err := decode(at, b)
		if err != nil {
			return nil, nil, err
		}
		if n++; r.kind != field && n > walkBatch {
			return entries, bytes.Clone(at), nil
		}
		if r.expired(x.now) {
			continue
		}
		if r.kind == field { // lies behind its map, or behind one that has expired
			if i := len(entries) - 1; i >= 0 && bytes.HasPrefix(at, fieldKey(entryKey(entries[i].Key), "")) {
				entries[i].Size += int64(len(b))
			}
			continue
		}
		k, err := keyAt(at)
		if err != nil {
			return nil, nil, err
		}
		e := cache.Entry{Key: k, Map: r.kind == mapping, Size: int64(len(at) + len(b))}
		if r.end != 0 {
			e.Ends = time.Unix(0, r.end)
		}
		entries = append(entries, e)
	}
	return entries, nil, nil
}

// keyAt returns the key whose entryKey is b.
func keyAt(b []byte) (cache.Key, error) {
	var parts [2][]byte
	for i := range parts {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return cache.Key{}, errors.New("a record has a key of no known shape")
		}
		parts[i], b = b[used:][:n], b[used:][n:]
	}
	return cache.KeyOf(cache.Kind(parts[0]), string(parts[1])), nil
}
