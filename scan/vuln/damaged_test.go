package vuln

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"
)

// An archive whose end is cut off, or whose checksum is that of other bytes, is no database,
// though the database in it can be read.
func TestImportOfADamagedArchive(t *testing.T) {
	db, err := os.ReadFile(filepath.Join(sample(t).Dir, "vulnerability.db"))
	check(t, err)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	check(t, w.WriteHeader(&tar.Header{Name: "vulnerability.db", Mode: 0o600, Size: int64(len(db))}))
	_, err = w.Write(db)
	check(t, err)
	check(t, w.Close())
	check(t, z.Close())
	good := b.Bytes()
	other := bytes.Clone(good)
	other[len(other)-8] ^= 1 // RFC 1952, section 2.3.1: CRC32, ISIZE
	for name, archive := range map[string][]byte{"cut off": good[:len(good)-9], "another checksum": other, "good": good} {
		file := filepath.Join(t.TempDir(), "db.tar.gz")
		check(t, os.WriteFile(file, archive, 0o600))
		if _, err := (&Databases{Root: t.TempDir()}).Import(t.Context(), file); (err == nil) != (name == "good") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
