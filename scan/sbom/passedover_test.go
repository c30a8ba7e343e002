package sbom

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// packedZip makes an archive of names and contents, each compressed, with the last one
// damaged where that is asked for: its checksum is of something else.
func packedZip(t testing.TB, damaged bool, files ...[2]string) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i, f := range files {
		var packed bytes.Buffer
		fw, err := flate.NewWriter(&packed, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(fw, f[1])
		fw.Close()
		h := &zip.FileHeader{Name: f[0], Method: zip.Deflate, CRC32: crc32.ChecksumIEEE([]byte(f[1])), CompressedSize64: uint64(packed.Len()), UncompressedSize64: uint64(len(f[1]))}
		if damaged && i == len(files)-1 {
			h.CRC32++
		}
		e, err := w.CreateRaw(h)
		if err != nil {
			t.Fatal(err)
		}
		e.Write(packed.Bytes())
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// storedZip makes an archive of contents as they are.
func storedZip(t testing.TB, files ...[2]string) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range files {
		e, err := w.CreateHeader(&zip.FileHeader{Name: f[0], Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(e, f[1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// pom names a Java package that was built into another.
func pom(artifact string) [2]string {
	return [2]string{"META-INF/maven/org.example/" + artifact + "/pom.properties", "groupId=org.example\nartifactId=" + artifact + "\nversion=1.0\n"}
}

func deb(name, status, version string) string {
	return "Package: " + name + "\nStatus: " + status + "\nVersion: " + version + "\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: x\n a longer one\n\n"
}

// TestPassedOver: what cataloguers pass over in silence is a Problem as well, and what is
// only like it is none.
func TestPassedOver(t *testing.T) {
	const status, installed, metadata = "var/lib/dpkg/status", "lib/apk/db/installed", "usr/lib/python3/site-packages/x-1.dist-info/METADATA"
	const ok = "install ok installed"
	inner := zipOf(t, manifest("inner"))
	cut := inner[:len(inner)-30]
	damaged := packedZip(t, true, manifest("inner"))
	locked := []byte(storedZip(t, manifest("inner")))
	for i := bytes.Index(locked, []byte("Manifest-Version")); i < bytes.Index(locked, []byte("PK\x01\x02"))-20; i++ {
		locked[i] ^= 0x55 // as encryption leaves it
	}
	war := func(lib string) string {
		return storedZip(t, manifest("war"), [2]string{"WEB-INF/lib/inner.jar", lib}, [2]string{"WEB-INF/lib/other.jar", zipOf(t, manifest("other"))})
	}
	tests := []struct {
		name, path, content string
		says                string // "": no problem
	}{
		{"a status cut in a paragraph", status, deb("a", ok, "1") + deb("bash", ok, "5.2-1")[:45], "bash is listed without a version"},
		{"a status cut in a version", status, deb("a", ok, "1") + "Package: bash\nStatus: " + ok + "\nVersion: 5.", "bash 5. is installed and was not catalogued"},
		{"a status cut in the source's name", status, deb("a", ok, "1") + "Package: libssl3\nStatus: " + ok + "\nVersion: 3.0.1\nSource: opens", "cut short"},
		{"a status without its last empty line", status, strings.TrimSuffix(deb("a", ok, "1"), "\n"), ""},
		{"a package that is there and shall go", status, deb("a", ok, "1") + deb("bash", "deinstall ok installed", "5.2-1"), "bash 5.2-1 is installed and was not catalogued"},
		{"a package half unpacked that shall go", status, deb("bash", "purge reinstreq half-installed", "5.2-1") + deb("dash", "deinstall reinstreq half-installed", "1"), "dash 1 is installed"},
		{"a package that went, all but its configuration", status, deb("a", ok, "1") + deb("bash", "deinstall ok config-files", "5.2-1"), ""},
		{"a package that never came", status, deb("a", ok, "1") + "Package: bash\nStatus: unknown ok not-installed\nArchitecture: amd64\n\n", ""},
		{"two architectures and a long field", status, deb("a", ok, "1") + strings.Replace(deb("a", ok, "1"), "amd64", "i386", 1) + strings.Replace(deb("b", ok, "1:2-3"), " a longer one", " "+strings.Repeat("long: ", 50_000), 1), ""},
		{"a package of its own file", "var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\nArchitecture: amd64\n", ""},
		{"checksums with a colon", "var/lib/dpkg/status.d/base.md5sums", "d41d8cd98f00b204e9800998ecf8427e  usr/share/man/man3/Foo::Bar.3pm.gz", ""},
		{"opkg's", "usr/lib/opkg/status", "Package: busybox\nVersion: 1.36-r0\nStatus: install user installed\nArchitecture: x\n\n", ""},

		{"an apk database cut in a paragraph", installed, apkInstalled + "P:zlib\n", "zlib is listed without a version"},
		{"an apk package without a name", installed, apkInstalled + "P:\nV:1.3-r0\n\n", "without a name"},
		{"a virtual apk package", installed, apkInstalled + "P:.build-deps\nV:20240101.000000\nA:noarch\nS:0\nI:0\nT:virtual meta package\nU:\nL:\nD:musl\n\n", ""},

		{"Python metadata cut short", metadata, "Metadata-Version: 2.1\nName: requests\nVer", "names no package, or no version"},
		{"Python metadata of nothing", metadata, "", "names no package, or no version"},
		{"Python metadata", metadata, "Metadata-Version: 2.1\nName: requests\nVersion: 2.30.0\n", ""},

		{"a jar cut short in a jar", "opt/app.jar", zipOf(t, manifest("app"), [2]string{"lib/inner.jar", cut}), "lib/inner.jar in it can't be read"},
		{"a jar of junk in a zip file", "opt/app.zip", zipOf(t, [2]string{"lib/inner.jar", "PK\x03\x04 junk"}), "lib/inner.jar in it can't be read"},
		{"a jar with a damaged manifest in a jar", "opt/app.jar", zipOf(t, manifest("app"), [2]string{"lib/inner.jar", damaged}), "META-INF/MANIFEST.MF in it can't be read"},
		{"a jar with an encrypted manifest in a jar", "opt/app.jar", zipOf(t, manifest("app"), [2]string{"lib/inner.jar", string(locked)}), "META-INF/MANIFEST.MF in it can't be read"},
		{"a jar cut short in a war in an ear", "opt/app.ear", storedZip(t, manifest("ear"), [2]string{"web.war", war(cut)}), "WEB-INF/lib/inner.jar in it can't be read"},
		{"a war that is lost for one jar", "opt/app.ear", zipOf(t, manifest("ear"), [2]string{"web.war", packedZip(t, true, manifest("war"), [2]string{"WEB-INF/lib/a.jar", inner})}), "WEB-INF/lib/a.jar in it can't be read"},
		{"the name of what was built in, damaged", "opt/app.jar", packedZip(t, true, manifest("app"), pom("log4j-core")), "pom.properties in it can't be read"},
		{"an encrypted jar", "opt/app.jar", string(locked), "app.jar"},
		{"a sound war in an ear", "opt/app.ear", storedZip(t, manifest("ear"), [2]string{"web.war", war(inner)}), ""},
		{"a jar of no package in a jar", "opt/app.jar", zipOf(t, manifest("app"), [2]string{"lib/data.jar", zipOf(t, [2]string{"data.txt", "x"})}), ""},
		{"what was built in", "opt/app.jar", packedZip(t, false, manifest("app"), pom("log4j-core")), ""},
		{"a jar behind a shell script", "opt/app.jar", "#!/bin/sh\nexec java -jar $0\n" + zipOf(t, manifest("app"), [2]string{"lib/inner.jar", inner}), ""},
		{"a zip file of no jars", "opt/data.zip", zipOf(t, [2]string{"data.txt", "x"}), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sampleOf(t, "passed-over", imageOf(t, tarOf(t, entry{name: "etc/os-release", content: osRelease}, entry{name: tt.path, content: tt.content})))
			got := catalogue(t, s, nil)
			said := fmt.Sprint(got.Problems)
			if (tt.says == "") != (len(got.Problems) == 0) || !strings.Contains(said, tt.says) {
				t.Errorf("want %q; %d packages, %s", tt.says, got.Packages, said)
			}
			for _, p := range got.Problems {
				if p.Layer != s.img.Layers[0].Digest || p.Path != "/"+tt.path || p.Detail == "" {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}

// TestNestedTooDeep: archives in one another are looked into only so far, and what lies
// below is told of.
func TestNestedTooDeep(t *testing.T) {
	for depth, problem := range map[int]bool{maxNested - 1: false, maxNested + 1: true} {
		jar := storedZip(t, [2]string{"data.txt", "x"})
		for range depth - 1 {
			jar = storedZip(t, [2]string{"a.jar", jar})
		}
		s := sampleOf(t, "deep", imageOf(t, tarOf(t, entry{name: "opt/app.jar", content: jar})))
		if got := catalogue(t, s, nil); problem != (len(got.Problems) > 0) {
			t.Errorf("%d: %+v", depth, got.Problems)
		}
	}
}
