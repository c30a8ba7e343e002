package vuln

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// An archive whose end is cut off, or whose checksum is that of other bytes, is no database,
// though the database in it can be read: packed either way, of one block or of many.
func TestImportOfADamagedArchive(t *testing.T) {
	small, err := os.ReadFile(filepath.Join(sample(t).Dir, "vulnerability.db"))
	check(t, err)
	const random = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM r LIMIT 12) INSERT INTO filler SELECT randomblob(1000000) FROM r"
	large := changed(t, small, "CREATE TABLE filler (b)", random) // longer than a window of either
	tarred := func(db []byte) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		check(t, w.WriteHeader(&tar.Header{Name: "vulnerability.db", Mode: 0o600, Size: int64(len(db))}))
		_, err := w.Write(db)
		check(t, err)
		check(t, w.Close())
		return b.Bytes()
	}
	for _, c := range []struct {
		name     string
		text     []byte
		zstd     bool
		checksum int // where the checksum stands, from the end
	}{
		{"tar.gz", tarred(small), false, 8}, // RFC 1952, section 2.3.1: CRC32, ISIZE
		{"large tar.gz", tarred(large), false, 8},
		{"large gz", large, false, 8},
		{"tar.zst", tarred(small), true, 4}, // RFC 8878, section 3.1.1: Content_Checksum
		{"large tar.zst", tarred(large), true, 4},
		{"large zst", large, true, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			good := compressed(t, c.text, c.zstd)
			other, between := bytes.Clone(good), bytes.Clone(good)
			other[len(other)-c.checksum] ^= 1
			between[len(between)/2] ^= 1
			for name, archive := range map[string][]byte{"cut off": good[:len(good)-c.checksum-1], "no checksum": good[:len(good)-c.checksum], "another checksum": other, "other bytes": between, "good": good} {
				file := filepath.Join(t.TempDir(), "db")
				check(t, os.WriteFile(file, archive, 0o600))
				d := &Databases{Root: t.TempDir()}
				if _, err := d.Import(t.Context(), file); (err == nil) != (name == "good") {
					t.Errorf("%s: %v", name, err)
				}
				leftovers(t, d)
			}
		})
	}
}

func compressed(t *testing.T, text []byte, byZstd bool) []byte {
	t.Helper()
	var b bytes.Buffer
	var z io.WriteCloser = gzip.NewWriter(&b)
	if byZstd {
		var err error
		z, err = zstd.NewWriter(&b)
		check(t, err)
	}
	_, err := z.Write(text)
	check(t, err)
	check(t, z.Close())
	return b.Bytes()
}
