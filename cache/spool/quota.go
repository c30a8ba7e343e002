package spool

import (
	"errors"
	"fmt"
	"syscall"
)

// A Reservation is a number of bytes set aside for blobs to come. Its methods may be
// called concurrently.
type Reservation struct {
	s        *Spool
	left     int64 // not yet lent to a blob; guarded by s.mu
	released bool  // guarded by s.mu
}

// Reserve sets n bytes aside, evicting as many of the least recently used blobs as
// it takes; nothing is evicted when that would not be enough, and the error wraps
// ErrFull. The caller calls Release when all that it wants has been begun or given up.
func (s *Spool) Reserve(n int64) (*Reservation, error) {
	if n < 0 {
		return nil, fmt.Errorf("spool %s: reserve %d bytes: a size is never negative", s.dir, n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reserve(n); err != nil {
		return nil, err
	}
	return &Reservation{s: s, left: n}, nil
}

// Release gives back what no blob uses. Bytes of fills and writers that are still
// under way stay set aside until those end. Release again does nothing.
func (r *Reservation) Release() {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.released = true
	r.s.reserved -= r.left
	r.left = 0
}

// reserve moves n bytes from free to reserved. s.mu is held.
func (s *Spool) reserve(n int64) error {
	if s.closed {
		return ErrClosed
	}
	need := n - (s.quota - s.committed - s.reserved) // n ≥ 0 and the rest ≥ 0: no overflow
	if need > s.idleBytes {
		return fmt.Errorf("spool %s: %d bytes are wanted, %d of %d are in use and can't be evicted: %w: try again when pulls have ended, or raise its quota",
			s.dir, n, s.committed-s.idleBytes+s.reserved, s.quota, ErrFull)
	}
	s.evict(need)
	s.reserved += n
	return nil
}

// evict removes idle blobs, the least recently used first, until at least n bytes
// are freed or none is left, and returns how many were. s.mu is held.
func (s *Spool) evict(n int64) (freed int64) {
	for freed < n && s.idle.Len() > 0 {
		e := s.idle.Front().Value.(*entry)
		freed += e.size
		s.drop(e)
	}
	return freed
}

// A loan is what one blob to come holds of the reserved bytes: some out of a
// reservation, to which they go back if they are not needed, and some of its own.
type loan struct {
	s    *Spool
	r    *Reservation // may be nil
	from int64        // out of r
	own  int64
}

func (l *loan) total() int64 { return l.from + l.own }

// grow adds n bytes, as many as possible from the reservation. s.mu is held.
func (l *loan) grow(n int64) error {
	var from int64
	if l.r != nil {
		from = min(n, l.r.left)
	}
	if err := l.s.reserve(n - from); err != nil {
		return err
	}
	if from > 0 {
		l.r.left -= from
	}
	l.from += from
	l.own += n - from
	return nil
}

// spend takes n of the bytes off what is reserved, since they are committed now, and
// ends the loan. s.mu is held.
func (l *loan) spend(n int64) {
	own := min(n, l.own)
	l.own -= own
	l.from -= n - own
	l.s.reserved -= n
	l.end()
}

// end gives the bytes back. s.mu is held.
func (l *loan) end() {
	l.s.reserved -= l.own
	if l.r != nil && !l.r.released {
		l.r.left += l.from
	} else {
		l.s.reserved -= l.from
	}
	l.own, l.from = 0, 0
}

// write calls f, which writes up to n bytes to disk, and once more where the disk
// was full and evicting blobs made room. s.mu is not held.
func (s *Spool) write(n int64, f func() error) error {
	err := f()
	if !isFull(err) {
		return s.explain(err)
	}
	s.mu.Lock()
	freed := s.evict(max(n, evictStep))
	s.mu.Unlock()
	if freed > 0 {
		err = f()
	}
	return s.explain(err)
}

// evictStep is how much is evicted at once when the disk is full before the quota
// is: enough not to come back for every buffer.
const evictStep = 64 << 20

// explain makes an error of the file system one that says what to do.
func (s *Spool) explain(err error) error {
	if !isFull(err) {
		return err
	}
	return fmt.Errorf("%w: the disk has no room for its quota of %d bytes: free some, or lower the quota: %w", err, s.quota, ErrFull)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
