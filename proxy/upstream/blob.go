package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// blobAttempts is how often in a row a blob is opened anew without progress: with
	// the backoff about 20 s, which outlasts a restart of whatever lies between.
	blobAttempts = 8
	// blobProgress is how many bytes since the last break count as progress.
	blobProgress = 64 << 10
	// blobStall is how many of these a stall counts for, as it has cost a minute: three
	// end before clients have waited for longer than they are let.
	blobStall = 3
	// blobMaxWait bounds what is waited for a Retry-After in mid-blob.
	blobMaxWait = time.Minute
	// blobEndWait bounds the wait for the end of a body of unknown length, all of
	// whose bytes are there and verified.
	blobEndWait = 5 * time.Second
)

// Blob opens a blob. The reader streams it, resumes it where it breaks, and verifies
// it: io.EOF is returned only after exactly desc.Size bytes of desc.Digest; the last
// bytes of one that differs are not returned. Waiting for the consumer has no limit;
// waiting for the registry has the idle timeout, for each read.
//
// ctx governs the reader too. Close may be called while a Read waits, and ends it.
func (r *Registry) Blob(ctx context.Context, repo string, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !usable(desc.Digest) || desc.Size < 0 {
		return nil, fmt.Errorf("blob %s of %d bytes: not a digest and size that can be verified", desc.Digest, desc.Size)
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &blob{
		registry: r, desc: desc, ctx: ctx, cancel: cancel, hash: desc.Digest.Algorithm().Hash(),
		call: pull(opBlob, http.MethodGet, repo, "blobs", desc.Digest.String()),
	}
	b.call.wait = blobMaxWait
	resp, err := r.open(ctx, b.call)
	if err == nil {
		err = b.accept(resp)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	return b, nil
}

// Exact reports whether the registry has said how long the blob is, and it is as long as
// its descriptor says. It belongs to the one who reads.
func (b *blob) Exact() bool { return b.exact }

// A blob is the reader that Blob returns. All fields but body belong to Read.
type blob struct {
	registry *Registry
	desc     ocispec.Descriptor
	call     call
	ctx      context.Context //nolint:containedctx // an io.Reader has no other way to get one
	cancel   context.CancelFunc
	hash     hash.Hash
	offset   int64 // bytes received and hashed
	failures int   // in a row, without progress
	lastFail int64 // offset at the last failure
	exact    bool  // the open body's length is known and right
	err      error // for every later Read

	mu     sync.Mutex // guards body, which is nil while there is none, and closed
	body   io.ReadCloser
	closed bool
}

func (b *blob) Read(p []byte) (int, error) {
	if len(p) == 0 || b.err != nil {
		return 0, b.err
	}
	for {
		n, err := b.read(p)
		if err != nil {
			b.err = err
			b.setBody(nil)
			return 0, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// read makes one step: some bytes, a body opened anew (0, nil), or the end.
func (b *blob) read(p []byte) (int, error) {
	left := b.desc.Size - b.offset
	if left == 0 {
		return 0, b.end()
	}
	if b.body == nil {
		return 0, b.reopen()
	}
	n, err := b.body.Read(p[:min(int64(len(p)), left)])
	b.hash.Write(p[:n])
	b.offset += int64(n)
	if b.offset == b.desc.Size {
		if verr := b.verify(); verr != nil {
			return 0, verr
		}
		return n, nil
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		b.setBody(nil)
		return n, b.failed(err, 0)
	}
	return n, nil
}

// verify is called when all bytes are there, before the last of them are returned.
func (b *blob) verify() error {
	if got := fmt.Sprintf("%x", b.hash.Sum(nil)); got != b.desc.Digest.Encoded() {
		return b.error(contentError("its digest is %s:%s", b.desc.Digest.Algorithm(), got))
	}
	return nil
}

// end is called when all bytes are there and verified; it returns io.EOF unless more
// bytes follow. A body of known length was checked when it was opened.
func (b *blob) end() error {
	if b.desc.Size == 0 {
		if err := b.verify(); err != nil {
			return err
		}
	}
	if b.body != nil && !b.exact {
		var one [1]byte
		body := b.body // the timer may fire when b has let go of it
		t := time.AfterFunc(blobEndWait, func() { body.Close() })
		defer t.Stop()
		if n, _ := body.Read(one[:]); n > 0 {
			return b.error(contentError("longer than its %d bytes", b.desc.Size))
		}
	}
	return io.EOF
}

// failed counts a break and waits; it returns an error when there is no point in
// another attempt.
func (b *blob) failed(err error, after time.Duration) error {
	if b.ctx.Err() != nil {
		return b.error(b.ctx.Err())
	}
	if b.offset-b.lastFail >= blobProgress {
		b.failures = 0
	}
	b.lastFail = b.offset
	b.failures++
	if s := (*stalled)(nil); errors.As(err, &s) {
		b.failures += blobStall - 1
	}
	if b.failures > blobAttempts {
		return b.error(fmt.Errorf("broken off again and again, the last time at byte %d of %d: %w", b.offset, b.desc.Size, cause(err)))
	}
	b.registry.log().Debug("blob broke off and is resumed", "upstream", b.registry.Name, "digest", b.desc.Digest,
		"offset", b.offset, "size", b.desc.Size, "attempt", b.failures, "error", cause(err))
	if wait(b.ctx, max(b.registry.backoff(b.failures-1), after)) != nil {
		return b.error(b.ctx.Err())
	}
	return nil
}

// reopen asks for the rest. The registry is asked anew, since a pre-signed address
// may have passed its time.
func (b *blob) reopen() error {
	c := b.call
	if b.offset > 0 {
		c.header = c.header.Clone()
		c.header.Set("Range", "bytes="+strconv.FormatInt(b.offset, 10)+"-")
	}
	resp, err := b.registry.attempt(b.ctx, c)
	if err == nil {
		err = b.accept(resp)
	}
	var e *Error
	switch {
	case err == nil:
		return nil
	case hasStatus(err, http.StatusRequestedRangeNotSatisfiable):
		return b.error(contentError("ends before byte %d of %d", b.offset, b.desc.Size))
	case errors.As(err, &e) && (e.again || e.elsewhere) && e.RetryAfter <= blobMaxWait:
		return b.failed(err, e.RetryAfter)
	}
	return err
}

// accept checks an answer against what is missing and makes it the body. The error
// has again set where another attempt may help.
func (b *blob) accept(resp *http.Response) error {
	b.exact = false
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != b.desc.Size {
			resp.Body.Close()
			return b.error(contentError("%d bytes long, not %d", resp.ContentLength, b.desc.Size))
		}
		b.exact = resp.ContentLength >= 0
		if _, err := io.CopyN(io.Discard, resp.Body, b.offset); err != nil {
			resp.Body.Close()
			return b.passing(err)
		}
	case http.StatusPartialContent:
		start, end, total, ok := parseContentRange(resp.Header.Get("Content-Range"))
		switch {
		case b.offset == 0: // all of it was asked for, and how long that is was not said
			resp.Body.Close()
			return b.passing(errors.New("HTTP 206 without having been asked for a part"))
		case !ok || start != b.offset || end >= b.desc.Size:
			resp.Body.Close()
			return b.passing(errors.New("the answer is not the range that was asked for"))
		case total >= 0 && total != b.desc.Size:
			resp.Body.Close()
			return b.error(contentError("%d bytes long, not %d", total, b.desc.Size))
		}
		b.exact = end == b.desc.Size-1 && resp.ContentLength == end-start+1
	default:
		resp.Body.Close()
		return b.passing(fmt.Errorf("HTTP %d without the content", resp.StatusCode))
	}
	b.setBody(resp.Body)
	return nil
}

// setBody replaces the body and closes the one before.
func (b *blob) setBody(body io.ReadCloser) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body != nil {
		b.body.Close()
	}
	b.body = body
	if b.closed && body != nil {
		body.Close()
	}
}

// Close ends the transfer. It returns nil.
func (b *blob) Close() error {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.body != nil {
		b.body.Close()
	}
	return nil
}

// error returns err as it is shown, named after the blob.
func (b *blob) error(err error) *Error {
	e := &Error{Op: opBlob, URL: b.registry.Name + "/" + strings.Join(b.call.path, "/"), Err: err}
	if u, uerr := b.registry.url(b.call); uerr == nil {
		e.URL = shown(u)
	}
	return e
}

// passing is error for what another attempt may cure.
func (b *blob) passing(err error) *Error {
	e := b.error(cause(err))
	e.again = true
	return e
}

// parseContentRange reads "bytes START-END/TOTAL"; total is -1 for "*".
func parseContentRange(s string) (start, end, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, size, ok2 := strings.Cut(s, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, false
	}
	total = -1
	start, ok = parseSize(from)
	end, ok2 = parseSize(to)
	if size != "*" {
		total, ok3 = parseSize(size)
	}
	return start, end, total, ok && ok2 && ok3 && start <= end && (total < 0 || end < total)
}

func parseSize(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}
