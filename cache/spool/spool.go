package spool

import (
	"container/list"
	"context"
	_ "crypto/sha256" // digest algorithms of the distribution specification
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrFull says that there is no room: the quota holds too many bytes in use, or
	// the disk is full. It is temporary by nature.
	ErrFull = errors.New("spool is full")

	// ErrMismatch says that the bytes that came are not those of the digest and size.
	ErrMismatch = errors.New("not the blob that was asked for")

	// ErrClosed is what everything returns after Close.
	ErrClosed = errors.New("spool is closed")
)

// A Spool is a directory of blobs. All methods may be called concurrently.
type Spool struct {
	dir   string
	quota int64
	boot  string           // the kernel's boot ID, "" where it can't be known
	now   func() time.Time // time.Now but in tests
	lock  *os.File         // keeps other processes out

	ctx    context.Context // of fills and checks; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // fills and checks

	// mu guards all below and the fields of entry that say so. It holds that
	// committed + reserved ≤ quota, that committed is the sum of the sizes in blobs,
	// and that idle lists those entries of blobs that nobody has open.
	mu        sync.Mutex
	closed    bool
	blobs     map[digest.Digest]*entry
	arriving  map[arrival]*entry
	idle      *list.List // of *entry; the least recently used first
	idleBytes int64
	committed int64
	reserved  int64
}

// An arrival names a blob that is on its way. Size and source are part of it: one that
// is declared wrong somewhere, or lacking there, must not spoil the same blob for those
// who know better.
type arrival struct {
	digest digest.Digest
	size   int64
	source string
}

// Open opens the spool in dir, which is created with mode 0700 where it is missing
// and belongs to one process at a time. Partial files of an earlier process are
// removed; committed ones are kept when they have the size that they should, and
// evicted, least recently used first, as far as they exceed quota, in bytes.
//
// After another boot of the machine, or where boots can't be told apart, blobs are hashed in the background before they
// are served again (see the package documentation).
func Open(dir string, quota int64) (*Spool, error) {
	if quota <= 0 {
		return nil, fmt.Errorf("spool %s: quota is %d bytes: give it room for at least the largest image", dir, quota)
	}
	for _, d := range []string{dir, filepath.Join(dir, partialDir), filepath.Join(dir, blobsDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("spool: %w: choose another directory, or give this user the right to write there", err)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := newSpool(dir, quota, lock)
	unsure, err := s.load()
	if err != nil {
		s.cancel()
		lock.Close()
		return nil, fmt.Errorf("spool %s: %w", dir, err)
	}
	if unsure {
		s.wg.Go(s.checkUnsure)
	}
	return s, nil
}

func newSpool(dir string, quota int64, lock *os.File) *Spool {
	s := &Spool{
		dir: dir, quota: quota, boot: bootID(), now: time.Now, lock: lock,
		blobs: map[digest.Digest]*entry{}, arriving: map[arrival]*entry{}, idle: list.New(),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Close ends all fills, so that their readers get an error, and waits for them.
// Blobs that are open can be read until they are closed. Close again does nothing.
func (s *Spool) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	s.cancel()
	s.wg.Wait()
	return s.lock.Close()
}

// Open returns the blob d, committed or arriving, and pins it: it is not evicted
// before Blob.Close. Without it the error wraps fs.ErrNotExist; so it does when the
// file was damaged from outside, which is then removed, and the error says so.
func (s *Spool) Open(d digest.Digest) (*Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.openCommitted(d)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	for a, e := range s.arriving {
		if a.digest == d {
			return s.pin(e), nil
		}
	}
	return nil, err
}

// OpenFrom is Open, and of blobs that arrive it returns the one that FetchFrom has begun with
// this source and size.
func (s *Spool) OpenFrom(source string, d digest.Digest, size int64) (*Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.openCommitted(d)
	if e, ok := s.arriving[arrival{d, size, source}]; ok && errors.Is(err, fs.ErrNotExist) {
		return s.pin(e), nil
	}
	return b, err
}

// openCommitted is Open for what is committed. s.mu is held.
func (s *Spool) openCommitted(d digest.Digest) (*Blob, error) {
	if s.closed {
		return nil, ErrClosed
	}
	e, ok := s.blobs[d]
	if !ok || e.unsure {
		return nil, fmt.Errorf("blob %s: %w", d, fs.ErrNotExist)
	}
	f, err := os.Open(e.path)
	if err == nil {
		err = checkSize(f, e.size)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrMismatch):
		f.Close()
		s.drop(e)
		return nil, fmt.Errorf("blob %s: its file was damaged from outside and is removed: %w: %w", d, err, fs.ErrNotExist)
	case err != nil: // such as no file descriptors left: says nothing about the blob
		f.Close()
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	if e.file == nil {
		e.file = f
	} else {
		f.Close()
	}
	if t := s.now(); t.Sub(e.touched) > touchEvery {
		e.touched = t
		_ = os.Chtimes(e.path, t, t) // only the order of eviction after a restart depends on it
	}
	return s.pin(e), nil
}

// Fetch returns the blob d, pinned: the committed one, the one that is arriving, or
// one that begins to arrive now. However many callers ask, there is one fill for a
// digest, size and source at any time.
//
// fill writes the blob's bytes to w in order, and must not use w once it has
// returned. It runs in a goroutine and a context of the spool, which end with
// Spool.Close and not with any caller. If it returns an error, or writes more or
// fewer than size bytes or other bytes than d names, every reader of the blob gets
// the error, nothing is kept, and the next Fetch begins anew.
//
// The size is set aside out of r, and from the quota as far as r is nil or does not
// have enough left; the error then wraps ErrFull where that can't be had. r is not
// drawn from for a blob that is there or on its way.
func (s *Spool) Fetch(d digest.Digest, size int64, r *Reservation, fill func(ctx context.Context, w io.Writer) error) (*Blob, error) {
	return s.FetchFrom("", d, size, r, fill)
}

// FetchFrom is Fetch with a name for where fill gets its bytes, which Blob.Source
// returns: a digest says nothing of who may have what it names. A blob that arrives from
// elsewhere is not waited for, since it may never come; whichever is there first stays.
func (s *Spool) FetchFrom(source string, d digest.Digest, size int64, r *Reservation, fill func(ctx context.Context, w io.Writer) error) (*Blob, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, fmt.Errorf("blob %s: declared with %d bytes: %w", d, size, ErrMismatch)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.openCommitted(d)
	if err == nil && b.Size() != size {
		s.unpin(b.e)
		return nil, fmt.Errorf("blob %s: has %d bytes, declared with %d: %w", d, b.Size(), size, ErrMismatch)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if e, ok := s.arriving[arrival{d, size, source}]; ok {
		return s.pin(e), nil
	}
	e, err := s.begin(source, d, size, r)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	s.pin(e) // the fill's own
	s.wg.Go(func() { s.run(e, fill) })
	return s.pin(e), nil
}

// begin makes a new entry that waits for its bytes. s.mu is held.
func (s *Spool) begin(source string, d digest.Digest, size int64, r *Reservation) (*entry, error) {
	if e, ok := s.blobs[d]; ok { // not yet checked after a boot: the new one takes its place
		s.drop(e)
	}
	l := loan{s: s, r: r}
	if err := l.grow(size); err != nil {
		return nil, err
	}
	f, err := s.createPartial()
	if err != nil {
		l.end()
		return nil, err
	}
	e := newEntry(d, size)
	e.source, e.file, e.path, e.loan = source, f, f.Name(), l
	s.arriving[arrival{d, size, source}] = e
	return e, nil
}

// run is the goroutine of one fill.
func (s *Spool) run(e *entry, fill func(ctx context.Context, w io.Writer) error) {
	err := errors.New("fill ended without a result")
	defer func() { s.finish(e, err) }() // also when fill panics or exits its goroutine
	w := &fillWriter{s: s, e: e, hash: e.digest.Algorithm().Hash()}
	if err = fill(s.ctx, w); err == nil {
		err = w.verify()
	}
	if w.err != nil {
		err = w.err // what went wrong first, if fill made something else of it
	}
}

// finish commits e, or fails it with err, and tells its readers.
func (s *Spool) finish(e *entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.arriving, arrival{e.digest, e.size, e.source})
	if err == nil {
		err = s.commit(e)
	}
	if err != nil {
		err = fmt.Errorf("blob %s: %w", e.digest, err)
		os.Remove(e.path)
		e.loan.end()
	}
	e.settle(err)
	s.unpin(e)
}

// commit gives the verified file of e its name and its place. s.mu is held. On an
// error the file is still under its partial name and e.loan runs on.
func (s *Spool) commit(e *entry) error {
	if twin, ok := s.blobs[e.digest]; ok && !twin.unsure {
		s.pin(twin) // somebody wrote the same blob meanwhile: theirs stays, as long as ours is open
		e.twin = twin
		os.Remove(e.path)
		e.path = twin.path
		e.loan.end()
		return nil
	}
	path := s.blobPath(e.digest, e.size)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return s.explain(err)
	}
	if old, ok := s.blobs[e.digest]; ok {
		s.drop(old)
	}
	if err := os.Rename(e.path, path); err != nil {
		return s.explain(err)
	}
	e.loan.spend(e.size)
	e.path, e.touched = path, s.now()
	s.blobs[e.digest] = e
	s.committed += e.size
	return nil
}

// drop forgets a committed entry and removes its file. Those who have it open keep
// their bytes. s.mu is held.
func (s *Spool) drop(e *entry) {
	if s.blobs[e.digest] != e {
		return
	}
	delete(s.blobs, e.digest)
	s.committed -= e.size
	if e.idle != nil {
		s.idle.Remove(e.idle)
		e.idle = nil
		s.idleBytes -= e.size
	}
	os.Remove(e.path)
}

// Usage is how much of a spool is taken, in bytes.
type Usage struct {
	Committed int64 // in blobs that are there
	Idle      int64 // of these, in blobs that nobody has open: they can be evicted
	Reserved  int64 // set aside for bytes to come, or written and not yet committed
	Quota     int64
	Blobs     int // committed
	Arriving  int // fills that run
}

// Usage returns how much is taken now.
func (s *Spool) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Usage{s.committed, s.idleBytes, s.reserved, s.quota, len(s.blobs), len(s.arriving)}
}

// createPartial makes a new file in the place for unfinished ones.
func (s *Spool) createPartial() (*os.File, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, partialDir), "*")
	return f, s.explain(err)
}

func (s *Spool) blobPath(d digest.Digest, size int64) string {
	hex := d.Encoded()
	return filepath.Join(s.dir, blobsDir, d.Algorithm().String(), hex[:2], hex+"."+strconv.FormatInt(size, 10))
}

// checkDigest refuses what can't be verified, or would not be a safe file name.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %.200q: %w", string(d), err)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %s: only sha256 and sha512 are supported", d)
	}
	return nil
}

// checkSize returns nil where f has exactly size bytes, else an error that wraps
// ErrMismatch, or why it can't be told.
func checkSize(f *os.File, size int64) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Size() != size {
		return fmt.Errorf("%s has %d bytes and should have %d: %w", f.Name(), fi.Size(), size, ErrMismatch)
	}
	return nil
}
