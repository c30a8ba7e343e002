package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// room returns an error where the disk of Root would have less than its reserve left
// once need more bytes are written: 256 MiB or a twentieth of it. What else lies there,
// the store above all, has to go on when a database doesn't fit.
func (d *Databases) room(need int64) error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.Root, &s); err != nil {
		return nil // writing will tell
	}
	free, size := int64(s.Bavail)*int64(s.Bsize), int64(s.Blocks)*int64(s.Bsize)
	reserve := min(d.within().reserve, size/20)
	if need = max(need, 0); free-need >= reserve {
		return nil
	}
	return fail(NoDisk, "the disk of %s is too full: %d MB are free, %d MB of them are left to others, and this needs %d MB: make room (an update takes three times the size of a database for a while)",
		d.Root, free>>20, reserve>>20, need>>20)
}

// save copies r to a new file, at most so many bytes, as far as the disk allows, until
// ctx ends.
func (d *Databases) save(ctx context.Context, name string, r io.Reader, most int64) (n int64, err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const step = 16 << 20 // bytes between two looks at the disk
	for {
		if err := errors.Join(ctx.Err(), d.room(0)); err != nil {
			return n, err
		}
		m, err := io.CopyN(f, r, min(step, most+1-n))
		n += m
		switch {
		case n > most:
			return n, fail(BadArchive, "it has more than %d bytes", most)
		case err == io.EOF:
			return n, nil
		case err != nil:
			return n, err
		}
	}
}

// Names in Root.
const (
	currentFile = "current"         // which build is active
	checkFile   = "last-check.json" // how the last check for a newer one went
	installLock = "lock"            // held while current is changed and builds are removed
	updateLock  = "update.lock"     // held by an update from its check to its end
	stagePrefix = "staging-"        // a directory in which a build is made, locked while it is
	buildPrefix = "xxh64-"
	retiredFile = "retired" // in a build that was active; of when it ceased to be
	tempPrefix  = ".new-"
)

// stage makes an empty directory in Root, where a rename to the final place can't fail
// for want of space, and removes those whose makers have died. end removes it.
func (d *Databases) stage(ctx context.Context) (dir string, end func(), err error) {
	err = d.alone(ctx, installLock, nil, func() (err error) {
		d.clear()
		if dir, err = os.MkdirTemp(d.Root, stagePrefix); err != nil {
			return err
		}
		inherit(dir)
		lock, err := lockFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, syscall.LOCK_EX)
		if err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		end = func() {
			_ = os.RemoveAll(dir) // else the next stage does
			lock.Close()
		}
		return nil
	})
	return dir, end, err
}

// clear removes what installations that died have left. installLock is held.
func (d *Databases) clear() {
	entries, err := os.ReadDir(d.Root)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := filepath.Join(d.Root, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), stagePrefix):
			removeUnlocked(name, filepath.Join(name, "lock"))
		case strings.HasPrefix(e.Name(), tempPrefix):
			if i, err := e.Info(); err == nil && d.clock().Sub(i.ModTime()).Abs() > time.Minute { // else it may be on its way
				_ = os.Remove(name)
			}
		}
	}
}

// removeUnlocked removes a directory unless somebody holds the lock on a file in it.
func removeUnlocked(dir, file string) {
	lock, err := lockFile(file, os.O_RDONLY, syscall.LOCK_EX)
	switch {
	case errors.Is(err, errLocked):
		return
	case err == nil:
		defer lock.Close()
	}
	_ = os.RemoveAll(dir) // tried again next time
}

// grace is for how long a build that is not active any more is kept for those who have
// been told of it and are about to open it.
const grace = 2 * time.Minute

// sweep removes the builds that are neither active nor the one before, that ceased to
// be so a while ago or never were, and that nobody has open. installLock is held.
func (d *Databases) sweep(active record) {
	builds, err := filepath.Glob(filepath.Join(d.Root, buildPrefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range builds {
		if name := filepath.Base(dir); name == active.Dir || name == active.Previous {
			continue
		}
		if i, err := os.Stat(filepath.Join(dir, retiredFile)); err == nil && d.clock().Sub(i.ModTime()).Abs() < grace {
			continue
		}
		removeUnlocked(dir, holdFile(d.dir(record{Dir: filepath.Base(dir)})))
	}
}

// tidy removes leftovers and builds that have served.
func (d *Databases) tidy(ctx context.Context) {
	if _, err := os.Stat(d.Root); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = d.alone(ctx, installLock, nil, func() error { // when another one installs, that one tidies
		d.clear()
		if r, err := d.active(); err == nil {
			d.sweep(r)
		}
		return nil
	})
}

// inherit has root give what it made to the owner of the folder that it lies in: a
// gateway that runs as somebody else is to read what "sudo sluice db import" brings.
func inherit(names ...string) {
	if os.Geteuid() != 0 {
		return
	}
	for _, name := range names {
		if i, err := os.Stat(filepath.Dir(name)); err == nil {
			if owner, ok := i.Sys().(*syscall.Stat_t); ok {
				_ = os.Lchown(name, int(owner.Uid), int(owner.Gid)) // root's own gateway doesn't need it
			}
		}
	}
}

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
	inherit(f.Name())
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

// flush makes files and directories durable.
func flush(names ...string) error {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// reasonOf returns why something failed, in a word.
func reasonOf(err error) Reason {
	var f *failure
	var file *fs.PathError
	switch {
	case errors.As(err, &f):
		return f.reason
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.As(err, &file):
		return NoDisk
	}
	return Other
}
