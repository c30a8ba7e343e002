package hostile

import (
	"bytes"
	"fmt"
	"strings"
)

// A Tar is a tar under construction, header by header, sound or not. Its zero value is
// an empty one; what was written to it is never read back.
type Tar struct{ bytes.Buffer }

// block is the unit of a tar.
const block = 512

// Header returns a ustar header of any type and size, with its checksum. The name is cut
// at 100 bytes: Long makes room for more.
func Header(name string, typ byte, size int64) []byte {
	b := make([]byte, block)
	copy(b[:100], name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", size))
	copy(b[136:], "00000000000\x00")
	b[156] = typ
	copy(b[257:], "ustar\x0000")
	return Sum(b)
}

// Sum sets the checksum of a header that was changed.
func Sum(b []byte) []byte {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:block] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Entry writes a header and what follows it, filled up to a block.
func (t *Tar) Entry(header []byte, body string) *Tar {
	t.Write(header)
	t.WriteString(body)
	if over := len(body) % block; over > 0 {
		t.Write(make([]byte, block-over))
	}
	return t
}

// File writes a regular file.
func (t *Tar) File(name, body string) *Tar {
	return t.long(name).Entry(Header(name, '0', int64(len(body))), body)
}

// Dir writes a directory.
func (t *Tar) Dir(name string) *Tar { return t.long(name).Entry(Header(name, '5', 0), "") }

// Symlink writes a symbolic link to target, which has at most 100 bytes.
func (t *Tar) Symlink(name, target string) *Tar { return t.link('2', name, target) }

// Link writes a hard link to target, which has at most 100 bytes.
func (t *Tar) Link(name, target string) *Tar { return t.link('1', name, target) }

func (t *Tar) link(typ byte, name, target string) *Tar {
	h := Header(name, typ, 0)
	copy(h[157:257], target)
	return t.long(name).Entry(Sum(h), "")
}

// long writes a name that has no room in a header.
func (t *Tar) long(name string) *Tar {
	if len(name) > 100 {
		t.Pax('x', "path="+name)
	}
	return t
}

// Pax writes an extended header of records "key=value", for the next entry ('x') or for
// all that follow ('g').
func (t *Tar) Pax(typ byte, records ...string) *Tar {
	body := Records(records...)
	return t.Entry(Header("pax", typ, int64(len(body))), body)
}

// Records returns PAX records, each with its length.
func Records(records ...string) string {
	var out strings.Builder
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprint(n))+len(r)+2 != n {
			n = len(fmt.Sprint(n)) + len(r) + 2
		}
		fmt.Fprintf(&out, "%d %s\n", n, r)
	}
	return out.String()
}

// End returns the tar with the two blocks that end it.
func (t *Tar) End() []byte {
	return append(bytes.Clone(t.Bytes()), make([]byte, 2*block)...)
}

// SparseHeader is an old GNU header of a file of 8 GiB with five bytes at its start.
func SparseHeader(name string) []byte {
	b := Header(name, 'S', 5)
	copy(b[257:], "ustar  \x00")
	clear(b[345:])
	copy(b[386:], "00000000000\x0000000000005\x00")
	copy(b[483:], "77777777777\x00")
	return Sum(b)
}

// Huge sets a header's size to more than any disk holds, in GNU's base-256 encoding.
func Huge(header []byte) []byte {
	clear(header[124:136])
	header[124], header[128] = 0x80, 0x7f
	return Sum(header)
}
