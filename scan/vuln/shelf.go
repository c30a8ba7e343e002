package vuln

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	v6 "github.com/anchore/grype/grype/db/v6"
	"github.com/spf13/afero"
	"gorm.io/gorm"

	"github.com/sluicegate/sluice/scan"
)

// A shelf keeps databases open between matches, one store for each directory. A
// store is closed once a newer build is open and nobody uses the old one.
type shelf struct {
	mu     sync.Mutex // guards all below, and users and retired of each volume
	open   map[string]*volume
	closed bool
}

// A volume is one open database. Its store is safe for concurrent use.
type volume struct {
	dir     string
	built   time.Time
	users   int
	retired bool

	ready   chan struct{} // closed when all below is set, once
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
	if v.store != nil {
		_ = v.store.Close() // read only: nothing can be lost
		v.store = nil
	}
}

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
