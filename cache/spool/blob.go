package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// A Blob is one user's hold on a blob, committed or arriving. While it is open the
// blob is not evicted. Its methods may be called concurrently.
type Blob struct {
	s      *Spool
	e      *entry
	closed atomic.Bool
}

// Digest returns the blob's name.
func (b *Blob) Digest() digest.Digest { return b.e.digest }

// Size returns the blob's whole size in bytes; until it is committed, the declared one.
func (b *Blob) Size() int64 { return b.e.size }

// Source returns what FetchFrom was told that began the blob in this process, else "".
func (b *Blob) Source() string { return b.e.source }

// Arrived returns how many bytes are on disk, verified or not.
func (b *Blob) Arrived() int64 {
	b.e.mu.Lock()
	defer b.e.mu.Unlock()
	return b.e.arrived
}

// Done returns a channel that is closed when the blob is committed or has failed.
func (b *Blob) Done() <-chan struct{} { return b.e.done }

// Err returns why the blob failed; nil while it arrives and once it is committed.
func (b *Blob) Err() error {
	b.e.mu.Lock()
	defer b.e.mu.Unlock()
	return b.e.err
}

// Committed reports whether all of the blob is there and verified.
func (b *Blob) Committed() bool {
	b.e.mu.Lock()
	defer b.e.mu.Unlock()
	return b.e.settled && b.e.err == nil
}

// Wait waits until the blob is committed, and returns nil, or has failed, and
// returns why, or ctx ends, and returns its cause.
func (b *Blob) Wait(ctx context.Context) error {
	select {
	case <-b.e.done:
		return b.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Await waits until the byte at off may be read, without a buffer for it, and returns
// how many may from there; 0 and io.EOF at the end of a committed blob. It returns the
// error of a failed blob at once, and the cause of the end of ctx.
func (b *Blob) Await(ctx context.Context, off int64) (int64, error) { return b.e.await(ctx, off) }

// Path returns where the file lies. It is valid while the blob is open and once it
// is committed; the file must not be changed.
func (b *Blob) Path() string {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	return b.e.path
}

// File opens the file of a committed blob, at its start, for those who gain from an
// *os.File, such as http.ServeContent with sendfile. The caller closes it.
func (b *Blob) File() (*os.File, error) {
	if !b.Committed() {
		return nil, fmt.Errorf("blob %s: not committed", b.e.digest)
	}
	f, err := os.Open(b.Path())
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", b.e.digest, err)
	}
	if err := checkSize(f, b.e.size); err != nil {
		f.Close()
		return nil, fmt.Errorf("blob %s: %w", b.e.digest, err)
	}
	return f, nil
}

// Close lets the blob go. Its readers stay usable until they are closed. Close again
// does nothing.
func (b *Blob) Close() error {
	if b.closed.Swap(true) {
		return nil
	}
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	b.s.unpin(b.e)
	return nil
}

// NewReader returns a reader of the blob from its start, which pins it by itself
// until it is closed. Reads wait for bytes no longer than ctx lasts. A reader of a
// Blob that is closed is closed too.
func (b *Blob) NewReader(ctx context.Context) *Reader {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if b.closed.Load() {
		return &Reader{b: b, ctx: ctx}
	}
	return &Reader{b: b.s.pin(b.e), ctx: ctx}
}

// A Reader reads a blob at its own pace while it arrives. It is for one goroutine.
type Reader struct {
	b   *Blob
	ctx context.Context // of the request that reads: a Reader lives no longer
	off int64
}

var _ io.ReadSeekCloser = (*Reader)(nil)

// Read reads what has arrived, and blocks while that is nothing. It returns io.EOF
// only behind the last byte of a committed blob; the error of a failed blob at once,
// wherever it stands; and the cause of the end of its context.
func (r *Reader) Read(p []byte) (int, error) {
	if r.b.closed.Load() {
		return 0, fs.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.b.e.await(r.ctx, r.off)
	if err != nil {
		return 0, err
	}
	n = min(n, int64(len(p)))
	got, err := r.b.e.file.ReadAt(p[:n], r.off)
	r.off += int64(got)
	if int64(got) == n {
		return got, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("its file was cut short from outside: %w", io.ErrUnexpectedEOF)
	}
	return got, fmt.Errorf("blob %s: %w", r.b.e.digest, err)
}

// Seek sets where the next Read begins, anywhere from 0 on, whether that has arrived
// or not. Behind the blob's end Read waits for the verification and returns io.EOF.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.b.e.size
	default:
		return 0, fmt.Errorf("seek: whence %d is unknown", whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek: offset %d is before the start", offset)
	}
	r.off = offset
	return offset, nil
}

// Close lets the blob go. It must not run beside Read.
func (r *Reader) Close() error { return r.b.Close() }
