package vuln

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

var errLocked = errors.New("it is locked")

// lockFile opens a file and locks it, or returns errLocked. The kernel gives the lock
// back when the file is closed or its process dies.
func lockFile(name string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	if flag&os.O_CREATE != 0 {
		inherit(name)
	}
	for {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errLocked
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

// A holder is who has a lock of Root: the content of its file, while it is locked.
type holder struct {
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// sign writes down who has a lock. It is for people: a lock without it is none the worse.
func sign(f *os.File, h holder) {
	b, err := json.Marshal(h)
	if err == nil && f.Truncate(0) == nil {
		_, _ = f.WriteAt(b, 0)
	}
}

// holderOf says who has a lock, as far as that can be told.
func holderOf(name string) string {
	var h holder
	b, err := os.ReadFile(name)
	switch {
	case err != nil || json.Unmarshal(b, &h) != nil || h.PID == 0:
		return "another process"
	case h.PID == os.Getpid():
		return "this process, since " + stamp(h.Since)
	}
	return fmt.Sprintf("process %d, since %s", h.PID, stamp(h.Since))
}

// errBusy is that another one had the lock for longer than is waited.
var errBusy = errors.New("another update is under way")

// alone runs f while no other goroutine or process holds the lock in Root. It waits for
// them, not for ever, and tells waits, which may be nil, if it has to.
func (d *Databases) alone(ctx context.Context, lock string, waits func(who string), f func() error) error {
	if _, err := os.Stat(d.Root); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(d.Root, 0o700); err != nil {
			return err
		}
		inherit(d.Root)
	}
	name := filepath.Join(d.Root, lock)
	tick, patience := time.NewTicker(100*time.Millisecond), time.NewTimer(d.within().wait)
	defer tick.Stop()
	defer patience.Stop()
	for {
		file, err := lockFile(name, os.O_CREATE|os.O_RDWR, syscall.LOCK_EX)
		if err == nil {
			defer file.Close()
			sign(file, holder{os.Getpid(), time.Now().UTC()})
			return f()
		}
		if !errors.Is(err, errLocked) {
			return err
		}
		if waits != nil {
			waits(holderOf(name))
			waits = nil
		}
		select {
		case <-tick.C: // a lock can't be waited for with a context
		case <-patience.C:
			return fmt.Errorf("%w (%s), and was waited for for %s: let it end, or end it", errBusy, holderOf(name), d.within().wait)
		case <-ctx.Done():
			return fmt.Errorf("wait for another update (%s): %w", holderOf(name), ctx.Err())
		}
	}
}
