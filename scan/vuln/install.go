package vuln

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"

	"github.com/sluicegate/sluice/scan"
)

// Import installs and activates a build from a file, without any network: an archive
// as mirrors serve it (.tar.zst, .tar.gz, .tar), a bare vulnerability.db, also
// compressed, or a directory that holds one, with the import.json that says its
// checksum where there is one. What was active stays so on any error. An older build
// than the active one is taken, too: that is how one goes back.
func (d *Databases) Import(ctx context.Context, file string) (db scan.Database, err error) {
	err = d.locked(ctx, func() error {
		stage, err := d.stage()
		if err != nil {
			return err
		}
		defer os.RemoveAll(stage)
		db, err = d.install(ctx, stage, file, file)
		return err
	})
	if err != nil {
		return db, fmt.Errorf("import the vulnerability database %s: %w", file, err)
	}
	return db, nil
}

// install makes a build of file in the directory stage, checks it, and activates it.
func (d *Databases) install(ctx context.Context, stage, file, source string) (scan.Database, error) {
	build := filepath.Join(stage, "build")
	dir := filepath.Join(build, strconv.Itoa(v6.ModelVersion))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return scan.Database{}, err
	}
	name := filepath.Join(dir, v6.VulnerabilityDBFileName)
	sum, err := unpack(ctx, file, name)
	if err != nil {
		return scan.Database{}, err
	}
	if err := ctx.Err(); err != nil {
		return scan.Database{}, err
	}
	meta, err := index(ctx, dir, sum, source)
	if err != nil {
		return scan.Database{}, err
	}
	about, err := v6.ReadDescription(name)
	if err != nil {
		return scan.Database{}, err
	}
	if err := ctx.Err(); err != nil {
		return scan.Database{}, err
	}
	return d.activate(build, record{
		Checksum:  meta.Digest,
		Built:     about.Built.UTC(),
		Schema:    about.SchemaVersion.String(),
		Source:    source,
		Activated: d.clock().UTC(),
	})
}

// index checks the file in dir and gives it its indexes and its import.json. sum is
// what an import.json that came with the file says of it, nil where there is none.
func index(ctx context.Context, dir string, sum *v6.ImportMetadata, source string) (*v6.ImportMetadata, error) {
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
	if err := sound(ctx, name); err != nil {
		return nil, err
	}
	if err := v6.Hydrater()(dir); err != nil {
		return nil, fmt.Errorf("it is no database that this version can read (schema %d): %w", v6.ModelVersion, err)
	}
	done, err := v6.WriteImportMetadata(afero.NewOsFs(), dir, source)
	if err != nil {
		return nil, err
	}
	return done, nil
}

// sound has SQLite look at every page: a file that was cut off may well open.
func sound(ctx context.Context, name string) error {
	db, err := sql.Open("sqlite", "file:"+name+"?mode=ro&immutable=1")
	if err != nil {
		return err
	}
	defer db.Close()
	var said string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&said); err != nil {
		return fmt.Errorf("it is no SQLite database, or a damaged one: %w", err)
	}
	if said != "ok" {
		return fmt.Errorf("it is a damaged SQLite database: %s", oneLine(said))
	}
	return nil
}

// activate moves a finished build to its place and then, in one write, makes it the
// active one.
func (d *Databases) activate(build string, r record) (scan.Database, error) {
	old, err := d.active()
	if err == nil {
		r.Previous = old.Dir
		if same := d.dir(old); old.Checksum == r.Checksum && d.verify(old) == nil {
			return scan.Database{Built: old.Built, Checksum: old.Checksum, Dir: same}, nil
		}
	}
	if r.Dir, err = d.vacant(r.Checksum); err != nil {
		return scan.Database{}, err
	}
	if err := flush(filepath.Join(build, strconv.Itoa(v6.ModelVersion), v6.VulnerabilityDBFileName)); err != nil {
		return scan.Database{}, err
	}
	if err := os.Rename(build, filepath.Join(d.Root, r.Dir)); err != nil {
		return scan.Database{}, err
	}
	if err := d.verify(r); err != nil { // the last look before others depend on it
		return scan.Database{}, err
	}
	if err := writeJSON(filepath.Join(d.Root, currentFile), r); err != nil {
		return scan.Database{}, err
	}
	d.sweep(r)
	return scan.Database{Built: r.Built, Checksum: r.Checksum, Dir: d.dir(r)}, nil
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

// sweep removes the builds that are neither active, nor the one before, nor leased,
// and what an interrupted installation has left. The lock is held.
func (d *Databases) sweep(r record) {
	entries, err := os.ReadDir(d.Root)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := e.Name()
		build := strings.HasPrefix(name, "xxh64-") && name != r.Dir && name != r.Previous && !d.leased(name)
		if build || strings.HasPrefix(name, stagePrefix) || strings.HasPrefix(name, tempPrefix) {
			_ = os.RemoveAll(filepath.Join(d.Root, name)) // tried again next time
		}
	}
}

func (d *Databases) leased(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leases[d.dir(record{Dir: name})] > 0
}

// stage makes an empty directory in Root, where a rename to the final place can't
// fail for want of space. The lock is held, so that whatever lies there is a leftover.
func (d *Databases) stage() (string, error) {
	old, err := filepath.Glob(filepath.Join(d.Root, stagePrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(d.Root, stagePrefix)
}

// locked runs f while no other goroutine or process installs anything in Root. The
// kernel gives the lock back when a process dies.
func (d *Databases) locked(ctx context.Context, f func() error) error {
	if d.Root == "" || strings.ContainsAny(d.Root, "?#%") {
		return fmt.Errorf("the directory %q can't hold a database: choose a path without ?, # and %%", d.Root)
	}
	if err := os.MkdirAll(d.Root, 0o700); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(d.Root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close() // unlocks
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f()
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		select {
		case <-tick.C: // flock can't be waited for with a context
		case <-ctx.Done():
			return fmt.Errorf("wait for another update: %w", ctx.Err())
		}
	}
}

const tempPrefix = ".new-"

// writeJSON replaces a small file as a whole: a crash leaves the old or the new one.
func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return flush(filepath.Dir(name))
}

// flush makes a file or a directory durable.
func flush(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
