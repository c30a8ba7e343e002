package vuln

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/klauspost/compress/zstd"
	"github.com/spf13/afero"
)

// unpack writes the database that from holds to the new file to, whatever it is
// packed in. It returns the import.json that lies beside it in a directory, nil where
// there is none. Everything written is bounded.
func (d *Databases) unpack(ctx context.Context, from, to string) (*v6.ImportMetadata, error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, err
	}
	var meta *v6.ImportMetadata
	if info.IsDir() {
		if from, err = within(from); err != nil {
			return nil, err
		}
		dir := filepath.Dir(from)
		if _, err := os.Stat(filepath.Join(dir, v6.ImportMetadataFileName)); err == nil {
			if meta, err = v6.ReadImportMetadata(afero.NewOsFs(), dir); err != nil {
				return nil, err
			}
		}
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, closer, err := database(f)
	if err != nil {
		return nil, err
	}
	defer closer()
	if _, err := d.save(ctx, to, r, d.within().database); err != nil {
		var file *fs.PathError
		if f := new(failure); !errors.As(err, &f) && !errors.As(err, &file) && ctx.Err() == nil { // then it was the reader's
			return nil, fail(BadArchive, "unpack: %w", err)
		}
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return meta, nil
}

// within finds the database in a directory: there, or one level down, as grype keeps it.
func within(dir string) (string, error) {
	for _, sub := range []string{".", fmt.Sprint(v6.ModelVersion)} {
		for _, suffix := range []string{"", ".zst", ".gz"} {
			name := filepath.Join(dir, sub, v6.VulnerabilityDBFileName+suffix)
			if _, err := os.Stat(name); err == nil {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("the directory holds no %s: %w", v6.VulnerabilityDBFileName, fs.ErrNotExist)
}

// Beginnings of the formats that are told apart.
var (
	magicZstd   = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicGzip   = []byte{0x1f, 0x8b}
	magicSQLite = []byte("SQLite format 3\x00")
	magicTar    = []byte("ustar") // at tarMagic
)

const tarMagic = 257

var errFormat = fail(BadArchive, "it is neither an archive (.tar.zst, .tar.gz, .tar) with a vulnerability.db nor a vulnerability.db (also .zst, .gz)")

// database returns a reader of the SQLite file that lies in r under at most one
// compression and one tar.
func database(r io.Reader) (_ io.Reader, closer func(), err error) {
	closer = func() {}
	in := bufio.NewReaderSize(r, 1<<16)
	switch head, _ := in.Peek(4); {
	case bytes.HasPrefix(head, magicZstd):
		z, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		in, closer = bufio.NewReaderSize(z, 1<<16), z.Close
	case bytes.HasPrefix(head, magicGzip):
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, nil, err
		}
		in = bufio.NewReaderSize(z, 1<<16)
	}
	head, err := in.Peek(tarMagic + len(magicTar))
	if bytes.HasPrefix(head, magicSQLite) {
		return in, closer, nil
	}
	if len(head) < tarMagic+len(magicTar) || !bytes.Equal(head[tarMagic:], magicTar) {
		closer()
		if err != nil && err != io.EOF {
			return nil, nil, fmt.Errorf("%w (%w)", errFormat, err)
		}
		return nil, nil, errFormat
	}
	t := tar.NewReader(in)
	for range 100 { // a real archive has one to three entries
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			closer()
			return nil, nil, fail(BadArchive, "read the archive: %w", err)
		}
		if h.Typeflag == tar.TypeReg && path.Base(h.Name) == v6.VulnerabilityDBFileName {
			return io.MultiReader(t, rest{in}), closer, nil
		}
	}
	closer()
	return nil, nil, errFormat
}

// maxRest bounds what follows the database in an archive: import.json, and padding.
const maxRest = 64 << 20

// rest reads what follows the database and yields nothing of it: the checksum of the
// compression stands at its very end.
type rest struct{ r io.Reader }

func (r rest) Read([]byte) (int, error) {
	n, err := io.Copy(io.Discard, io.LimitReader(r.r, maxRest+1))
	switch {
	case err != nil:
		return 0, err
	case n > maxRest:
		return 0, fmt.Errorf("more than %d MiB follow the database", maxRest>>20)
	}
	return 0, io.EOF
}
