package sbom

import (
	"archive/zip"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// zipOf makes a jar of names and contents.
func zipOf(t testing.TB, files ...[2]string) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range files {
		e, err := w.Create(f[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write([]byte(f[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// manifest names a Java package.
func manifest(name string) [2]string {
	return [2]string{"META-INF/MANIFEST.MF", "Manifest-Version: 1.0\r\nImplementation-Title: " + name + "\r\nImplementation-Version: 1.0\r\n\r\n"}
}

const oneDeb = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: a shell\n\n"

// TestUnread: what a cataloguer could not read is a Problem, and what only looks like it
// is none. Each row is one file of an image that is otherwise sound.
func TestUnread(t *testing.T) {
	inner := zipOf(t, manifest("inner"))
	tests := []struct {
		name, path, content string
		problem             bool
	}{
		{"an apk database with a bad line", "lib/apk/db/installed", apkInstalled + "P:broken\nV:1\na line without a field\n\n", true},
		{"a bad line that excuses itself", "lib/apk/db/installed", apkInstalled + "P:broken\nV:1\nno package identified in archive\n\n", true},
		{"a bad line that excuses itself otherwise", "lib/apk/db/installed", apkInstalled + "P:broken\nV:1\nx unable to determine packages\n\n", true},
		{"a dpkg status of zeros", "var/lib/dpkg/status", strings.Repeat("\x00", 5000), true},
		{"a dpkg status without a package", "var/lib/dpkg/status", "this is: not a status\n", true},
		{"a dpkg status never written to", "var/lib/dpkg/status", "", false},
		{"a dpkg status of one package", "var/lib/dpkg/status", oneDeb, false},
		{"sums beside a package", "var/lib/dpkg/status.d/base.md5sums", "d41d8cd98f00b204e9800998ecf8427e  etc/motd\n", false},
		{"an rpm database of junk", "var/lib/rpm/rpmdb.sqlite", "no database", true},
		{"an rpm database of zeros", "var/lib/rpm/Packages", strings.Repeat("\x00", 8192), true},
		{"a jar of no package", "opt/data.jar", zipOf(t, [2]string{"data.txt", "x"}), false},
		{"a jar of junk", "opt/app.jar", "PK\x03\x04 and nothing of a zip file behind it", true},
		{"a jar cut short", "opt/app.jar", inner[:len(inner)-30], true},
		{"a jar in a jar in a jar", "opt/app.ear", zipOf(t, manifest("ear"), [2]string{"web.war", zipOf(t, manifest("war"), [2]string{"WEB-INF/lib/inner.jar", inner})}), false},
		{"a jar that excuses itself by its name", "opt/no package identified in archive.jar", "PK\x03\x04 junk", true},
		{"a Python package's list cut short", "usr/lib/python3/site-packages/x-1.dist-info/RECORD", "\"x", false},
		{"a package.json with a byte order mark, which node loads", "app/node_modules/lodash/package.json", "\xef\xbb\xbf" + leftPad, true},
		{"a package.json with something behind it", "app/node_modules/lodash/package.json", leftPad + "}", true},
		{"a package.json cut short", "app/node_modules/@scope/lodash/package.json", leftPad[:len(leftPad)-2], true},
		{"the same of Debian's", "usr/share/nodejs/lodash/package.json", "{", true},
		{"the application's own", "app/package.json", "{", true},
		{"a fixture in a package", "app/node_modules/resolve/test/malformed/package.json", "{", false},
		{"a template in a package", "usr/lib/node_modules/@scope/create/templates/a/package.json", `{"name": {{name}}}`, false},
		{"a package in a package's fixtures", "app/node_modules/resolve/test/node_modules/x/package.json", "{", true},
		{"a Go program's build information of junk", "usr/bin/tool", "\x7fELF" + strings.Repeat("x", 500), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := sampleOf(t, "unread", imageOf(t, tarOf(t, entry{name: "etc/os-release", content: osRelease}, entry{name: tt.path, content: tt.content})))
			got := catalogue(t, s, nil)
			var said []string
			for _, p := range got.Problems {
				said = append(said, fmt.Sprint(p))
				if p.Layer != s.img.Layers[0].Digest || p.Path == "" || p.Detail == "" {
					t.Errorf("%+v", p)
				}
			}
			if tt.problem != (len(said) > 0) {
				t.Errorf("want a problem: %v; %d packages, %q", tt.problem, got.Packages, said)
			}
		})
	}
}

// TestInsidePackage: a package.json that a program could load by its package's name is
// never excused.
func TestInsidePackage(t *testing.T) {
	got := map[string]bool{}
	want := map[string]bool{
		"/package.json": false, "/app/package.json": false, "/app/test/package.json": false,
		"/app/node_modules/package.json": false, "/app/node_modules/a/package.json": false, "/app/node_modules/@s/a/package.json": false,
		"/app/node_modules/a/b/package.json": true, "/app/node_modules/@s/a/b/package.json": true,
		"/app/node_modules/a/node_modules/b/package.json": false, "/app/node_modules/a/node_modules/b/c/d/package.json": true,
		"/usr/share/nodejs/a/package.json": false, "/usr/share/nodejs/@s/a/b/package.json": true,
	}
	for path := range want {
		got[path] = insidePackage(path, nil)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
