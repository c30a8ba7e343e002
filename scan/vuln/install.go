package vuln

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"

	"github.com/sluicegate/sluice/scan"
)

// install makes a build of file in the directory stage, checks it, and activates it if
// accept has nothing against when it was built. changed says that another one was active
// before.
func (d *Databases) install(ctx context.Context, stage, file, source string, accept func(built time.Time) error) (db scan.Database, changed bool, err error) {
	build := filepath.Join(stage, "build")
	r, err := d.prepare(ctx, build, file, source)
	if err != nil {
		return db, false, err
	}
	err = d.alone(ctx, installLock, nil, func() error {
		if err := accept(r.Built); err != nil {
			return err
		}
		var err error
		db, changed, err = d.activate(build, r)
		return err
	})
	return db, changed, err
}

// prepare makes a build of file: everything but its place.
func (d *Databases) prepare(ctx context.Context, build, file, source string) (r record, err error) {
	dir := filepath.Join(build, strconv.Itoa(v6.ModelVersion))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	name := filepath.Join(dir, v6.VulnerabilityDBFileName)
	sum, err := d.unpack(ctx, file, name)
	if err != nil {
		return r, err
	}
	d.at("unpacked")
	if err := sound(ctx, name); err != nil {
		return r, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return r, err
	}
	if err := d.room(info.Size()); err != nil { // for indexes, and for sorting them
		return r, err
	}
	if err := d.sortHere(ctx); err != nil {
		return r, err
	}
	meta, err := index(dir, sum, source)
	if err != nil {
		return r, err
	}
	d.at("indexed")
	about, err := v6.ReadDescription(name)
	if err != nil {
		return r, &failure{reason: BadArchive, err: err}
	}
	if about.SchemaVersion.Model != v6.ModelVersion {
		return r, fail(BadArchive, "it is a database of schema %d, and this version reads schema %d", about.SchemaVersion.Model, v6.ModelVersion)
	}
	if err := d.past(about.Built.Time); err != nil {
		return r, &failure{reason: BadArchive, err: err}
	}
	return record{
		Checksum:  meta.Digest,
		Built:     about.Built.UTC(),
		Schema:    about.SchemaVersion.String(),
		Source:    source,
		Activated: d.clock().UTC(),
	}, ctx.Err()
}

// index checks the file in dir and gives it its indexes and its import.json. sum is
// what an import.json that came with the file says of it, nil where there is none.
func index(dir string, sum *v6.ImportMetadata, source string) (*v6.ImportMetadata, error) {
	name := filepath.Join(dir, v6.VulnerabilityDBFileName)
	meta := &v6.ImportMetadata{Source: source, ClientVersion: fmt.Sprintf("v%d.%d.%d", v6.ModelVersion, v6.Revision, v6.Addition)}
	if sum != nil {
		have, err := v6.CalculateDBDigest(afero.NewOsFs(), name)
		if err != nil {
			return nil, err
		}
		if !strings.EqualFold(have, sum.Digest) {
			return nil, fmt.Errorf("its checksum is %s, and %s says %s: copy it again", have, v6.ImportMetadataFileName, sum.Digest)
		}
		if sum.ClientVersion == meta.ClientVersion { // it has its indexes already
			meta.Digest = have
			return meta, writeJSON(filepath.Join(dir, v6.ImportMetadataFileName), meta)
		}
	}
	if err := v6.Hydrater()(dir); err != nil {
		if full(err) {
			return nil, &failure{reason: NoDisk, err: fmt.Errorf("index it: %w", err)}
		}
		return nil, fail(BadArchive, "it is no database that this version can read (schema %d): %w", v6.ModelVersion, err)
	}
	done, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, source)
	if err != nil {
		return nil, err
	}
	return done, nil
}

// sortHere has SQLite put what it sorts into Root. Left alone it takes /var/tmp or /tmp,
// where a container has some megabytes; the indexes of a real database need hundreds.
// The setting is the process's, and SQLite wants it left alone once it is made.
func (d *Databases) sortHere(ctx context.Context) error {
	dir, err := filepath.Abs(d.Root)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return err
	}
	defer db.Close()
	var now string
	if err := db.QueryRowContext(ctx, "PRAGMA temp_store_directory").Scan(&now); err == nil && now == dir {
		return nil
	}
	if _, err := db.ExecContext(ctx, "PRAGMA temp_store_directory = '"+strings.ReplaceAll(dir, "'", "''")+"'"); err != nil {
		return fmt.Errorf("have SQLite sort in %s: %w", dir, err)
	}
	return nil
}

// full reports whether SQLite had no room left.
func full(err error) bool {
	var code interface{ Code() int }
	const sqliteFull = 13 // https://sqlite.org/rescode.html#full
	return errors.As(err, &code) && code.Code()&0xff == sqliteFull
}

// sound has SQLite look at every page, since a file that was cut off may well open, and
// looks whether it is a vulnerability database with something in it: indexing makes one
// of any SQLite file, and in an empty one every image would be clean.
func sound(ctx context.Context, name string) error {
	db, err := sql.Open("sqlite", "file:"+name+"?mode=ro&immutable=1")
	if err != nil {
		return err
	}
	defer db.Close()
	var said string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
		return fail(BadArchive, "it is no SQLite database, or a damaged one: %w", err)
	}
	if said != "ok" {
		return fail(BadArchive, "it is a damaged SQLite database: %s", oneLine(said))
	}
	var odd int
	const code = "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index')" // triggers and views would run
	if err := db.QueryRowContext(ctx, code).Scan(&odd); err != nil || odd > 0 {
		return fail(BadArchive, "it is no vulnerability database: it holds %d triggers and views, %v", odd, err)
	}
	var model int
	var built sql.NullString
	if err := db.QueryRowContext(ctx, "SELECT model, build_timestamp FROM db_metadata").Scan(&model, &built); err != nil || !built.Valid {
		return fail(BadArchive, "it is no vulnerability database of schema %d: it doesn't say when and for which schema it was built (%v)", v6.ModelVersion, err)
	}
	if model != v6.ModelVersion {
		return fail(BadArchive, "it is a vulnerability database of schema %d, and this version reads schema %d", model, v6.ModelVersion)
	}
	for _, table := range []string{"providers", "vulnerability_handles", "affected_package_handles"} {
		var one int
		if err := db.QueryRowContext(ctx, "SELECT 1 FROM "+table+" LIMIT 1").Scan(&one); err != nil {
			return fail(BadArchive, "it is a vulnerability database with nothing in %s: %w", table, err)
		}
	}
	return ctx.Err()
}

// activate moves a finished build to its place and then, in one write, makes it the
// active one. installLock is held.
func (d *Databases) activate(build string, r record) (scan.Database, bool, error) {
	old, err := d.active()
	if err == nil {
		r.Previous = old.Dir
		if same := d.dir(old); old.Checksum == r.Checksum && d.verify(old) == nil {
			return scan.Database{Built: old.Built, Checksum: old.Checksum, Dir: same}, false, nil
		}
	}
	if r.Dir, err = d.vacant(r.Checksum); err != nil {
		return scan.Database{}, false, err
	}
	inner := filepath.Join(build, strconv.Itoa(v6.ModelVersion))
	inherit(build, inner, filepath.Join(inner, v6.VulnerabilityDBFileName), holdFile(inner))
	if err := flush(filepath.Join(inner, v6.VulnerabilityDBFileName), holdFile(inner), inner, build); err != nil {
		return scan.Database{}, false, err
	}
	place := filepath.Join(d.Root, r.Dir)
	if err := os.Rename(build, place); err != nil {
		return scan.Database{}, false, err
	}
	d.at("placed")
	err = d.verify(r) // the last look before others depend on it
	if err == nil {
		err = writeJSON(filepath.Join(d.Root, currentFile), r)
	}
	if err != nil {
		if now, e := d.active(); e != nil || now.Dir != r.Dir { // else only the last flush failed
			err = errors.Join(err, os.RemoveAll(place))
		}
		return scan.Database{}, false, err
	}
	d.at("activated")
	if old.Dir != "" {
		_ = os.WriteFile(filepath.Join(d.Root, old.Dir, retiredFile), nil, 0o600) // else it goes at once
	}
	d.sweep(r)
	return scan.Database{Built: r.Built, Checksum: r.Checksum, Dir: d.dir(r)}, true, nil
}

// vacant returns a name in Root for a build that no directory has, not even a damaged
// one: what a process has open is never replaced.
func (d *Databases) vacant(checksum string) (string, error) {
	base := strings.ReplaceAll(checksum, ":", "-")
	for i := range 1000 {
		name := base
		if i > 0 {
			name = fmt.Sprintf("%s.%d", base, i)
		}
		if _, err := os.Lstat(filepath.Join(d.Root, name)); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s holds a thousand builds with the checksum %s: remove some", d.Root, checksum)
}
