package sampledb

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/anchore/grype/grype/db/v6/distribution"

	"github.com/sluicegate/sluice/scan"
)

// Archive publishes the database in db.Dir in the directory mirror, as the public
// mirror has it: v6/latest.json, and the archive that it names. A later call with a
// newer build replaces the listing.
func Archive(mirror string, db scan.Database) error {
	dir := filepath.Join(mirror, "v"+strconv.Itoa(v6.ModelVersion))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := filepath.Join(dir, fmt.Sprintf("vulnerability-db_v%d.%d.%d_%s.tar.gz",
		v6.ModelVersion, v6.Revision, v6.Addition, db.Built.UTC().Format("20060102T150405Z")))
	if err := pack(name, filepath.Join(db.Dir, v6.VulnerabilityDBFileName)); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	about, err := distribution.NewArchive(name, db.Built.UTC(), v6.ModelVersion, v6.Revision, v6.Addition)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "latest")
	if err != nil {
		return err
	}
	err = distribution.NewLatestDocument(*about).Write(f)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return os.Rename(f.Name(), filepath.Join(dir, distribution.LatestFileName))
}

// Handler serves what Archive published; the URL of its root is what a client of
// databases is configured with.
func Handler(mirror string) http.Handler { return http.FileServer(http.Dir(mirror)) }

// pack writes a .tar.gz with one file.
func pack(to, file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(out)
	t := tar.NewWriter(z)
	err = t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: filepath.Base(file), Size: info.Size(), Mode: 0o644, ModTime: time.Unix(0, 0),
	})
	if err == nil {
		_, err = io.Copy(t, in)
	}
	return errors.Join(err, t.Close(), z.Close(), out.Close())
}
