package main

import (
	"archive/zip"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/hostile"
	"github.com/sluicegate/sluice/scan/layer"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// A gap is one way in which a verdict can't cover all of an image, and what has to be
// said of it.
type gap struct {
	name  string
	image func() hostile.Image
	fault func(t *testing.T, h *house) // of the gateway; nil: none

	state scan.State
	cause scan.Cause
	kind  string // of a problem of its coverage
	says  string // a part of the decision's message: what it is, or what to do
}

// with is an image of files above the base, which has os-release and one apk package.
func with(files ...string) func() hostile.Image { return withSystem("", files...) }

// withSystem is the same with another os-release.
func withSystem(release string, files ...string) func() hostile.Image {
	return func() hostile.Image {
		var b hostile.Tar
		if release != "" {
			b.File("etc/os-release", release)
		}
		for i := 0; i < len(files); i += 2 {
			b.File(files[i], files[i+1])
		}
		return layered(ocispec.MediaTypeImageLayerGzip, hostile.Member(b.End(), "", ""), b.End())()
	}
}

// layered is an image of one layer above the base: its media type, its bytes, and what
// they unpack to.
func layered(mediaType string, blob, plain []byte) func() hostile.Image {
	c := hostile.Case{Layers: func() []hostile.Layer {
		return []hostile.Layer{{MediaType: mediaType, Blob: blob, DiffID: digest.FromBytes(plain)}}
	}}
	return c.Build
}

// content are the gaps that an image's bytes make.
func content() []gap {
	const failed, partial, limit, cause = scan.Failed, scan.Partial, scan.Limit, scan.CauseScanFailed
	const status = "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nArchitecture: amd64\nMaintainer: x <x@example.org>\nDescription: a shell\n\n"
	text := []byte(strings.Repeat("no tar at all ", 100))
	tar := new(hostile.Tar).File("a", "b").End()
	zipped := hostile.Member(tar, "", "")
	apks := hostile.Package("2.40-r1")
	unread := func(name, path, body, says string) gap {
		return gap{name: name, image: with(path, body), state: partial, cause: cause, kind: scan.KindCataloguerFailed, says: says}
	}
	system := func(name, release, kind, says string, files ...string) gap {
		return gap{name: name, image: withSystem(release, files...), state: partial, cause: cause, kind: kind, says: says}
	}
	refused := func(name string, image func() hostile.Image, kind, says string) gap {
		return gap{name: name, image: image, state: failed, cause: cause, kind: kind, says: says}
	}
	past := func(name, says string, set func(*layer.Limits)) gap {
		return gap{name: name, image: with("a", strings.Repeat("zeros", 4096)), state: limit, cause: scan.CauseScanLimit, kind: scan.KindLayerLimit, says: says,
			fault: func(_ *testing.T, h *house) {
				h.scanner.Limits = layer.DefaultLimits()
				set(&h.scanner.Limits)
			}}
	}
	return []gap{
		system("a distribution that nobody knows", "ID=plan9\nVERSION_ID=4\n", scan.KindDistroUnknown, "plan9"),
		system("a version that the database lacks", "ID=debian\nVERSION_ID=\"3\"\nVERSION_CODENAME=woody\n", scan.KindDistroUnknown, "debian 3", "var/lib/dpkg/status", status),
		system("a derivative that the database lacks", "ID=mylinux\nID_LIKE=plan9\nVERSION_ID=1\n", scan.KindDistroUnknown, "mylinux"),
		system("packages of another distribution's kind", "", scan.KindForeignPackages, "deb packages", "var/lib/dpkg/status", status),
		system("an os-release that says nothing", "HOME_URL=https://example.org/\n", scan.KindDistroMissing, "os-release"),

		unread("an apk database with a bad line", hostile.Installed, apks+"P:x\nV:1\na line without a field\n\n", hostile.Installed),
		unread("an apk database that excuses itself", hostile.Installed, apks+"P:x\nV:1\nno package identified in archive\n\n", hostile.Installed),
		unread("a dpkg status cut short", "var/lib/dpkg/status", status+"Package: openssl\nStatus: install ok installed\nVersion: 3.", "/var/lib/dpkg/status"),
		unread("a package that dpkg shall remove and has not", "var/lib/dpkg/status", strings.Replace(status, "install ok", "deinstall ok", 1), "bash 5.2-1 is installed"),
		unread("an apk database cut short", hostile.Installed, apks+"P:openssl\n", "openssl"),
		unread("a jar within a jar that is cut short", "opt/app.jar", jar("lib/inner.jar", "PK\x03\x04 and no more"), "lib/inner.jar"),
		unread("a dpkg status of zeros", "var/lib/dpkg/status", strings.Repeat("\x00", 4096), "dpkg"),
		unread("an rpm database of junk", "var/lib/rpm/rpmdb.sqlite", "no database", "rpm"),
		unread("a jar without a directory", "opt/app.jar", "PK\x03\x04 and no more", "opt/app.jar"),
		unread("a package.json that node reads and the scanner doesn't", "app/node_modules/lodash/package.json", "\xef\xbb\xbf{\"name\":\"lodash\",\"version\":\"4.17.20\"}", "lodash"),

		refused("an encrypted layer", layered(ocispec.MediaTypeImageLayerGzip+"+encrypted", text, text), scan.KindLayerEncrypted, "is encrypted"),
		refused("an EROFS layer", layered("application/vnd.erofs.layer.v1", append(make([]byte, 1024), text...), text), scan.KindLayerType, "build the image with tar layers"),
		refused("a squashfs layer", layered("application/vnd.oci.image.layer.v1.squashfs", append([]byte("hsqs"), text...), text), scan.KindLayerType, "can't be scanned"),
		refused("a layer that is no tar", layered(ocispec.MediaTypeImageLayer, text, text), scan.KindLayerUnreadable, "is no tar"),
		refused("a layer of an unknown type that is no tar", layered("application/vnd.example.rootfs", text, text), scan.KindLayerUnreadable, "is no tar"),
		refused("a layer cut short", layered(ocispec.MediaTypeImageLayerGzip, zipped[:len(zipped)-9], tar), scan.KindLayerUnreadable, "can't be read"),
		refused("a layer that the config denies", layered(ocispec.MediaTypeImageLayerGzip, zipped, text), scan.KindLayerDiffers, "diff ID"),
		{name: "something behind a layer's end", image: layered(ocispec.MediaTypeImageLayerGzip, append(slices.Clone(zipped), "and more"...), tar),
			state: partial, cause: cause, kind: layer.TrailingData, says: "trailing_data"},
		refused("a config that counts otherwise", hostile.Case{Layers: func() []hostile.Layer { return nil },
			Config: func(c *ocispec.Image) { c.RootFS.DiffIDs = nil }}.Build, scan.KindLayerCount, "diff IDs"),

		{name: "more entries than a layer may have", image: with("a", "", "b", "", "c", ""), state: limit, cause: scan.CauseScanLimit, kind: scan.KindLayerLimit, says: "past a bound",
			fault: func(_ *testing.T, h *house) {
				h.scanner.Limits = layer.DefaultLimits()
				h.scanner.Limits.Entries = 2
			}},
		{name: "more bytes than an image may have", image: with("a", "b"), state: limit, cause: scan.CauseScanLimit, kind: scan.KindImageLimit, says: "more than 4096",
			fault: func(_ *testing.T, h *house) { h.scanner.ImageBytes = 4096 }},
		{name: "more entries than an image may have", image: with("a", "", "b", ""), state: limit, cause: scan.CauseScanLimit, kind: scan.KindImageLimit, says: "more than 2 entries of the image",
			fault: func(_ *testing.T, h *house) { h.scanner.ImageEntries = 2 }},
		past("more bytes than a layer may unpack to", "uncompressed bytes", func(l *layer.Limits) { l.Uncompressed = 4096 }),
		past("more compressed bytes than a layer may have", "compressed bytes", func(l *layer.Limits) { l.Compressed = 16 }),
		past("a ratio that no honest layer has", "for each compressed one", func(l *layer.Limits) { l.Ratio, l.RatioAfter = 2, 1024 }),
		past("a layer that takes too long", "past a bound", func(l *layer.Limits) { l.Time = time.Nanosecond }),
	}
}

// faults are the gaps that the gateway's own troubles make.
func faults() []gap {
	database := func(name, says string, damage func(t *testing.T, file string)) gap {
		return gap{name: name, state: scan.Failed, cause: scan.CauseScanFailed, kind: scan.KindMatchFailed, says: says,
			fault: func(t *testing.T, h *house) {
				db, err := sampledb.Build(filepath.Join(h.config.StateDir, "db", filepath.Base(t.Name())), time.Now()) // where a worker may read
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(db.Dir, "vulnerability.db")
				if damage != nil {
					damage(t, file)
				}
				h.scanner.Database = func(context.Context) (scan.Database, error) { return db, nil }
				if damage != nil {
					return
				}
				if v, d := judge(t, h, hostile.Innocent("coverage", 0).Build()); v.Scan.State != scan.Complete || !d.Allow {
					t.Fatalf("as long as it is sound: %+v", v.Scan)
				}
				must(t, os.Truncate(file, 8192)) // in place: it is open
			}}
	}
	missing := func(name string, err error, cause scan.Cause, says string) gap {
		return gap{name: name, state: scan.Failed, cause: cause, kind: string(cause), says: says,
			fault: func(_ *testing.T, h *house) {
				h.scanner.Database = func(context.Context) (scan.Database, error) { return scan.Database{}, err }
			}}
	}
	used := database("a database that breaks in use", "vulnerability database", nil)
	used.image = with("usr/lib/python3/site-packages/requests-2.30.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: requests\nVersion: 2.30.0\n") // of which it was never asked
	return []gap{
		used,
		missing("no database", scan.ErrDatabaseMissing, scan.CauseDBMissing, "no vulnerability database"),
		missing("an old database", scan.ErrDatabaseStale, scan.CauseDBStale, "too old"),
		database("a database that is gone", "vulnerability database", func(t *testing.T, file string) { must(t, os.Remove(file)) }),
		database("half a database", "vulnerability database", func(t *testing.T, file string) {
			info, err := os.Stat(file)
			must(t, err)
			must(t, os.Truncate(file, info.Size()/2/4096*4096))
		}),
		database("a database with damaged pages", "vulnerability database", func(t *testing.T, file string) {
			b, err := os.ReadFile(file)
			must(t, err)
			for i := 4096; i < len(b); i += 4096 { // the first page says what it is
				copy(b[i:min(i+64, len(b))], bytes.Repeat([]byte{0xa5}, 64))
			}
			must(t, os.WriteFile(file, b, 0o600))
		}),
		database("a database without a table", "vulnerability database", func(t *testing.T, file string) { execute(t, file, "DROP TABLE affected_package_handles") }),
		database("a database whose index points nowhere", "vulnerability database", func(t *testing.T, file string) { execute(t, file, "DROP TABLE blobs") }),
		{name: "a catalogue that takes too long", state: scan.Failed, cause: scan.CauseScanFailed, kind: scan.KindCatalogueTimeout, says: "longer than it may",
			fault: func(_ *testing.T, h *house) { h.scanner.Timeout = time.Microsecond }},
		{name: "a match that takes too long", state: scan.Failed, cause: scan.CauseScanFailed, kind: scan.KindMatchTimeout, says: "longer than it may",
			fault: func(t *testing.T, h *house) {
				database := h.scanner.Database
				t.Cleanup(func() { h.scanner.Database = database })
				h.scanner.Database = func(ctx context.Context) (scan.Database, error) {
					h.scanner.Timeout = time.Microsecond // the catalogue is done
					return database(ctx)
				}
			}},
		{name: "no worker", state: scan.Failed, cause: scan.CauseScanFailed, kind: scan.KindCatalogueFailed, says: "catalogue its packages",
			fault: func(t *testing.T, h *house) { must(t, h.workers.Close()) }},
	}
}

// jar is an archive of one file.
func jar(name, body string) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range [][2]string{{"META-INF/MANIFEST.MF", "Implementation-Title: app\r\nImplementation-Version: 1.0\r\n\r\n"}, {name, body}} {
		e, err := w.Create(f[0])
		if err == nil {
			_, err = e.Write([]byte(f[1]))
		}
		if err != nil {
			panic(err) // of a buffer
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// execute changes a database by SQL.
func execute(t *testing.T, file, statement string) {
	t.Helper()
	db, err := sql.Open("sqlite", file)
	must(t, err)
	_, err = db.Exec(statement)
	must(t, errors.Join(err, db.Close()))
}

// TestGaps: whatever keeps a verdict from covering all of an image stands in its
// coverage, as a kind that is listed, and the default policy denies the image with a
// message that names it.
func TestGaps(t *testing.T) {
	h := hostileHouse(t)
	for _, g := range content() {
		t.Run(g.name, func(t *testing.T) {
			limits, bytes, entries := h.scanner.Limits, h.scanner.ImageBytes, h.scanner.ImageEntries
			defer func() { h.scanner.Limits, h.scanner.ImageBytes, h.scanner.ImageEntries = limits, bytes, entries }()
			g.hold(t, h)
		})
	}
}

// TestFaults is the same for what goes wrong in the gateway. No image is to blame, so
// nothing of it is remembered.
func TestFaults(t *testing.T) {
	h := hostileHouse(t)
	for i, g := range faults() {
		t.Run(g.name, func(t *testing.T) {
			if g.image == nil {
				g.image = hostile.Innocent(g.name, i+1).Build
			}
			timeout := h.scanner.Timeout
			defer func() { h.scanner.Timeout = timeout }()
			img := g.hold(t, h)
			if v, err := h.scanner.Cached(t.Context(), digest.FromBytes(img.Manifest)); err == nil {
				t.Errorf("it is remembered: %+v", v.Scan)
			}
		})
	}
}

// hold provokes the gap and holds what comes of it against what has to be said.
func (g gap) hold(t *testing.T, h *house) hostile.Image {
	t.Helper()
	if g.fault != nil {
		g.fault(t, h)
	}
	img := g.image()
	v, d := judge(t, h, img)
	if testing.Verbose() {
		t.Log(v.Scan.Detail)
	}
	if v.Scan.State != g.state || v.Scan.Cause != g.cause || v.Scan.Detail == "" {
		t.Errorf("%s, %q: %s; want %s, %q", v.Scan.State, v.Scan.Cause, v.Scan.Detail, g.state, g.cause)
	}
	told := func(p scan.Problem) bool { return p.Kind == g.kind && p.Detail != "" }
	if !slices.ContainsFunc(v.Scan.Coverage.Problems, told) {
		t.Errorf("no problem of the kind %s: %+v", g.kind, v.Scan.Coverage.Problems)
	}
	for _, p := range v.Scan.Coverage.Problems {
		if !slices.Contains(scan.Kinds(), p.Kind) {
			t.Errorf("the kind %q is not listed", p.Kind)
		}
	}
	message := policy.Message(d, policy.Image{Registry: "cgr.dev", Repository: "acme/hostile", Digest: digest.FromBytes(img.Manifest).String()}, v.Findings)
	if d.Allow || !d.Blocks() || !strings.Contains(message, g.says) || len(message) >= 300 {
		t.Errorf("allowed %v: %q (%d bytes); want it denied and %q", d.Allow, message, len(message), g.says)
	}
	return img
}

// TestGivenUp: a scan whose client or gateway goes away, at whatever point, is an error
// and no verdict, and leaves none behind.
func TestGivenUp(t *testing.T) {
	h := hostileHouse(t)
	for name, at := range map[string]string{"before the catalogue": "begin", "before the match": "match", "in the match": "query"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			gone := errors.New("the client is gone")
			img := hostile.Innocent(t.Name(), 0).Build()
			in := scan.Image{Digest: digest.FromBytes(img.Manifest), MediaType: ocispec.MediaTypeImageManifest, Manifest: img.Manifest, Config: img.Config}
			for _, l := range img.Layers {
				in.Layers = append(in.Layers, l.Descriptor())
			}
			database := h.scanner.Database
			defer func() { h.scanner.Database = database }()
			h.scanner.Database = func(ctx context.Context) (scan.Database, error) {
				db, err := database(ctx)
				if at == "match" {
					cancel(gone)
				}
				return db, err
			}
			sc, err := h.scanner.Begin(ctx, in)
			must(t, err)
			defer sc.Close()
			for i, l := range img.Layers {
				if sc.Needs(i) {
					must(t, sc.Layer(ctx, i, bytes.NewReader(l.Blob)))
				}
			}
			switch at {
			case "begin":
				cancel(gone)
			case "query":
				time.AfterFunc(time.Millisecond, func() { cancel(gone) })
			}
			v, err := sc.Finish(ctx)
			if err == nil && (at != "query" || v.Scan.State != scan.Complete) || err != nil && (v != nil || !errors.Is(err, gone)) {
				t.Errorf("%+v, %v; want %v", v, err, gone)
			}
			cancel(nil)
			h.scanner.Database = database
			if v, d := judge(t, h, img); v.Scan.State != scan.Complete || !d.Allow {
				t.Errorf("the next one: %+v", v.Scan)
			}
		})
	}
}

// TestPrintProblems: an operator sees on the terminal what was not covered, and where.
func TestPrintProblems(t *testing.T) {
	c := scan.Coverage{Problems: []scan.Problem{{Kind: "cataloguer_failed", Layer: digest.FromString("x"), Path: "/opt/app.jar", Detail: "no zip\x1b[2J"}}}
	for range 12 {
		c.Problems = append(c.Problems, scan.Problem{Kind: "db_missing", Detail: "no database"})
	}
	var b strings.Builder
	printProblems(&b, palette{}, c)
	for _, want := range []string{"not covered by this verdict:", "? cataloguer_failed: /opt/app.jar in sha256:2d711642b726: no zip?[2J\n", "? db_missing: no database\n", "… and 3 more; -o json lists all\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
	b.Reset()
	if printProblems(&b, palette{}, scan.Coverage{}); b.Len() > 0 {
		t.Errorf("of nothing: %q", b.String())
	}
}
