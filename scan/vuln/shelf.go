package vuln

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"
	"gorm.io/gorm"

	"github.com/sluicegate/sluice/scan"
)

// A shelf keeps databases open between matches, one store for each directory. A store
// is closed once nobody uses it and a newer build is open, or, within a minute or so,
// the build has ceased to be the active one: what is open keeps its place on the disk.
type shelf struct {
	look time.Duration // how often an idle store's build is looked at; a minute when 0

	mu     sync.Mutex // guards all below, and users, retired, store and timer of each volume
	open   map[string]*volume
	closed bool
}

// A volume is one open database. Its store is safe for concurrent use.
type volume struct {
	dir     string
	built   time.Time
	users   int
	retired bool
	timer   *time.Timer

	ready   chan struct{} // closed when all below is set, once
	hold    *os.File      // locked, so that nobody removes the build
	err     error
	store   store
	epss    bool
	aliases map[string]string
	known   knowledge
	memory  memory
}

// borrow returns the open database db, opening it where it is not. The caller gives
// it back with release, whatever borrow returned besides a nil volume.
func (s *shelf) borrow(db scan.Database) (*volume, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errors.New("the matcher is closed")
	}
	v := s.open[db.Dir]
	first := v == nil
	if first {
		v = &volume{dir: db.Dir, built: db.Built, ready: make(chan struct{})}
		if s.open == nil {
			s.open = make(map[string]*volume)
		}
		s.retire(v)
		s.open[db.Dir] = v
	}
	v.users++
	s.mu.Unlock()

	if first {
		v.err = v.load(db)
		s.mu.Lock()
		v.timer = time.AfterFunc(s.lookEvery(), func() { s.revisit(v) })
		s.mu.Unlock()
		close(v.ready)
	}
	<-v.ready // loading takes milliseconds: nothing is hashed
	if v.err != nil {
		err := v.err
		s.release(v)
		return nil, fmt.Errorf("open database %s: %w", db.Dir, err)
	}
	return v, nil
}

// retire marks what lies on the shelf for closing when v is newer, and v itself when
// something newer lies there. Idle volumes are closed at once.
func (s *shelf) retire(v *volume) {
	for _, old := range s.open {
		if old.built.After(v.built) {
			v.retired = true
			continue
		}
		old.retired = true
		s.drop(old)
	}
}

// release gives a volume back.
func (s *shelf) release(v *volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.users--
	if v.err != nil {
		v.retired = true
	}
	s.drop(v)
}

// drop closes v if it is retired and nobody uses it. s.mu is held.
func (s *shelf) drop(v *volume) {
	if !v.retired || v.users > 0 {
		return
	}
	if s.open[v.dir] == v {
		delete(s.open, v.dir)
	}
	if v.timer != nil {
		v.timer.Stop()
	}
	if v.store != nil {
		_ = v.store.Close() // read only: nothing can be lost
		v.store = nil
	}
	if v.hold != nil {
		v.hold.Close()
		v.hold = nil
	}
}

// revisit closes v if its build has ceased to be the active one and nobody uses it.
func (s *shelf) revisit(v *volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[v.dir] != v {
		return // closed while this waited
	}
	if _, err := os.Stat(filepath.Join(v.dir, "..", retiredFile)); err == nil && v.users == 0 {
		v.retired = true
		s.drop(v)
		return
	}
	v.timer.Reset(s.lookEvery())
}

func (s *shelf) lookEvery() time.Duration { return cmp.Or(s.look, time.Minute) }

// close retires everything; a match that is under way keeps its volume until it ends.
func (s *shelf) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, v := range s.open {
		v.retired = true
		s.drop(v)
	}
}

// load opens the store and reads what must not be read for the first time by two
// matches at once: grype keeps the EPSS date without a lock.
func (v *volume) load(db scan.Database) error {
	hold, err := lockFile(holdFile(db.Dir), os.O_RDONLY, syscall.LOCK_SH)
	if errors.Is(err, errLocked) {
		return errors.New("it is being removed")
	}
	if err == nil { // a build that can't be held may vanish, and the match fails then
		v.hold = hold
	}
	if err := fits(db); err != nil {
		return err
	}
	r, err := v6.NewReader(v6.Config{DBDirPath: db.Dir})
	if err != nil {
		return err
	}
	s, ok := r.(store)
	if !ok {
		err = errors.New("grype's reader lacks a method that it had")
	} else {
		err = errors.Join(v.memory.tables.attach(s.GetDB()), v.warm(s, db))
	}
	if err != nil {
		_ = r.Close()
		return err
	}
	v.store = s
	return nil
}

func (v *volume) warm(store store, db scan.Database) error {
	meta, err := store.GetDBMetadata()
	if err != nil {
		return err
	}
	if meta.BuildTimestamp == nil {
		return errors.New("it does not say when it was built")
	}
	if built := *meta.BuildTimestamp; !db.Built.IsZero() && !built.Truncate(time.Second).Equal(db.Built.Truncate(time.Second)) {
		return fmt.Errorf("it was built %s, but %s was asked for", stamp(built), stamp(db.Built))
	}
	if v.aliases, err = store.GetArchitectureAliases(); err != nil {
		return err
	}
	switch _, err = store.GetEpss("CVE-0000-0000"); {
	case err == nil:
		v.epss = true
	case !errors.Is(err, gorm.ErrRecordNotFound): // a database without EPSS data has no date of it
		return err
	}
	return nil
}

// holdFile is the file of a build that is locked by those who have the build open.
func holdFile(dir string) string { return filepath.Join(dir, v6.ImportMetadataFileName) }

// fits compares the checksum that was noted when the build was installed with the one
// that the verdict's key will hold.
func fits(db scan.Database) error {
	meta, err := v6.ReadImportMetadata(afero.NewOsFs(), db.Dir)
	if err != nil {
		return err
	}
	if !strings.EqualFold(meta.Digest, db.Checksum) {
		return fmt.Errorf("its checksum is %s, but %s was asked for", meta.Digest, db.Checksum)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
