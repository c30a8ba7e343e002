package hostile

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// executables is what goes off in whoever reads a program's tables.
func executables() []Case {
	const max32 = 0xffffffff
	const stripped = "it says no more of what it is made of than a stripped program: nobody can find anything in it"
	return []Case{
		contents("ELF whose sections lie beyond its end", "usr/bin/a", func() []byte {
			b := elf()
			binary.LittleEndian.PutUint64(b[40:], 1<<60) // e_shoff
			return b
		}).why(stripped),
		contents("ELF with sections of exabytes", "usr/bin/b", func() []byte {
			return elf(section{".note.package", 7, 1 << 60, nil}, section{".go.buildinfo", 1, 1 << 60, nil})
		}),
		contents("ELF with a note that lies", "usr/bin/c", func() []byte {
			note := binary.LittleEndian.AppendUint32(nil, max32)
			note = binary.LittleEndian.AppendUint32(note, max32)
			return elf(section{".note.package", 7, 0, append(note, "\x7e\x1a\xfe\xcaFDO\x00{"...)})
		}),
		contents("ELF with a note of a million braces", "usr/bin/d", func() []byte {
			body := strings.Repeat("[", 1_000_000)
			note := binary.LittleEndian.AppendUint32(nil, 4)
			note = binary.LittleEndian.AppendUint32(note, uint32(len(body)))
			return elf(section{".note.package", 7, 0, append(note, "\x7e\x1a\xfe\xcaFDO\x00"+body...)})
		}),
		contents("a Go program whose build information lies", "usr/bin/e", func() []byte {
			info := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
			info = append(binary.AppendUvarint(info, 1<<62), "go1.26"...)
			return elf(section{".go.buildinfo", 1, 0, info})
		}).why(stripped),
		contents("a Go program with a hundred thousand modules", "usr/bin/f", func() []byte {
			var mods strings.Builder
			mods.WriteString("0w\xaf\f\x92t\b\x02A\xe1\xc1\a\xe6\xd6\x18\xe6path\tcommand-line-arguments\nmod\tm\t(devel)\t\n")
			for range 100_000 {
				mods.WriteString("dep\t" + strings.Repeat("m/", 50) + "\tv1.0.0\th1:x\n")
			}
			mods.WriteString("\xf92C1\x86\x18 r\x00\x82B\x10A\x16\xd8\xf2")
			info := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
			info = append(binary.AppendUvarint(info, 6), "go1.26"...)
			info = append(binary.AppendUvarint(info, uint64(mods.Len())), mods.String()...)
			return elf(section{".go.buildinfo", 1, 0, info})
		}),
		contents("a Go program with tables of four billion functions", "usr/bin/g", func() []byte {
			table := append([]byte{0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8}, bytes.Repeat([]byte{0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0}, 8)...)
			info := append([]byte("\xff Go buildinf:\x08\x02"), make([]byte, 16)...)
			info = append(binary.AppendUvarint(info, 6), "go1.26\x00"...)
			return elf(section{".go.buildinfo", 1, 0, info}, section{".gopclntab", 1, 0, table})
		}),
		contents("a Rust program with a bomb for a list of crates", "usr/bin/h", func() []byte {
			return elf(section{".dep-v0", 1, 0, join([]byte{0x78, 0xda}, deflatedZeros(1024), []byte{0, 0, 0, 0})})
		}),
		contents("Mach-O for four billion machines", "usr/bin/i", func() []byte {
			return append([]byte{0xca, 0xfe, 0xba, 0xbe, 0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{1}, 4096)...)
		}).why("no Linux runs it, and no cataloguer takes it for a program"),
		contents("PE with resources in a circle", "app/j.dll", portable),
		contents("a kernel that lies", "boot/vmlinuz-6.1", func() []byte {
			b := make([]byte, 8192)
			copy(b[510:], "\x55\xaa")
			copy(b[514:], "HdrS\xff\xff")
			binary.LittleEndian.PutUint16(b[526:], 0xffff)
			return b
		}).why("nothing in it says of which version it is"),
	}
}

// A section is one of an ELF file. size counts where it is set.
type section struct {
	name string
	typ  uint32
	size uint64
	body []byte
}

// elf returns a program for amd64 of these sections.
func elf(sections ...section) []byte {
	names := "\x00.shstrtab\x00"
	body := make([]byte, 64+56)
	copy(body, "\x7fELF\x02\x01\x01\x00")
	var table []byte
	add := func(name, typ uint32, addr, at, size uint64) {
		table = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(table, name), typ)
		for _, v := range []uint64{2, addr, at, size, 0, 1, 0} {
			table = binary.LittleEndian.AppendUint64(table, v)
		}
	}
	add(0, 0, 0, 0, 0)
	for _, s := range sections {
		body = append(body, make([]byte, -len(body)&15)...) // where Go looks for its own
		at := uint64(len(body))
		body = append(body, s.body...)
		add(uint32(len(names)), s.typ, elfBase+at, at, max(s.size, uint64(len(s.body))))
		names += s.name + "\x00"
	}
	at := uint64(len(body))
	body = append(body, names...)
	add(1, 3, 0, at, uint64(len(names)))
	le := binary.LittleEndian
	le.PutUint16(body[16:], 2)
	le.PutUint16(body[18:], 62)
	le.PutUint32(body[20:], 1)
	le.PutUint64(body[32:], 64) // the one segment's header
	le.PutUint64(body[40:], uint64(len(body)))
	le.PutUint16(body[52:], 64)
	le.PutUint16(body[54:], 56)
	le.PutUint16(body[56:], 1)
	le.PutUint16(body[58:], 64)
	le.PutUint16(body[60:], uint16(len(sections)+2))
	le.PutUint16(body[62:], uint16(len(sections)+1))
	le.PutUint32(body[64:], 1) // loaded
	le.PutUint32(body[68:], 5)
	for i, v := range []uint64{0, elfBase, elfBase, at, at, 4096} {
		le.PutUint64(body[72+8*i:], v)
	}
	return append(body, table...)
}

// elfBase is where a program lies in memory.
const elfBase = 0x400000

// portable is a library for Windows whose table of resources leads back to itself.
func portable() []byte {
	le := binary.LittleEndian
	b := make([]byte, 4096)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	le.PutUint16(b[0x84:], 0x8664)
	le.PutUint16(b[0x86:], 1)   // sections
	le.PutUint16(b[0x94:], 240) // of the optional header
	opt := b[0x98:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[108:], 16)        // directories
	le.PutUint32(opt[112+16:], 0x1000) // resources
	le.PutUint32(opt[112+20:], 0xffffffff)
	sec := opt[240:]
	copy(sec, ".rsrc")
	for i, v := range []uint32{0x1000, 0x1000, 0x800, 0x400} {
		le.PutUint32(sec[8+4*i:], v)
	}
	for i := 0x400; i+8 <= 0xc00; i += 8 { // entries, each a directory at the start
		le.PutUint32(b[i:], 16)
		le.PutUint32(b[i+4:], 0x80000000)
	}
	le.PutUint16(b[0x400+14:], 0xffff)
	return b
}
