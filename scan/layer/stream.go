package layer

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
)

// A stream carries uncompressed bytes from the goroutine that inflates to the one that
// walks. The walker reads them; each buffer is hashed and written as it is taken up,
// so that dst gets every byte, however the walker reads.
type stream struct {
	full chan []byte   // inflated, in order; closed at the end
	free chan []byte   // to be inflated into
	stop chan struct{} // closed when the walker has ended
	err  error         // why full was closed, nil at the end of the layer; set before that

	// Of the walker alone.
	dst   io.Writer
	hash  hash.Hash
	buf   []byte // taken up; goes back to free
	rest  []byte // of buf, not yet read
	n     int64  // bytes taken up
	wall  int64  // offset at which Read fails with errWall
	fault error  // the first that is not of the walker's making: err, or dst's
}

// errWall is what the walker gets when it reads past the bound that it set.
var errWall = errors.New("past the bound on headers")

func newStream(dst io.Writer) *stream {
	s := &stream{
		full: make(chan []byte, buffers),
		free: make(chan []byte, buffers),
		stop: make(chan struct{}),
		dst:  dst,
		hash: sha256.New(),
		wall: math.MaxInt64,
	}
	for range buffers {
		s.free <- make([]byte, bufferSize)
	}
	return s
}

// empty returns a buffer to inflate into; false when nobody takes them up any more.
func (s *stream) empty() ([]byte, bool) {
	select {
	case buf := <-s.free:
		return buf[:bufferSize], true
	case <-s.stop:
		return nil, false
	}
}

// put hands on an inflated buffer; false when nobody takes it up.
func (s *stream) put(buf []byte) bool {
	select {
	case s.full <- buf:
		return true
	case <-s.stop:
		return false
	}
}

// offset returns how many bytes were read.
func (s *stream) offset() int64 { return s.n - int64(len(s.rest)) }

// take makes sure that rest is not empty. It returns io.EOF only at the layer's end.
func (s *stream) take() error {
	for len(s.rest) == 0 {
		if s.fault != nil {
			return s.fault
		}
		if s.buf != nil {
			s.free <- s.buf // never blocks: there are as many places as buffers
			s.buf = nil
		}
		buf, ok := <-s.full
		if !ok && s.err == nil {
			return io.EOF
		}
		if !ok {
			s.fault = s.err
			return s.fault
		}
		s.buf, s.rest = buf, buf
		s.n += int64(len(buf))
		s.hash.Write(buf)
		if _, err := s.dst.Write(buf); err != nil {
			s.fault = fmt.Errorf("write layer: %w", err)
			return s.fault
		}
	}
	return nil
}

// Read is for archive/tar.
func (s *stream) Read(p []byte) (int, error) {
	if s.offset() >= s.wall {
		return 0, errWall
	}
	if err := s.take(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// head returns the first block without reading it, or as much as there is of it: a
// buffer is only shorter than a block at the end.
func (s *stream) head() ([]byte, error) {
	err := s.take()
	if err != nil && err != io.EOF {
		return nil, err
	}
	return s.rest[:min(len(s.rest), blockSize)], nil
}

// drain reads to the layer's end, and calls see with each piece.
func (s *stream) drain(see func(at int64, b []byte)) error {
	for {
		err := s.take()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		see(s.offset(), s.rest)
		s.rest = nil
	}
}
