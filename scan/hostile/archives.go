package hostile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path"
	"strings"
)

// archives is what goes off in whoever opens a jar.
func archives() []Case {
	return []Case{
		jar("jars in jars in jars, a million", func() []byte {
			b := zipOf(zeroed("a.txt", 256))
			for range 5 {
				var entries []zipEntry
				for i := range 16 {
					entries = append(entries, squeezed(fmt.Sprintf("lib%x.jar", i), b))
				}
				b = zipOf(entries...)
			}
			return b
		}),
		jar("a jar in a jar, a thousand deep", func() []byte {
			b := zipOf(nothing, kept(properties, log4j))
			for range 1000 {
				b = zipOf(nothing, kept("a.jar", b))
			}
			return b
		}).why("every jar in it is opened").finds(shell),
		jar("a jar with a manifest of two gigabytes", func() []byte { return zipOf(zeroed(manifest, 2047)) }),
		jar("a jar that lies about a terabyte", func() []byte {
			e := squeezed(manifest, []byte("Manifest-Version: 1.0\n"))
			e.size = 1 << 40
			return zipOf(e)
		}),
		jar("a jar whose entries overlap", func() []byte {
			var names []string
			for i := range 2000 {
				names = append(names, fmt.Sprintf("META-INF/maven/g/a%d/pom.properties", i))
			}
			return overlapping(names, zeroed("x", 256), nothing)
		}),
		jar("a jar with a million entries", func() []byte {
			var names []string
			for i := range 1_000_000 {
				names = append(names, fmt.Sprintf("META-INF/%d", i))
			}
			return overlapping(names, squeezed("x", []byte("x")))
		}).why("it has a million files, all of them read, and no package"),
		jar("a jar whose pom laughs a billion times", func() []byte {
			return zipOf(nothing, kept(path.Dir(properties)+"/pom.xml", laughs()), kept(properties, log4j))
		}).why("nobody expands the entities, and the package is read").finds(shell),
		jar("a jar whose pom nests a million times", func() []byte {
			return zipOf(nothing, squeezed(path.Dir(properties)+"/pom.xml", []byte("<project>"+strings.Repeat("<parent>", 1_000_000))), kept(properties, log4j))
		}).why("what is read of it is the package").finds(shell),
		jar("a jar cut short", func() []byte {
			b := zipOf(nothing)
			return b[:len(b)-10]
		}),
	}
}

const manifest = "META-INF/MANIFEST.MF"

// nothing is a manifest without which no cataloguer takes an archive for a package.
var nothing = kept(manifest, []byte("Manifest-Version: 1.0\n"))

const properties = "META-INF/maven/org.apache.logging.log4j/log4j-core/pom.properties"

// log4j is what says that a jar is of a version with shell, as the sample database knows.
const shell = "CVE-2021-44228"

var log4j = []byte("groupId=org.apache.logging.log4j\nartifactId=log4j-core\nversion=2.14.1\n")

// jar is a case of one jar above the base.
func jar(name string, build func() []byte) Case {
	return contents(name, "app/app.jar", func() []byte { return build() })
}

// contents is a case of one file that goes off in whoever parses it. What comes of it is
// up to the parser; it may be complete only where it says why.
func contents(name, path string, build func() []byte) Case {
	return Case{Name: name, Want: []string{partial, failed, limit}, Parsed: true, Layers: func() []Layer {
		return []Layer{zipped(new(Tar).File(path, string(build())).End())}
	}}
}

// why lets a case be complete.
func (c Case) why(reason string) Case {
	c.Want, c.Why = append([]string{complete}, c.Want...), reason
	return c
}

// finds says what a complete verdict on a case finds.
func (c Case) finds(id string) Case {
	c.Finds = id
	return c
}

// A zipEntry is one of a zip, as it lies there.
type zipEntry struct {
	name   string
	body   []byte
	method uint16
	sum    uint32
	size   uint64 // of what it unpacks to, as it claims
}

// kept is an entry that is not compressed.
func kept(name string, b []byte) zipEntry {
	return zipEntry{name, b, zip.Store, crc32.ChecksumIEEE(b), uint64(len(b))}
}

// squeezed is an entry that is.
func squeezed(name string, b []byte) zipEntry {
	return zipEntry{name, Deflate(b), zip.Deflate, crc32.ChecksumIEEE(b), uint64(len(b))}
}

// zeroed is an entry of so many mebibytes of zeros.
func zeroed(name string, mebibytes int) zipEntry {
	return zipEntry{name, deflatedZeros(mebibytes), zip.Deflate, zerosSum(mebibytes), uint64(mebibytes) * mebibyte}
}

// zipOf returns a zip of entries.
func zipOf(entries ...zipEntry) []byte {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		f, err := w.CreateRaw(&zip.FileHeader{Name: e.name, Method: e.method, CRC32: e.sum, CompressedSize64: uint64(len(e.body)), UncompressedSize64: e.size})
		if err == nil {
			_, err = f.Write(e.body)
		}
		if err != nil {
			panic(err) // of a buffer
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// overlapping returns a zip of many names for one and the same entry, and of others.
func overlapping(names []string, e zipEntry, others ...zipEntry) []byte {
	var out, list bytes.Buffer
	put := func(w *bytes.Buffer, values ...any) {
		for _, v := range values {
			_ = binary.Write(w, binary.LittleEndian, v) // to a buffer
		}
	}
	local := func(e zipEntry, names ...string) {
		at := uint32(out.Len())
		sizes := [3]uint32{e.sum, uint32(len(e.body)), uint32(e.size)}
		put(&out, []byte("PK\x03\x04"), [3]uint16{20, 0, e.method}, uint32(0), sizes, [2]uint16{uint16(len(e.name)), 0}, []byte(e.name), e.body)
		for _, n := range names {
			put(&list, []byte("PK\x01\x02"), [4]uint16{20, 20, 0, e.method}, uint32(0), sizes, uint16(len(n)), [4]uint16{}, uint32(0), at, []byte(n))
		}
	}
	for _, o := range others {
		local(o, o.name)
	}
	local(e, names...)
	start, n := uint64(out.Len()), uint64(len(names)+len(others))
	out.Write(list.Bytes())
	end := uint64(out.Len())
	put(&out, []byte("PK\x06\x06"), uint64(44), [2]uint16{45, 45}, [2]uint32{}, n, n, end-start, start)
	put(&out, []byte("PK\x06\x07"), uint32(0), end, uint32(1))
	put(&out, []byte("PK\x05\x06"), [2]uint16{}, [2]uint16{0xffff, 0xffff}, [2]uint32{0xffffffff, 0xffffffff}, uint16(0))
	return out.Bytes()
}

// laughs is XML whose entities would grow to gigabytes.
func laughs() []byte {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\"?>\n<!DOCTYPE project [\n<!ENTITY l0 \"lol\">\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "<!ENTITY l%d \"%s\">\n", i, strings.Repeat(fmt.Sprintf("&l%d;", i-1), 10))
	}
	b.WriteString("]>\n<project><groupId>g</groupId><artifactId>&l9;</artifactId><version>1</version></project>\n")
	return []byte(b.String())
}
