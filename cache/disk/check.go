package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"strings"

	"github.com/sluicegate/sluice/cache"
)

// What bbolt's file looks like, version 2 (go.etcd.io/bbolt/internal/common): pages
// of pageSize bytes, in the machine's byte order.
//
//	page   id 8, flags 2, count 2, overflow 4; count elements; keys and values
//	meta   magic 4, version 4, page size 4, flags 4, root 16, free list 8, pages 8, transaction 8, FNV-64a of these
//	leaf   flags 4, pos 4, key size 4, value size 4; pos counts from the element
//	branch pos 4, key size 4, page 8
//	bucket page 8, sequence 8; where page is 0, a leaf page follows
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	branchPage, leafPage = 1, 2
	bucketLeaf           = 1

	pageHeader, element, bucketHeader = 16, 16, 16
	metaSummed                        = 56
	noFreelist                        = ^uint64(0)
	maxDepth                          = 64
)

var order = binary.NativeEndian

// A checker walks the tree of one bbolt file, which nobody changes meanwhile.
type checker struct {
	file  io.ReaderAt
	pages uint64   // all pages in use are below it
	seen  []uint64 // a bit for each page
	tally tally    // of what has been seen
	want  tally    // as the file says
}

// check returns an error where the file, of size bytes, is not a store whose every
// record can be found: it checks each page, reference, key and record on the way
// from the root, but not the values' own checksums.
func check(file io.ReaderAt, size int64) error {
	root, pages, txid, err := readMeta(file)
	if err != nil {
		return err
	}
	if pages > uint64(size)/pageSize {
		return fmt.Errorf("it is cut short: %d bytes of %d pages", size, pages)
	}
	c := &checker{file: file, pages: pages, seen: make([]uint64, pages/64+1)}
	names := 0
	err = c.walk(root, nil, nil, maxDepth, func(name, _ []byte, at reader, isBucket bool) error {
		names++
		if !isBucket {
			return errShape
		}
		visit, ok := map[string]visitor{
			string(aboutBucket): c.about, string(entriesBucket): c.entry, string(endsBucket): c.end,
		}[string(name)]
		if !ok {
			return errShape
		}
		return c.bucket(at, visit)
	})
	switch {
	case err != nil:
		return err
	case names == 0 && txid <= 1: // made, and not yet written to
		return nil
	case names != 3:
		return errShape
	case c.tally != c.want:
		return fmt.Errorf("it has %d records (sum %d) and should have %d (sum %d)", c.tally.count, c.tally.sum, c.want.count, c.want.sum)
	}
	return nil
}

// readMeta returns the root page, the number of pages and the transaction from the
// newer of the two meta pages. Both must be whole, and one transaction apart.
func readMeta(file io.ReaderAt) (root, pages, txid uint64, err error) {
	var txids [2]uint64
	for i := range txids {
		var m [metaSummed + 8]byte
		if _, err := file.ReadAt(m[:], int64(i)*pageSize+pageHeader); err != nil {
			return 0, 0, 0, fmt.Errorf("its first pages can't be read: %w", err)
		}
		sum := fnv.New64a()
		sum.Write(m[:metaSummed])
		switch {
		case order.Uint32(m[0:]) != boltMagic || order.Uint32(m[4:]) != boltVersion || order.Uint32(m[8:]) != pageSize:
			return 0, 0, 0, errShape
		case order.Uint64(m[metaSummed:]) != sum.Sum64():
			return 0, 0, 0, errors.New("a meta page does not match its checksum")
		}
		txids[i] = order.Uint64(m[48:])
		if i == 0 || txids[1] > txids[0] {
			root, pages = order.Uint64(m[16:]), order.Uint64(m[40:])
		}
		if free := order.Uint64(m[32:]); free != noFreelist && txids[i] > 1 {
			return 0, 0, 0, errShape // a free list that something else wrote
		}
	}
	if txids[0]+1 != txids[1] && txids[1]+1 != txids[0] {
		return 0, 0, 0, errors.New("a meta page is out of date")
	}
	return root, pages, max(txids[0], txids[1]), nil
}

// A visitor is called with each key of a bucket, the first bytes of its value, as
// many as a record's sum needs, and a reader of the page from where the value begins.
type visitor func(key, b []byte, at reader, isBucket bool) error

// A reader reads part of a page.
type reader struct {
	first []byte // of the page, from its beginning
	file  io.ReaderAt
	base  int64 // of the page in the file
	off   int   // where this reader begins in the page
	size  int   // of the page from there
}

// read returns n bytes from off on.
func (r reader) read(off, n uint64) ([]byte, error) {
	if off > uint64(r.size) || n > uint64(r.size)-off {
		return nil, errors.New("something on a page lies outside of it")
	}
	from := r.off + int(off)
	if from+int(n) <= len(r.first) {
		return r.first[from:][:n], nil
	}
	b := make([]byte, n)
	_, err := r.file.ReadAt(b, r.base+int64(from))
	return b, err
}

func (r reader) at(off, size uint64) (reader, error) {
	if off > uint64(r.size) || size > uint64(r.size)-off {
		return reader{}, errors.New("something on a page lies outside of it")
	}
	r.off, r.size = r.off+int(off), int(size)
	return r, nil
}

// walk visits all keys below page id, which must lie from lo up to, not including,
// hi (nil is no bound).
func (c *checker) walk(id uint64, lo, hi []byte, depth int, visit visitor) error {
	r, err := c.page(id)
	if err != nil {
		return err
	}
	if order.Uint16(r.first[8:]) == leafPage {
		return leaf(r, lo, hi, visit)
	}
	if depth == 0 {
		return errors.New("its tree is too deep")
	}
	type child struct {
		key []byte
		id  uint64
	}
	var children []child
	for i := range uint64(order.Uint16(r.first[10:])) {
		at := pageHeader + i*element
		e, err := r.read(at, element)
		if err != nil {
			return err
		}
		e = bytes.Clone(e)
		key, err := r.read(at+uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])))
		if err != nil {
			return err
		}
		children = append(children, child{key, order.Uint64(e[8:])})
	}
	if len(children) == 0 {
		return errors.New("a branch page is empty")
	}
	for i, child := range children {
		to := hi
		if i+1 < len(children) {
			to = children[i+1].key
		}
		if !within(child.key, lo, to) {
			return errors.New("the keys of a branch page are out of order")
		}
		if err := c.walk(child.id, child.key, to, depth-1, visit); err != nil {
			return err
		}
	}
	return nil
}

// page reads the first part of page id and notes that it has been seen.
func (c *checker) page(id uint64) (reader, error) {
	if id < 2 || id >= c.pages {
		return reader{}, fmt.Errorf("there is no page %d", id)
	}
	first := make([]byte, pageSize)
	base := int64(id) * pageSize
	if _, err := c.file.ReadAt(first, base); err != nil {
		return reader{}, fmt.Errorf("read page %d: %w", id, err)
	}
	flags, overflow := order.Uint16(first[8:]), uint64(order.Uint32(first[12:]))
	switch {
	case order.Uint64(first) != id:
		return reader{}, fmt.Errorf("page %d says that it is another one", id)
	case flags != leafPage && flags != branchPage:
		return reader{}, fmt.Errorf("page %d is of an unknown kind", id)
	case overflow >= c.pages-id:
		return reader{}, fmt.Errorf("page %d is too long", id)
	}
	for p := id; p <= id+overflow; p++ {
		if c.seen[p/64]&(1<<(p%64)) != 0 {
			return reader{}, fmt.Errorf("page %d is referred to twice", p)
		}
		c.seen[p/64] |= 1 << (p % 64)
	}
	return reader{first: first, file: c.file, base: base, size: int(overflow+1) * pageSize}, nil
}

// leaf visits the keys of a leaf page.
func leaf(r reader, lo, hi []byte, visit visitor) error {
	h, err := r.read(0, pageHeader)
	if err != nil {
		return err
	}
	var last []byte
	for i := range uint64(order.Uint16(h[10:])) {
		at := pageHeader + i*element
		e, err := r.read(at, element)
		if err != nil {
			return err
		}
		e = bytes.Clone(e)
		flags, keySize, size := order.Uint32(e), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		pos := at + uint64(order.Uint32(e[4:]))
		key, err := r.read(pos, keySize)
		if err != nil {
			return err
		}
		if flags > bucketLeaf || i > 0 && bytes.Compare(last, key) >= 0 || !within(key, lo, hi) {
			return errors.New("the keys of a leaf page are out of order")
		}
		last = key
		body, err := r.at(pos+keySize, size)
		if err != nil {
			return err
		}
		b, err := body.read(0, min(size, recordHeader+summed))
		if err != nil {
			return err
		}
		if err := visit(key, b, body, flags == bucketLeaf); err != nil {
			return err
		}
	}
	return nil
}

// bucket visits the keys of the bucket whose header is at r.
func (c *checker) bucket(r reader, visit visitor) error {
	h, err := r.read(0, bucketHeader)
	if err != nil {
		return err
	}
	if root := order.Uint64(h); root != 0 {
		return c.walk(root, nil, nil, maxDepth, visit)
	}
	r, err = r.at(bucketHeader, uint64(r.size-bucketHeader))
	if err != nil {
		return err
	}
	h, err = r.read(0, pageHeader)
	if err != nil {
		return err
	}
	if order.Uint64(h) != 0 || order.Uint16(h[8:]) != leafPage {
		return errors.New("a page within a page is none")
	}
	return leaf(r, nil, nil, visit)
}

func (c *checker) about(key, b []byte, at reader, isBucket bool) error {
	switch {
	case isBucket:
		return errShape
	case string(key) == string(formatKey):
		got, err := at.read(0, uint64(at.size))
		if err != nil {
			return err
		}
		if schema, ok := strings.CutPrefix(string(got), formatName); ok {
			if err := cache.CheckSchema("it", schema, cache.Schema); err != nil {
				return schemaError{err}
			}
			return nil
		}
		return errShape
	case string(key) == string(tallyKey):
		var err error
		c.want, err = decodeTally(b)
		return err
	case string(key) != string(pingKey):
		return errShape
	}
	return nil
}

func (c *checker) entry(key, b []byte, _ reader, isBucket bool) error {
	if isBucket {
		return errShape
	}
	if _, err := decode(key, b); err != nil {
		return err
	}
	c.tally.add(sumIn(b))
	return nil
}

func (c *checker) end(key, _ []byte, at reader, isBucket bool) error {
	if isBucket || len(key) < 8 || at.size != len(noted) {
		return errShape
	}
	c.tally.add(sumOf(key))
	return nil
}

func within(key, lo, hi []byte) bool {
	return (lo == nil || bytes.Compare(key, lo) >= 0) && (hi == nil || bytes.Compare(key, hi) < 0)
}
