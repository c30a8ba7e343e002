package disk

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/sluicegate/sluice/cache"
	bolt "go.etcd.io/bbolt"
)

var (
	aboutBucket   = []byte("about")
	entriesBucket = []byte("entries")
	endsBucket    = []byte("ends")

	formatKey = []byte("format")
	tallyKey  = []byte("tally")
	pingKey   = []byte("ping")

	noted = []byte{1} // the value of each end
)

// formatName stands before the schema in a file's format.
const formatName = "sluice store "

var format = formatName + strconv.Itoa(cache.Schema)

// errShape means that the file is a bbolt database, but none of ours.
var errShape = errors.New("it does not have the shape of a store")

// A tx is a transaction on the three buckets.
type tx struct {
	about, entries, ends *bolt.Bucket
	now                  time.Time
	tally                tally // written back when the transaction ends, if it changed
}

func newTx(t *bolt.Tx) (*tx, error) {
	x := &tx{about: t.Bucket(aboutBucket), entries: t.Bucket(entriesBucket), ends: t.Bucket(endsBucket), now: time.Now()}
	if x.about == nil || x.entries == nil || x.ends == nil {
		return nil, errShape
	}
	var err error
	x.tally, err = decodeTally(x.about.Get(tallyKey))
	return x, err
}

// create makes the buckets of a new file.
func create(t *bolt.Tx) error {
	about, err := t.CreateBucket(aboutBucket)
	if err == nil {
		_, err = t.CreateBucket(entriesBucket)
	}
	if err == nil {
		_, err = t.CreateBucket(endsBucket)
	}
	if err == nil {
		err = about.Put(formatKey, []byte(format))
	}
	if err == nil {
		err = about.Put(tallyKey, tally{}.encode())
	}
	return err
}

// find returns the record under key; one that has expired, or that isn't there, has
// kind 0. In a transaction that writes, what has expired is removed first.
func (x *tx) find(key []byte) (record, error) {
	b := x.entries.Get(key)
	if b == nil {
		return record{}, nil
	}
	r, err := decode(key, b)
	if err != nil {
		return record{}, err
	}
	if !r.expired(x.now) {
		return r, nil
	}
	if x.entries.Writable() {
		err = x.remove(key, r)
	}
	return record{}, err
}

// set stores r under key, where old is what lies there now.
func (x *tx) set(key []byte, old, r record) error {
	if b := x.entries.Get(key); b != nil {
		x.tally.remove(sumIn(b))
	}
	b := r.encode(key)
	x.tally.add(sumIn(b))
	if err := x.entries.Put(key, b); err != nil {
		return err
	}
	if old.end == r.end {
		return nil
	}
	if err := x.unnote(old.end, key); err != nil {
		return err
	}
	if r.end == 0 {
		return nil
	}
	end := endKey(r.end, key)
	x.tally.add(sumOf(end))
	return x.ends.Put(end, noted)
}

// unnote removes the note of an end of life, where there is one.
func (x *tx) unnote(end int64, key []byte) error {
	if end == 0 {
		return nil
	}
	k := endKey(end, key)
	if x.ends.Get(k) == nil {
		return errors.New("an end of life is not noted")
	}
	x.tally.remove(sumOf(k))
	return x.ends.Delete(k)
}

// remove deletes r, which lies under key, with its fields and its end.
func (x *tx) remove(key []byte, r record) error {
	keys := [][]byte{key}
	if r.kind == mapping {
		prefix := fieldKey(key, "")
		c := x.entries.Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			keys = append(keys, bytes.Clone(k)) // not deleted here: that confuses the cursor
		}
	}
	for _, k := range keys {
		if b := x.entries.Get(k); b != nil {
			x.tally.remove(sumIn(b))
		}
		if err := x.entries.Delete(k); err != nil {
			return err
		}
	}
	return x.unnote(r.end, key)
}

// put stores packed as the value of k. It reports a refusal, and an error that
// undoes the transaction.
func (x *tx) put(k cache.Key, packed []byte, ttl time.Duration) (refused, err error) {
	key := entryKey(k)
	old, err := x.find(key)
	if err != nil {
		return nil, err
	}
	if old.kind == mapping {
		return errIsMap("put", k), nil
	}
	return nil, x.set(key, old, record{value, endOf(x.now, ttl), packed})
}

// putNew is put where there is no value; else it returns a copy of the one there is.
func (x *tx) putNew(k cache.Key, packed []byte, ttl time.Duration) (there []byte, refused, err error) {
	key := entryKey(k)
	old, err := x.find(key)
	switch {
	case err != nil:
		return nil, nil, err
	case old.kind == mapping:
		return nil, errIsMap("put", k), nil
	case old.kind == value:
		return bytes.Clone(old.body), nil, nil
	}
	return nil, nil, x.set(key, old, record{value, endOf(x.now, ttl), packed})
}

// get returns the packed value of k, nil where there is none. It is x's own.
func (x *tx) get(k cache.Key) (packed []byte, refused, err error) {
	r, err := x.find(entryKey(k))
	if r.kind == mapping {
		return nil, errIsMap("put", k), nil
	}
	return r.body, nil, err
}

func (x *tx) delete(k cache.Key) error {
	key := entryKey(k)
	old, err := x.find(key)
	if err != nil || old.kind == 0 {
		return err
	}
	return x.remove(key, old)
}

func (x *tx) putField(k cache.Key, name string, packed []byte, ttl time.Duration) (refused, err error) {
	key := entryKey(k)
	old, err := x.find(key)
	if err != nil {
		return nil, err
	}
	if old.kind == value {
		return errIsValue("set a field of", k), nil
	}
	next := head(endOf(x.now, ttl), 0)
	if old.kind == mapping {
		end := max(next.end, old.end)
		if next.end == 0 || old.end == 0 {
			end = 0
		}
		next = head(end, old.fields())
	}
	at := fieldKey(key, name)
	if x.entries.Get(at) == nil {
		next = head(next.end, next.fields()+1)
	}
	if err := x.set(at, record{}, record{field, 0, packed}); err != nil {
		return nil, err
	}
	return nil, x.set(key, old, next)
}

func (x *tx) deleteField(k cache.Key, name string) (refused, err error) {
	key := entryKey(k)
	old, err := x.find(key)
	if err != nil || old.kind == 0 {
		return nil, err
	}
	if old.kind == value {
		return errIsValue("delete a field of", k), nil
	}
	at := fieldKey(key, name)
	b := x.entries.Get(at)
	if b == nil {
		return nil, nil
	}
	if old.fields() <= 1 {
		return nil, x.remove(key, old)
	}
	x.tally.remove(sumIn(b))
	if err := x.entries.Delete(at); err != nil {
		return nil, err
	}
	return nil, x.set(key, old, head(old.end, old.fields()-1))
}

// fields calls do with each field of the map under k.
func (x *tx) fields(k cache.Key, do func(name string, packed []byte) error) (refused, err error) {
	key := entryKey(k)
	r, err := x.find(key)
	if err != nil || r.kind == 0 {
		return nil, err
	}
	if r.kind == value {
		return errIsValue("read the fields of", k), nil
	}
	prefix, n := fieldKey(key, ""), uint64(0)
	c := x.entries.Cursor()
	for at, b := c.Seek(prefix); bytes.HasPrefix(at, prefix); at, b = c.Next() {
		f, err := decode(at, b)
		if err != nil {
			return nil, err
		}
		if err := do(string(at[len(prefix):]), f.body); err != nil {
			return nil, err
		}
		n++
	}
	if n != r.fields() {
		return nil, fmt.Errorf("a map has %d fields and should have %d", n, r.fields())
	}
	return nil, nil
}

// expired returns at most limit ends of life that have passed.
func (x *tx) expired(limit int) (ends [][]byte) {
	now := endKey(x.now.UnixNano()+1, nil)
	c := x.ends.Cursor()
	for k, _ := c.First(); k != nil && bytes.Compare(k, now) < 0 && len(ends) < limit; k, _ = c.Next() {
		ends = append(ends, bytes.Clone(k))
	}
	return ends
}

// sweep removes at most limit entries that have expired and reports whether there
// may be more.
func (x *tx) sweep(limit int) (more bool, err error) {
	ends := x.expired(limit)
	for _, end := range ends {
		if _, err := x.find(end[8:]); err != nil { // which removes what has expired, and its end
			return false, err
		}
		if x.ends.Get(end) != nil {
			return false, errors.New("an end of life is noted of what does not end")
		}
	}
	return len(ends) == limit, nil
}

func errIsMap(verb string, k cache.Key) error {
	return fmt.Errorf("%s %q: it is a map, not a value: %w", verb, k, cache.ErrDamaged)
}

func errIsValue(verb string, k cache.Key) error {
	return fmt.Errorf("%s %q: it is a value, not a map: %w", verb, k, cache.ErrDamaged)
}
