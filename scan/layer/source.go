package layer

import (
	"context"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A source is the compressed side: it hands bytes on, counts and hashes them, and
// never yields more than the descriptor's size.
type source struct {
	ctx    context.Context // of the Copy that reads
	r      io.Reader
	desc   ocispec.Descriptor
	hash   hash.Hash
	n      int64
	waited time.Duration // spent in r
	err    error         // the first that is not io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	t := time.Now()
	n, err := s.r.Read(p)
	s.waited += time.Since(t)
	s.n += int64(n)
	s.hash.Write(p[:n])
	switch {
	case s.n > s.desc.Size:
		s.err = &MismatchError{What: "size", Want: fmt.Sprint(s.desc.Size), Got: fmt.Sprintf("over %d", s.desc.Size)}
		return 0, s.err
	case err != nil && err != io.EOF:
		s.err = fmt.Errorf("read layer %s: %w", s.desc.Digest, err)
		return n, s.err
	}
	return n, err
}

// verify reads what is left and returns nil when all bytes together are those of the
// descriptor.
func (s *source) verify() error {
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{s}, make([]byte, bufferSize)); err != nil {
		return err
	}
	if s.n != s.desc.Size {
		return &MismatchError{What: "size", Want: fmt.Sprint(s.desc.Size), Got: fmt.Sprint(s.n)}
	}
	if got := digest.NewDigest(s.desc.Digest.Algorithm(), s.hash); got != s.desc.Digest {
		return &MismatchError{What: "digest", Want: s.desc.Digest.String(), Got: got.String()}
	}
	return nil
}
