package auth

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxFile    = 1 << 20 // bytes of one file
	checkEvery = time.Second
	// unsettled is how old a file's modification time must be before an equal one
	// proves that the file is unchanged. File systems round it to up to two seconds.
	unsettled = 2 * time.Second
)

// fresh holds a value that is made from files, and makes it again when they change.
type fresh[T any] struct {
	paths []string
	parse func(files [][]byte) (T, error)
	log   *slog.Logger     // nil: slog.Default()
	now   func() time.Time // nil: time.Now

	value atomic.Pointer[T]
	next  atomic.Int64 // Unix nanoseconds: not looked at again before

	mu       sync.Mutex // serialises looking; guards what follows
	seen     []os.FileInfo
	settled  bool   // seen was old enough to be relied on when the files were read
	reported string // the last error that was logged
}

// load makes the value for the first time.
func (f *fresh[T]) load() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next.Store(f.clock().Add(checkEvery).UnixNano())
	infos, err := f.stat()
	if err != nil {
		return err
	}
	return f.read(infos)
}

// get returns the newest value that was good. It looks at the files when the last
// look is a second old; others who call meanwhile don't wait for it.
func (f *fresh[T]) get() T {
	now := f.clock()
	next := f.next.Load()
	if now.UnixNano() < next || !f.next.CompareAndSwap(next, now.Add(checkEvery).UnixNano()) {
		return *f.value.Load()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	infos, err := f.stat()
	if err == nil && !(f.settled && slices.EqualFunc(infos, f.seen, same)) {
		err = f.read(infos)
	}
	f.report(err)
	return *f.value.Load()
}

// report logs err once, and once more that it is over.
func (f *fresh[T]) report(err error) {
	log := f.log
	if log == nil {
		log = slog.Default()
	}
	switch {
	case err != nil && err.Error() != f.reported:
		f.reported = err.Error()
		log.Error("a changed file can't be used, what was read before stays in force", "files", f.paths, "error", err)
	case err == nil && f.reported != "":
		f.reported = ""
		log.Info("a file can be used again", "files", f.paths)
	}
}

func (f *fresh[T]) stat() ([]os.FileInfo, error) {
	infos := make([]os.FileInfo, len(f.paths))
	for i, p := range f.paths {
		info, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		infos[i] = info
	}
	return infos, nil
}

// read makes the value from the files, which were seen as infos before. What is bad
// is read again at each look, so that nothing is missed that makes it good.
func (f *fresh[T]) read(infos []os.FileInfo) error {
	f.settled = false
	now := f.clock()
	files := make([][]byte, len(f.paths))
	for i, p := range f.paths {
		b, err := readFile(p)
		if err != nil {
			return err
		}
		files[i] = b
	}
	v, err := f.parse(files)
	if err != nil {
		return err
	}
	f.value.Store(&v)
	f.seen = infos
	f.settled = !slices.ContainsFunc(infos, func(i os.FileInfo) bool { return now.Sub(i.ModTime()) < unsettled })
	return nil
}

func (f *fresh[T]) clock() time.Time {
	if f.now == nil {
		return time.Now()
	}
	return f.now()
}

func same(a, b os.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d KiB", path, maxFile>>10)
	}
	return b, nil
}
