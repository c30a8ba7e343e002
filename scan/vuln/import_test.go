package vuln

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func TestImport(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	packed := m.archive(t)
	dir := t.TempDir()
	plain := filepath.Join(want.Dir, "vulnerability.db")
	zst := filepath.Join(dir, "vulnerability.db.zst")
	zip := func(from, to string) {
		b, err := os.ReadFile(from)
		check(t, err)
		z, err := zstd.NewWriter(nil)
		check(t, err)
		check(t, os.WriteFile(to, z.EncodeAll(b, nil), 0o600))
	}
	zip(plain, zst)
	tarOf := func(to string) string {
		b, err := os.ReadFile(packed)
		check(t, err)
		r, closer, err := database(bytes.NewReader(b))
		check(t, err)
		defer closer()
		b, err = io.ReadAll(r)
		check(t, err)
		check(t, os.WriteFile(to, files{"vulnerability.db": string(b)}.layer(t), 0o600))
		return to
	}
	tarball := tarOf(filepath.Join(dir, "x.tar"))
	zip(tarball, tarball+".zst")
	half := func(from string) string {
		b, err := os.ReadFile(from)
		check(t, err)
		name := filepath.Join(t.TempDir(), filepath.Base(from))
		check(t, os.WriteFile(name, b[:len(b)/2], 0o600))
		return name
	}
	lies := t.TempDir()
	b, err := os.ReadFile(plain)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(lies, "vulnerability.db"), b, 0o600))
	check(t, os.WriteFile(filepath.Join(lies, "import.json"), []byte(`{"digest":"xxh64:0000000000000000","client_version":"v6.1.10"}`), 0o600))

	for name, from := range map[string]string{
		"archive": packed, "zstd archive": tarball + ".zst", "tar": tarball, "file": plain, "zstd file": zst,
		"directory": want.Dir, "directory without import.json": dir, "directory above": filepath.Dir(want.Dir),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "directory above" { // as grype's cache has it
				from = t.TempDir()
				check(t, os.CopyFS(filepath.Join(from, "6"), os.DirFS(want.Dir)))
			}
			d := &Databases{Root: filepath.Join(t.TempDir(), "db")}
			db, err := d.Import(t.Context(), from)
			check(t, err)
			usable(t, d, want)
			if name == "directory" && db.Checksum != want.Checksum {
				t.Errorf("an indexed build with its import.json became %s from %s", db.Checksum, want.Checksum)
			}
			leftovers(t, d)
		})
	}
	d := &Databases{Root: t.TempDir()}
	_, err = d.Import(t.Context(), packed)
	check(t, err)
	for name, from := range map[string]string{
		"no file": "/nonexistent", "no database": "databases_test.go", "empty directory": t.TempDir(),
		"half an archive": half(packed), "half a zstd archive": half(tarball + ".zst"), "half a tar": half(tarball), "half a file": half(plain),
		"wrong checksum": lies,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := d.Import(t.Context(), from); err == nil || !strings.Contains(err.Error(), from) {
				t.Errorf("error %v", err)
			}
			usable(t, d, want)
			leftovers(t, d)
		})
	}
}
