package spool

import (
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
)

// growStep is how many bytes a Writer sets aside at once, so that it does not take
// the spool's lock for every buffer.
const growStep = 16 << 20

// A Writer writes a blob whose name is not yet known. It is for one goroutine, and
// ends with Commit or Abort.
type Writer struct {
	s    *Spool
	f    *os.File // nil once ended
	loan loan
	n    int64
	err  error // the first of Write; Commit returns it
}

// Create begins a blob whose digest will be known when all of it is written. Its
// bytes are taken out of r, and from the quota as far as r is nil or has run dry.
func (s *Spool) Create(r *Reservation) (*Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	f, err := s.createPartial()
	if err != nil {
		return nil, err
	}
	return &Writer{s: s, f: f, loan: loan{s: s, r: r}}, nil
}

// Write appends p. Where there is no room for it the error wraps ErrFull. After an
// error every Write and Commit returns it.
func (w *Writer) Write(p []byte) (int, error) {
	if w.f == nil {
		return 0, os.ErrClosed
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.err = w.grow(w.n + int64(len(p))); w.err != nil {
		return 0, w.err
	}
	w.err = w.s.write(int64(len(p)), func() error {
		_, err := w.f.WriteAt(p, w.n)
		return err
	})
	if w.err != nil {
		return 0, w.err
	}
	w.n += int64(len(p))
	return len(p), nil
}

// grow sets bytes aside until there are enough for a file of n.
func (w *Writer) grow(n int64) error {
	need := n - w.loan.total()
	if need <= 0 {
		return nil
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.loan.grow(max(need, growStep)) == nil {
		return nil
	}
	return w.loan.grow(need)
}

// Size returns how many bytes are written.
func (w *Writer) Size() int64 { return w.n }

// Commit names what was written and returns it, pinned. The caller vouches that d is
// the digest of the bytes. Where a blob of that name is there already, that one is
// returned and the written bytes are dropped. On an error nothing is kept. Either way
// the Writer has ended.
func (w *Writer) Commit(d digest.Digest) (*Blob, error) {
	err := w.err
	if w.f == nil {
		err = os.ErrClosed
	}
	if err == nil {
		err = checkDigest(d)
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	e := newEntry(d, w.n)
	e.file, e.path, e.loan, e.arrived = w.f, w.f.Name(), w.loan, w.n
	w.f = nil
	b := w.s.pin(e)
	if w.s.closed {
		err = ErrClosed
	} else if twin, terr := w.s.openCommitted(d); terr == nil && twin.Size() != w.n {
		w.s.unpin(twin.e)
		err = fmt.Errorf("%d bytes were written, the blob of that name has %d: %w", w.n, twin.Size(), ErrMismatch)
	} else if terr == nil {
		w.s.discard(e)
		return twin, nil
	} else {
		err = w.s.commit(e)
	}
	if err != nil {
		w.s.discard(e)
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	e.settle(nil)
	return b, nil
}

// Abort drops what was written. After Commit or Abort it does nothing.
func (w *Writer) Abort() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	f.Close()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.loan.end()
	return os.Remove(f.Name())
}

// discard ends an entry that was never committed nor seen by anybody. s.mu is held.
func (s *Spool) discard(e *entry) {
	os.Remove(e.path)
	e.loan.end()
	s.unpin(e)
}
