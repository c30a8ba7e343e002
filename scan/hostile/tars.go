package hostile

import (
	"bytes"
	"fmt"
	"strings"
)

// tars is what attacks whoever reads headers one after the other.
func tars() []Case {
	header := func(name string) []byte { return Header(name, '0', 0) }
	return []Case{
		one("a million entries", limit, "more than 300000 entries", func() Layer {
			var t Tar
			for i := range 10_000 {
				t.File(noise(i, 16), "")
			}
			return bare(bytes.Repeat(Member(t.Bytes(), "", ""), 100))
		}),
		one("a million directories without entries", limit, "more than 300000 entries", func() Layer {
			var t Tar
			for i := range 10_000 {
				t.File(fmt.Sprintf("%d/%s", i, strings.Repeat("d/", 100)), "")
			}
			return zipped(t.End())
		}),
		tarred("an entry 10,000 deep", limit, "bytes of name", func(t *Tar) { t.File(strings.Repeat("d/", 10_000)+"f", "") }),
		tarred("an entry 1,000 deep", limit, "directories in a name", func(t *Tar) { t.File(strings.Repeat("d/", 1000)+"f", "") }),
		tarred("a name of 64 KiB", limit, "bytes of name", func(t *Tar) { t.File(strings.Repeat("n", 64<<10), "") }),
		tarred("a link's target of 64 KiB", limit, "bytes of name", func(t *Tar) {
			t.Pax('x', "linkpath="+strings.Repeat("n", 64<<10)).Symlink("l", "")
		}),
		tarred("a header of 2 MiB", limit, "bytes of headers", func(t *Tar) {
			t.Pax('x', "comment="+strings.Repeat("x", 2<<20)).File("f", "")
		}),
		tarred("a GNU name of 8 GiB", limit, "bytes of headers", func(t *Tar) {
			t.Entry(Header("././@LongLink", 'L', 8<<30-1), strings.Repeat("n", 3<<20))
		}),
		tarred("headers for headers", limit, "bytes of headers", func(t *Tar) {
			for range 3000 {
				t.Pax('x', "comment="+strings.Repeat("x", 600))
			}
		}),
		one("headers of a gigabyte", limit, "536870912 bytes of headers", func() Layer {
			var t Tar
			for i := range 8 {
				t.Pax('x', "SCHILY.xattr.user.a="+noise(i, 12<<10)+strings.Repeat("x", 900<<10)).File("f", "")
			}
			return bare(bytes.Repeat(Member(t.Bytes(), "", ""), 80))
		}),
		tarred("a record with a wrong length", failed, "no readable tar", func(t *Tar) {
			t.Entry(Header("pax", 'x', 20), "99 path=abc\n12345678").File("f", "")
		}),
		tarred("a negative size", failed, "no readable tar", func(t *Tar) { t.Pax('x', "size=-12").File("f", "") }),
		tarred("a size beyond any disk", failed, "no readable tar", func(t *Tar) { t.Entry(Huge(header("f")), "x") }),
		tarred("a wrong checksum in the middle", failed, "no readable tar", func(t *Tar) {
			t.File("f", "").Entry(flip(header("g"), 3), "")
		}),
		tarred("sparse, GNU", partial, "sparse_entry", func(t *Tar) { t.Entry(SparseHeader(Installed), "P:gli") }),
		tarred("sparse, PAX 0.0", partial, "sparse_entry", func(t *Tar) {
			t.Pax('x', "GNU.sparse.size=100", "GNU.sparse.numblocks=1", "GNU.sparse.offset=95", "GNU.sparse.numbytes=5").File("s", "hello")
		}),
		tarred("sparse, PAX 0.1", partial, "sparse_entry", func(t *Tar) {
			t.Pax('x', "GNU.sparse.size=100", "GNU.sparse.numblocks=1", "GNU.sparse.map=95,5", "GNU.sparse.name=s").File("GNUSparseFile.0/s", "hello")
		}),
		tarred("sparse, PAX 1.0", partial, "sparse_entry", func(t *Tar) {
			contents := Package("2.37-r1")
			table := fmt.Sprintf("1\n0\n%d\n", len(contents))
			t.Pax('x', "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name="+Installed, fmt.Sprintf("GNU.sparse.realsize=%d", len(contents)))
			t.File("GNUSparseFile.0/installed", table+strings.Repeat("\x00", block-len(table))+contents)
		}),
		tarred("an unknown type", partial, "unknown_entry_type", func(t *Tar) { t.Entry(Header(Installed, '7', 5), "hello") }),
		tarred("a directory with contents", partial, "ambiguous_size", func(t *Tar) { t.Entry(Header("d/", '5', block), "").File("f", "") }),
		tarred("a global header that renames", partial, "global_header", func(t *Tar) { t.Pax('g', "path="+Installed).File("f", Package("2.37-r1")) }),
		tarred("a file whose mode says directory", partial, "ambiguous_type", func(t *Tar) {
			body := Package("2.37-r1")
			h := Header(Installed, '0', int64(len(body)))
			copy(h[100:], "0040644\x00")
			t.Entry(Sum(h), body)
		}),
		one("data behind the end", partial, "trailing_data", func() Layer {
			return zipped(join(new(Tar).File("f", "").End(), new(Tar).File(Installed, Package("2.37-r1")).End()))
		}),
		one("no end, and a cut entry", failed, "no readable tar", func() Layer { return zipped(new(Tar).File("f", "contents").Bytes()[:block+3]) }),
	}
}

// noise returns n characters that compress little: for one seed always the same.
func noise(seed, n int) string {
	var b strings.Builder
	for state := uint32(seed)*2654435761 + 1; b.Len() < n; {
		state = state*1664525 + 1013904223
		b.WriteByte("abcdefghijklmnopqrstuvwxyz012345"[state>>27])
	}
	return b.String()
}
