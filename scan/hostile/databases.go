package hostile

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// databases is what goes off in whoever reads a package database.
func databases() []Case {
	le := binary.LittleEndian
	return []Case{
		contents("an apk database of a million packages", Installed, func() []byte {
			var b strings.Builder
			for i := range 1_000_000 {
				fmt.Fprintf(&b, "P:p%d\nV:1\n\n", i)
			}
			return []byte(b.String())
		}),
		contents("an apk database of one line", Installed, func() []byte { return []byte("P:" + strings.Repeat("x", 60<<20)) }),
		contents("a dpkg database of one field", "var/lib/dpkg/status", func() []byte {
			return []byte("Package: x\nVersion: 1\nStatus: install ok installed\nDescription: " + strings.Repeat("x", 60<<20))
		}).why("its name and version are read"),
		contents("a dpkg database that depends on itself", "var/lib/dpkg/status", func() []byte {
			var b strings.Builder
			all := strings.Repeat("p, ", 3000) + "p"
			for i := range 3000 {
				fmt.Fprintf(&b, "Package: p%d\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nProvides: p\nDepends: %s\n\n", i, all)
			}
			return []byte(b.String())
		}),
		contents("an rpm database in a circle, Berkeley", "var/lib/rpm/Packages", func() []byte {
			const page = 4096
			b := make([]byte, 4*page)
			le.PutUint32(b[12:], 0x061561) // hash
			le.PutUint32(b[16:], 9)
			le.PutUint32(b[20:], page)
			b[25] = 8
			le.PutUint32(b[32:], 3) // last page
			for p := 1; p < 4; p++ {
				at := p * page
				le.PutUint32(b[at+8:], uint32(p))
				le.PutUint32(b[at+16:], uint32(p)) // the next page: itself
				le.PutUint16(b[at+20:], 2)
				b[at+25] = 13 // a hash page
				le.PutUint16(b[at+26:], 100)
				le.PutUint16(b[at+28:], 200)
				b[at+100], b[at+200] = 3, 3 // off this page
				le.PutUint32(b[at+204:], 2)
				le.PutUint32(b[at+208:], 0xffffffff)
			}
			b[2*page+25] = 7 // an overflow page
			return b
		}),
		contents("an rpm database that lies, ndb", "usr/lib/sysimage/rpm/Packages.db", func() []byte {
			b := make([]byte, 16384)
			copy(b, "RpmP")
			le.PutUint32(b[8:], 1)
			le.PutUint32(b[12:], 0xffffffff)
			for i := 32; i < 4096; i += 16 {
				copy(b[i:], "Slot")
				le.PutUint32(b[i+4:], uint32(i))
				le.PutUint32(b[i+8:], 0x7fffffff)
				le.PutUint32(b[i+12:], 0x7fffffff)
			}
			return b
		}),
		contents("an rpm database that is none, SQLite", "var/lib/rpm/rpmdb.sqlite", func() []byte {
			b := make([]byte, 8192)
			copy(b, "SQLite format 3\x00\x10\x00\x01\x01\x00\x40\x20\x20")
			for i := 100; i < len(b); i++ {
				b[i] = 0x05
			}
			return b
		}),
	}
}
