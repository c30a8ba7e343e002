package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	partialDir = "partial" // files that are being written; emptied at start
	blobsDir   = "blobs"   // ALGORITHM/XX/HEX.SIZE, written since the machine booted or hashed since
	unsureDir  = "unsure"  // the same, from before: not served until they are hashed
	bootFile   = "boot"    // the boot ID under which blobsDir was written
	touchEvery = time.Minute
)

// bootID returns what identifies this boot of the machine, "" where that is unknown.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// load brings the directory in order and its blobs into s. It reports whether some
// of them have to be hashed first.
func (s *Spool) load() (unsure bool, err error) {
	partial := filepath.Join(s.dir, partialDir)
	if err := os.RemoveAll(partial); err != nil {
		return false, err
	}
	if err := os.Mkdir(partial, 0o700); err != nil {
		return false, err
	}
	if err := s.distrust(); err != nil {
		return false, err
	}
	var found []*entry
	for _, dir := range []string{blobsDir, unsureDir} {
		more, err := readBlobs(filepath.Join(s.dir, dir), dir == unsureDir)
		if err != nil {
			return false, err
		}
		found = append(found, more...)
	}
	slices.SortFunc(found, func(a, b *entry) int { return a.touched.Compare(b.touched) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range found {
		if old, ok := s.blobs[e.digest]; ok {
			s.drop(old)
		}
		s.blobs[e.digest] = e
		s.committed += e.size
		e.idle = s.idle.PushBack(e)
		s.idleBytes += e.size
	}
	s.evict(s.committed - s.quota)
	for _, e := range s.blobs {
		unsure = unsure || e.unsure
	}
	return unsure, nil
}

// distrust moves all blobs to the unsure ones when the machine has booted since
// they were written. It may end anywhere and be done again.
func (s *Spool) distrust() error {
	file := filepath.Join(s.dir, bootFile)
	was, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s.boot != "" && string(was) == s.boot {
		return nil
	}
	blobs, unsure := filepath.Join(s.dir, blobsDir), filepath.Join(s.dir, unsureDir)
	err = filepath.WalkDir(blobs, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		to := filepath.Join(unsure, strings.TrimPrefix(path, blobs))
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		return os.Rename(path, to)
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, []byte(s.boot), 0o600)
}

// readBlobs returns the blobs under dir. Files that are not as long as their name
// says are removed; files that are no blobs are left alone.
func readBlobs(dir string, unsure bool) ([]*entry, error) {
	var found []*entry
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		e, ok := parseName(strings.TrimPrefix(path, dir+string(filepath.Separator)))
		if !ok {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if !fi.Mode().IsRegular() || fi.Size() != e.size {
			return os.Remove(path)
		}
		e.path, e.touched, e.unsure = path, fi.ModTime(), unsure
		found = append(found, e)
		return nil
	})
	return found, err
}

// parseName reads ALGORITHM/XX/HEX.SIZE.
func parseName(name string) (*entry, bool) {
	parts := strings.Split(filepath.ToSlash(name), "/")
	if len(parts) != 3 {
		return nil, false
	}
	hex, length, _ := strings.Cut(parts[2], ".")
	d := digest.Digest(parts[0] + ":" + hex)
	size, err := strconv.ParseInt(length, 10, 64)
	if err != nil || size < 0 || checkDigest(d) != nil || parts[1] != hex[:2] {
		return nil, false
	}
	e := newEntry(d, size)
	e.arrived = size
	e.settle(nil)
	return e, true
}

// Verify hashes every committed blob and drops those whose bytes can't be read or are
// not what their name says. It returns these, and ends early with the cause of ctx.
// Blobs stay usable meanwhile.
func (s *Spool) Verify(ctx context.Context) (bad []digest.Digest, err error) {
	return s.verify(ctx, func(*entry) bool { return true })
}

// checkUnsure hashes what was written before the machine booted.
func (s *Spool) checkUnsure() {
	// The only error is the end of the spool: what is left stays unsure on disk.
	_, _ = s.verify(s.ctx, func(e *entry) bool { return e.unsure })
}

// verify checks those committed blobs that want tells, the most recently used first.
func (s *Spool) verify(ctx context.Context, want func(*entry) bool) (bad []digest.Digest, err error) {
	s.mu.Lock()
	var todo []*entry
	for _, e := range s.blobs {
		if want(e) {
			todo = append(todo, e)
		}
	}
	slices.SortFunc(todo, func(a, b *entry) int { return b.touched.Compare(a.touched) })
	s.mu.Unlock()
	buf := make([]byte, 1<<20)
	for _, e := range todo {
		ok, err := s.check(ctx, e, buf)
		if err != nil {
			return bad, err
		}
		if !ok {
			bad = append(bad, e.digest)
		}
	}
	return bad, nil
}

// check hashes the file of e, and drops e where it is not what it should be. One
// that was dropped meanwhile is fine. The error is the end of ctx.
func (s *Spool) check(ctx context.Context, e *entry, buf []byte) (ok bool, err error) {
	s.mu.Lock()
	if s.blobs[e.digest] != e {
		s.mu.Unlock()
		return true, nil
	}
	f, err := os.Open(e.path)
	s.pin(e) // it is neither evicted nor moved while it is read
	s.mu.Unlock()
	if err == nil {
		err = hashFile(ctx, f, e.digest, buf)
		f.Close()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.unpin(e)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err == nil && e.unsure {
		err = s.trust(e)
	}
	if err != nil {
		s.drop(e)
	}
	return err == nil, nil
}

// trust moves a checked file to where it is served from. s.mu is held.
func (s *Spool) trust(e *entry) error {
	if s.blobs[e.digest] != e { // replaced while it was read
		return nil
	}
	path := s.blobPath(e.digest, e.size)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Rename(e.path, path); err != nil {
		return err
	}
	e.path, e.unsure = path, false
	return nil
}

// hashFile returns nil when f holds the bytes of d.
func hashFile(ctx context.Context, f *os.File, d digest.Digest, buf []byte) error {
	h := d.Algorithm().Hash()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("%s holds %s: %w", f.Name(), got, ErrMismatch)
	}
	return nil
}
