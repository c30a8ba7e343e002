package layer

import (
	"bufio"
	"context"
	_ "crypto/sha512" // descriptors may use it; sha256 comes with the diff ID
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	bufferSize = 256 << 10 // what goes through at once
	buffers    = 4         // between the two goroutines
)

// Copy reads the blob that desc describes from src to its end, writes its uncompressed
// bytes to dst, and returns what it found. It is done with both when it returns.
//
// On an error dst holds a part of the layer that must not be used. The error is a
// *LimitError, *FormatError or *MismatchError, or wraps what src or dst returned, or is
// the cause of ctx. Only a Result and a *FormatError are facts about desc.Digest, which
// may be remembered under it; a *LimitError depends on the bounds, on the other layers
// of the image and on the time.
//
// Bytes that are cleanly something else than a tar are copied all the same: the Result
// then says Tar false. An empty blob is an empty tar.
//
// budget may be nil. A Read of src that blocks is not interrupted: src must end with ctx.
func Copy(ctx context.Context, dst io.Writer, src io.Reader, desc ocispec.Descriptor, lim Limits, budget *Budget) (Result, error) {
	if err := desc.Digest.Validate(); err != nil {
		return Result{}, fmt.Errorf("layer %.200q: %w", string(desc.Digest), err)
	}
	if err := past(desc.Size, lim.Compressed, "compressed bytes", ""); err != nil {
		return Result{}, err
	}
	p := &pass{
		src:    &source{ctx: ctx, r: src, desc: desc, hash: desc.Digest.Algorithm().Hash()},
		lim:    lim,
		budget: budget,
		begin:  time.Now(),
		res:    Result{Problems: []Problem{}},
	}
	err := p.run(dst)
	if p.src.err != nil { // whatever was made of it on the way
		return Result{}, p.src.err
	}
	if err == nil || aboutContent(err) {
		if verr := p.src.verify(); verr != nil {
			return Result{}, verr
		}
	}
	if err != nil {
		return Result{}, err
	}
	p.res.Compressed = p.src.n
	return p.res, nil
}

// aboutContent reports whether err is a fact about the bytes, which needs to be known
// to be the right ones.
func aboutContent(err error) bool {
	var limit *LimitError
	var format *FormatError
	return errors.As(err, &format) || errors.As(err, &limit) && limit.What != whatTime
}

const whatTime = "seconds of work"

// A pass is one Copy under way.
type pass struct {
	src    *source
	lim    Limits
	budget *Budget
	begin  time.Time

	res Result     // but for Problems, each field is one goroutine's
	mu  sync.Mutex // guards res.Problems
}

// note records a Problem.
func (p *pass) note(kind, path, detail string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch n := len(p.res.Problems); {
	case n < MaxProblems-1:
		p.res.Problems = append(p.res.Problems, Problem{Kind: kind, Path: shortPath(path), Detail: detail})
	case n == MaxProblems-1:
		p.res.Problems = append(p.res.Problems, Problem{Kind: kind, Path: shortPath(path), Detail: detail + "; more problems are not listed"})
	}
}

// run takes the bytes from src to dst.
func (p *pass) run(dst io.Writer) error {
	br := bufio.NewReaderSize(p.src, bufferSize)
	head, err := br.Peek(blockSize)
	if err != nil && err != io.EOF {
		return err
	}
	if p.res.Format, err = sniff(head); err != nil {
		return err
	}
	if p.res.Format != None && isHeader(head) {
		p.note(AmbiguousFormat, "", "begins as "+string(p.res.Format)+" data and as a tar: runtimes differ in what they take it for")
	}
	lim := p.lim
	if p.res.Format == Zstd {
		var leave func()
		if lim.Window, leave, err = p.budget.window(p.src.ctx, head, lim.Window); err != nil {
			return err
		}
		defer leave()
		p.begin = time.Now() // to wait is no work
	}
	z, err := inflater(br, p.res.Format, lim, p.note)
	if err != nil {
		return err
	}
	defer z.Close()

	s := newStream(dst)
	w := &walker{p: p, s: s}
	walked := make(chan error, 1)
	go func() {
		err := w.walk()
		close(s.stop)
		walked <- err
	}()
	s.err = p.pump(z, s)
	close(s.full)
	werr := <-walked

	p.res.DiffID = digest.NewDigest(digest.SHA256, s.hash)
	p.res.Uncompressed = s.n
	if s.err == nil {
		return werr
	}
	var limit *LimitError // the walker saw it as the end of its input, and knows where
	if errors.As(s.err, &limit) && limit.Path == "" {
		limit.Path = w.last
	}
	return s.err
}

// pump reads z to its end, within the bounds, into the buffers of s.
func (p *pass) pump(z io.Reader, s *stream) error {
	var n int64
	for {
		buf, ok := s.empty()
		if !ok {
			return nil // the walker ended first, and says why
		}
		got, err := p.fill(z, buf)
		n += int64(got)
		if berr := p.bounds(n, int64(got)); berr != nil {
			return berr
		}
		if got > 0 && !s.put(buf[:got]) {
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// bounds checks n uncompressed bytes in all, of which got are new.
func (p *pass) bounds(n, got int64) error {
	if p.src.ctx.Err() != nil {
		return context.Cause(p.src.ctx)
	}
	if err := past(n, p.lim.Uncompressed, "uncompressed bytes", ""); err != nil {
		return err
	}
	if r := p.lim.Ratio; r > 0 && n > p.lim.RatioAfter && n/r > p.src.n {
		return &LimitError{What: "uncompressed bytes for each compressed one", Limit: r}
	}
	if err := p.inTime(); err != nil {
		return err
	}
	return p.budget.draw(got, 0)
}

// inTime checks how long the pass has worked.
func (p *pass) inTime() error {
	if t := p.lim.Time; t > 0 && time.Since(p.begin)-p.src.waited > t {
		return &LimitError{What: whatTime, Limit: int64(t / time.Second)}
	}
	return nil
}

// fill reads until buf is full or r has an error. Between reads that give nothing it
// looks at the time: there may be millions of empty members.
func (p *pass) fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
		if m == 0 && err == nil {
			err = p.inTime()
		}
	}
	return n, err
}
