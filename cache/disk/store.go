package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/internal/pack"
	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

var _ cache.Store = (*Store)(nil)

const (
	// lockWait is how long Open waits for another process to let go of the file: as
	// long as a restart may need from one process to the next.
	lockWait = 1500 * time.Millisecond
	// sweepEvery is how often what has expired is removed. Until then it takes space
	// and is not seen.
	sweepEvery = time.Minute
	pageSize   = 4096 // the same on every machine, so that a file can be moved
)

// A Store is a cache.Store in one file, made by Open. A file belongs to one process
// at a time. The file grows as needed and never shrinks; what is deleted or expires
// makes room for what comes.
type Store struct {
	path  string
	db    *bolt.DB
	file  *os.File // db's own; closed by it
	codec *pack.Codec

	ops    chan *op      // to the committer
	quit   chan struct{} // closed by Close
	done   sync.WaitGroup
	broken atomic.Pointer[error] // set once bbolt has panicked in a transaction that writes
}

// ErrInUse is wrapped by Open's error when another process has the file open.
var ErrInUse = errors.New("another sluice has this file open")

// Open opens the store in the file at path, which it makes, with mode 0600, where
// there is none, as it makes its directory, with mode 0700. It checks the structure
// of the whole file, so that it takes about three seconds for a million entries.
//
// It fails, with an error for people, when another process has the file open, when
// the file is damaged or no store, and when it can't be written.
func Open(path string) (*Store, error) {
	s := &Store{path: path, ops: make(chan *op), quit: make(chan struct{})}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the directory of the store can't be made: %w", err)
	}
	err := guard(func() error { return s.open() })
	if err != nil {
		return nil, s.explain("open the store "+path, err)
	}
	if s.codec, err = pack.New(cache.MaxValue); err != nil {
		_ = s.db.Close()
		return nil, err
	}
	s.done.Go(s.commitAll)
	s.done.Go(s.sweepAll)
	return s, nil
}

func (s *Store) open() error {
	info, err := os.Stat(s.path)
	if err == nil && !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: s.path, Err: errors.New("is a directory or something else that is no file")}
	}
	if err == nil && info.Size() > 0 {
		if err := s.verify(); err != nil {
			return err
		}
	}
	s.db, err = bolt.Open(s.path, 0o600, s.options())
	if err != nil {
		return err
	}
	made := false
	if err = s.db.View(func(t *bolt.Tx) error { made = t.Bucket(aboutBucket) != nil; return nil }); err == nil && !made {
		if err = s.db.Update(create); err != nil {
			err = writeError{err}
		} else {
			err = syncDir(filepath.Dir(s.path))
		}
	}
	if err != nil {
		_ = s.db.Close()
	}
	return err
}

func (s *Store) options() *bolt.Options {
	return &bolt.Options{
		Timeout:        lockWait,
		PageSize:       pageSize,
		FreelistType:   bolt.FreelistMapType,
		NoFreelistSync: true,
		NoStatistics:   true,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, perm)
			s.file = f
			return f, err
		},
	}
}

// verify checks the structure of the file, with a lock on it that other processes
// may share, before bbolt trusts it.
func (s *Store) verify() error {
	options := s.options()
	options.ReadOnly = true
	db, err := bolt.Open(s.path, 0o600, options)
	if err != nil {
		return err
	}
	info, err := s.file.Stat()
	if err == nil {
		err = check(s.file, info.Size())
	}
	return errors.Join(err, db.Close())
}

// Close waits for the writes that have begun and closes the file.
func (s *Store) Close() error {
	select {
	case <-s.quit:
		return nil
	default:
	}
	close(s.quit)
	s.done.Wait()
	s.codec.Close()
	if s.broken.Load() != nil {
		// bbolt may hold its locks for ever, so that its Close would wait for ever. The
		// file, which is damaged, stays locked until the process ends.
		return s.file.Close()
	}
	return s.db.Close()
}

// view runs do in a transaction that reads. The error of refused stands for itself.
func (s *Store) view(ctx context.Context, verb string, k cache.Key, do func(*tx) (refused, err error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if broken := s.broken.Load(); broken != nil {
		return s.explain(fmt.Sprintf("%s %q", verb, k), *broken)
	}
	var refused error
	err := guard(func() error {
		return s.db.View(func(t *bolt.Tx) error {
			x, err := newTx(t)
			if err != nil {
				return err
			}
			refused, err = do(x)
			return err
		})
	})
	if err != nil {
		return s.explain(fmt.Sprintf("%s %q", verb, k), err)
	}
	return refused
}

// Get implements cache.Store.
func (s *Store) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	var got []byte
	err := s.view(ctx, "get", k, func(x *tx) (refused, err error) {
		r, err := x.find(entryKey(k))
		switch {
		case err != nil:
			return nil, err
		case r.kind == 0:
			return fmt.Errorf("get %q: %w", k, cache.ErrNotExist), nil
		case r.kind == mapping:
			return errIsMap("get", k), nil
		}
		got, err = s.codec.Unpack(r.body)
		return nil, err
	})
	if err != nil {
		return nil, err
	}
	return got, nil
}

// Fields implements cache.Store.
func (s *Store) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	fields := make(map[string][]byte)
	err := s.view(ctx, "read the fields of", k, func(x *tx) (refused, err error) {
		return x.fields(k, func(name string, packed []byte) error {
			value, err := s.codec.Unpack(packed)
			fields[name] = value
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return fields, nil
}

// Put implements cache.Store.
func (s *Store) Put(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) error {
	if err := cache.Check(k, "", value, ttl); err != nil {
		return err
	}
	packed := s.codec.Pack(value)
	return s.write(ctx, "put", k, len(packed), func(x *tx) (refused, err error) { return x.put(k, packed, ttl) })
}

// PutNew implements cache.Store.
func (s *Store) PutNew(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) ([]byte, error) {
	if err := cache.Check(k, "", value, ttl); err != nil {
		return nil, err
	}
	packed := s.codec.Pack(value)
	var there []byte
	err := s.write(ctx, "put", k, len(packed), func(x *tx) (refused, err error) {
		there, refused, err = x.putNew(k, packed, ttl)
		return refused, err
	})
	if err != nil {
		return nil, err
	}
	if there == nil {
		there = packed
	}
	got, err := s.codec.Unpack(there)
	if err != nil {
		return nil, s.explain(fmt.Sprintf("put %q", k), err)
	}
	return got, nil
}

// PutIf implements cache.Store.
func (s *Store) PutIf(ctx context.Context, k cache.Key, old, value []byte, ttl time.Duration) (bool, error) {
	if err := cache.Check(k, "", value, ttl); err != nil {
		return false, err
	}
	packed := s.codec.Pack(value)
	stored := false
	err := s.write(ctx, "put", k, len(packed), func(x *tx) (refused, err error) {
		there, refused, err := x.get(k)
		if stored = false; refused != nil || err != nil || there == nil {
			return refused, err
		}
		now, err := s.codec.Unpack(there)
		if err != nil {
			return nil, err
		}
		if stored = bytes.Equal(now, old); !stored {
			stored = bytes.Equal(now, value)
			return nil, nil
		}
		return x.put(k, packed, ttl)
	})
	return stored && err == nil, err
}

// Delete implements cache.Store.
func (s *Store) Delete(ctx context.Context, k cache.Key) error {
	return s.write(ctx, "delete", k, 0, func(x *tx) (refused, err error) { return nil, x.delete(k) })
}

// PutField implements cache.Store.
func (s *Store) PutField(ctx context.Context, k cache.Key, field string, value []byte, ttl time.Duration) error {
	if err := cache.Check(k, field, value, ttl); err != nil {
		return err
	}
	packed := s.codec.Pack(value)
	return s.write(ctx, "set a field of", k, len(packed), func(x *tx) (refused, err error) {
		return x.putField(k, field, packed, ttl)
	})
}

// DeleteField implements cache.Store.
func (s *Store) DeleteField(ctx context.Context, k cache.Key, field string) error {
	return s.write(ctx, "delete a field of", k, 0, func(x *tx) (refused, err error) { return x.deleteField(k, field) })
}

// Ping implements cache.Store: it writes to the file and syncs it.
func (s *Store) Ping(ctx context.Context) error {
	return s.write(ctx, "write to", cache.Name("ping"), 0, func(x *tx) (refused, err error) {
		return nil, x.about.Put(pingKey, []byte(x.now.UTC().Format(time.RFC3339Nano)))
	})
}

// A fault is a panic of bbolt, or a fault of memory beneath it, as an error.
type fault struct{ what any }

func (f fault) Error() string { return fmt.Sprint(f.what) }

// A writeError is of a commit. bbolt hides the system's error number in some of them,
// so that a full disk can't be told from a broken one.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// A schemaError is of a file that is whole and of another version.
type schemaError struct{ error }

// guard runs do, which calls bbolt, and returns its panics as faults. bbolt maps the
// file into memory and doesn't check what it reads there; so a damaged page makes it
// panic or read where nothing is, which Go takes for a fatal error unless told.
func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fault{r}
		}
	}()
	return do()
}

// explain makes of err what a person needs to know: what, where, and what to do.
func (s *Store) explain(what string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%s: %w; stop it, or give this one a state directory of its own", what, ErrInUse)
	case errors.Is(err, berrors.ErrDatabaseNotOpen):
		return fmt.Errorf("%s: the store %s is closed", what, s.path)
	case errors.As(err, new(schemaError)):
		return fmt.Errorf("%s: %w", what, err)
	case errors.As(err, new(writeError)):
		return fmt.Errorf("%s: can't write to the store %s (%w); make room on its disk, or see whether it is broken: what was stored before can still be read",
			what, s.path, err)
	case errors.As(err, new(*fs.PathError)), errors.As(err, new(syscall.Errno)):
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: the store %s is damaged (%w); stop sluice and move the file aside to start anew, "+
		"or put back a copy of it: the stored connections (pull tokens), waivers and verdicts are in it", what, s.path, err)
}

// syncDir makes the name of a new file in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
