package spool

import (
	"container/list"
	"context"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// An entry is one blob of the spool, and the one writer's and all readers' meeting
// point while it arrives.
type entry struct {
	digest digest.Digest
	size   int64
	source string // of the fill, as its caller names it; "" for none, or before a restart

	// Guarded by Spool.mu. Readers may use file without it, since they pin the entry.
	file    *os.File      // open while pins > 0
	path    string        // of the partial or the committed file
	pins    int           // handles, readers and the fill
	idle    *list.Element // place in Spool.idle: committed and not pinned
	touched time.Time     // last use, as the file's mtime tells it
	unsure  bool          // not yet hashed since the machine booted
	loan    loan          // until committed
	twin    *entry        // pinned: the committed blob whose path this one shows

	mu      sync.Mutex // guards all below
	cond    *sync.Cond // broadcast when any of it changes
	arrived int64      // bytes in the file
	settled bool       // committed, or failed when err is set
	err     error
	done    chan struct{} // closed when settled
}

func newEntry(d digest.Digest, size int64) *entry {
	e := &entry{digest: d, size: size, done: make(chan struct{})}
	e.cond = sync.NewCond(&e.mu)
	return e
}

// pin counts one more user of e. s.mu is held.
func (s *Spool) pin(e *entry) *Blob {
	e.pins++
	if e.idle != nil {
		s.idle.Remove(e.idle)
		e.idle = nil
		s.idleBytes -= e.size
	}
	return &Blob{s: s, e: e}
}

// unpin counts one user less; after the last one e can be evicted. s.mu is held.
func (s *Spool) unpin(e *entry) {
	e.pins--
	if e.pins > 0 {
		return
	}
	if e.file != nil {
		e.file.Close() // written bytes were checked as they were written
		e.file = nil
	}
	if e.twin != nil {
		s.unpin(e.twin)
		e.twin = nil
	}
	if s.blobs[e.digest] == e {
		e.idle = s.idle.PushBack(e)
		s.idleBytes += e.size
	}
}

// advance tells readers of n more bytes.
func (e *entry) advance(n int) {
	e.mu.Lock()
	e.arrived += int64(n)
	e.mu.Unlock()
	e.cond.Broadcast()
}

// settle makes e committed, or failed with err, for good.
func (e *entry) settle(err error) {
	e.mu.Lock()
	e.settled, e.err = true, err
	e.mu.Unlock()
	close(e.done)
	e.cond.Broadcast()
}

// await blocks until a byte at off may be read, and returns how many may; 0 and
// io.EOF at the end of a committed blob.
func (e *entry) await(ctx context.Context, off int64) (int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for waiting := false; ; e.cond.Wait() {
		switch n := e.readable() - off; {
		case e.err != nil:
			return 0, e.err
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case n > 0:
			return n, nil
		case e.settled:
			return 0, io.EOF
		}
		if !waiting {
			waiting = true
			stop := context.AfterFunc(ctx, func() {
				e.mu.Lock() // so that it can't fall between the check above and Wait
				defer e.mu.Unlock()
				e.cond.Broadcast()
			})
			defer stop()
		}
	}
}

// readable returns how far readers may read. e.mu is held.
func (e *entry) readable() int64 {
	if e.settled {
		return e.size
	}
	return min(e.arrived, e.size-1) // the last byte only when verified
}

// A fillWriter is what a fill writes to: one goroutine, no locks but to tell readers.
type fillWriter struct {
	s    *Spool
	e    *entry
	hash hash.Hash
	n    int64
	err  error // the first, which every later Write returns
	buf  []byte
}

// Write appends p to the blob. It fails when that makes the blob larger than it is.
func (w *fillWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if int64(len(p)) > w.e.size-w.n {
		w.err = fmt.Errorf("more than its %d bytes came: %w", w.e.size, ErrMismatch)
		return 0, w.err
	}
	err := w.s.write(int64(len(p)), func() error {
		_, err := w.e.file.WriteAt(p, w.n)
		return err
	})
	if err != nil {
		w.err = err
		return 0, err
	}
	w.n += int64(len(p))
	w.e.advance(len(p)) // before hashing: readers need not wait for that
	w.hash.Write(p)
	return len(p), nil
}

// ReadFrom lets io.Copy use a buffer that suits a disk.
func (w *fillWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.buf == nil {
		w.buf = make([]byte, 256<<10)
	}
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, w.buf)
}

// verify compares what was written with what was promised.
func (w *fillWriter) verify() error {
	if w.n != w.e.size {
		return fmt.Errorf("%d of its %d bytes came: %w", w.n, w.e.size, ErrMismatch)
	}
	if got := digest.NewDigest(w.e.digest.Algorithm(), w.hash); got != w.e.digest {
		return fmt.Errorf("the bytes are those of %s: %w", got, ErrMismatch)
	}
	return nil
}
