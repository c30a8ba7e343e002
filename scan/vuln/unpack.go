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
func unpack(ctx context.Context, from, to string) (*v6.ImportMetadata, error) {
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
	return meta, write(ctx, to, r)
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

var errFormat = errors.New("it is neither an archive (.tar.zst, .tar.gz, .tar) with a vulnerability.db nor a vulnerability.db (also .zst, .gz)")

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
			return nil, nil, fmt.Errorf("read the archive: %w", err)
		}
		if h.Typeflag == tar.TypeReg && path.Base(h.Name) == v6.VulnerabilityDBFileName {
			return t, closer, nil
		}
	}
	closer()
	return nil, nil, errFormat
}

// write copies r to a new file, until ctx ends.
func write(ctx context.Context, name string, r io.Reader) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(reading{ctx, r}, maxDatabase+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	if n > maxDatabase {
		return fmt.Errorf("unpack: it has more than %d bytes", int64(maxDatabase))
	}
	return nil
}

// reading ends with its context. It lives for one copy.
type reading struct {
	ctx context.Context
	io.Reader
}

func (r reading) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
