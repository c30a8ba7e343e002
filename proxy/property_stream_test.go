package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// A stream is a request and what it has brought so far.
type stream struct {
	call
	cast     *cast
	start    int           // in the model's time
	began    time.Time     // by the gateway's clock
	answered chan struct{} // there are headers, or never will be
	done     chan struct{}
	cancel   context.CancelFunc
	hungUp   bool // on purpose; set before cancel is called
	excused  bool // a trouble was made that it may have met

	mu sync.Mutex // guards o
	o  outcome
}

// An outcome is what a stream has brought.
type outcome struct {
	status  int     // 0: no answer
	of      *member // the manifest that was served, or whose digest was asked for
	header  http.Header
	got     []interval // of the content
	end     int64      // the highest position received
	message string     // of an error
	whole   bool       // the body came to its end
	err     error      // why it did not
	wrong   string     // what no gateway may do
}

func (c *call) digest() digest.Digest { return digest.Digest(c.ref) }

func (c call) String() string {
	text := fmt.Sprintf("%s at %d: %s %s/%s/%s (%s)", c.caller, c.house, c.method, c.repo, c.kind, c.ref[:min(len(c.ref), 15)], c.name())
	if len(c.header) > 0 {
		text += fmt.Sprintf(" %q", c.header)
	}
	return text
}

func (c *call) name() string {
	if c.of == nil {
		return "?"
	}
	for i, d := range c.of.blobs {
		if c.blob && d.Digest == c.digest() {
			return fmt.Sprintf("%s[%d]", c.of.name, i)
		}
	}
	return c.of.name
}

func (s *stream) outcome() outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.o
}

func (s *stream) note(change func(*outcome)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.o)
}

func (s *stream) accuse(format string, args ...any) {
	s.note(func(o *outcome) { o.wrong = fmt.Sprintf(format, args...) })
}

// read takes in an answer as it comes.
func (s *stream) read(resp *http.Response, err error) {
	if err != nil {
		s.note(func(o *outcome) { o.err = err })
		close(s.answered)
		return
	}
	close(s.answered)
	defer resp.Body.Close()
	of := s.of
	if s.kind == "manifests" && of == nil {
		of = s.cast.manifest(digest.Digest(resp.Header.Get("Docker-Content-Digest")))
	}
	s.note(func(o *outcome) { o.status, o.of, o.header = resp.StatusCode, of, resp.Header })
	switch resp.StatusCode {
	case http.StatusOK:
		s.take(resp.Body, s.content(of), 0)
	case http.StatusPartialContent:
		s.parts(resp)
	default:
		s.refusal(resp.StatusCode, resp.Body)
	}
}

// content returns what a stream asks for, nil where that may be anything.
func (s *stream) content(of *member) []byte {
	switch {
	case s.blob:
		return s.cast.content[s.digest()]
	case of != nil:
		return of.raw
	}
	return nil
}

// take notes a piece of the content that begins at position from.
func (s *stream) take(r io.Reader, content []byte, from int64) {
	buf := make([]byte, 32<<10)
	at := from
	for {
		n, err := r.Read(buf)
		if content != nil && (at+int64(n) > int64(len(content)) || !bytes.Equal(buf[:n], content[at:at+int64(n)])) {
			s.accuse("bytes %d to %d are not those of its digest", at, at+int64(n))
			return
		}
		at += int64(n)
		s.note(func(o *outcome) {
			if n > 0 {
				o.got, o.end = append(o.got, interval{at - int64(n), at}), max(o.end, at)
			}
			o.whole = err == io.EOF
			if err != io.EOF {
				o.err = err
			}
		})
		if err != nil {
			return
		}
		if s.most > 0 && at-from >= s.most {
			s.note(func(o *outcome) { o.err = errHungUp })
			return
		}
	}
}

var errHungUp = errors.New("hung up")

// parts notes an answer to a request for ranges.
func (s *stream) parts(resp *http.Response) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/byteranges" {
		s.part(resp.Header.Get("Content-Range"), resp.Body)
		return
	}
	r := multipart.NewReader(resp.Body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err != nil {
			s.note(func(o *outcome) { o.whole, o.err = err == io.EOF, err })
			return
		}
		s.part(p.Header.Get("Content-Range"), p)
	}
}

func (s *stream) part(contentRange string, r io.Reader) {
	var from, last, size int64
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &from, &last, &size); err != nil || from > last || last >= size {
		s.accuse("206 with Content-Range %q", contentRange)
		return
	}
	s.take(r, s.content(nil), from)
}

// refusal notes the text of a registry's error.
func (s *stream) refusal(status int, r io.Reader) {
	b, err := io.ReadAll(io.LimitReader(r, 1<<20))
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if s.method != http.MethodHead && status != http.StatusNotModified && err == nil && (json.Unmarshal(b, &doc) != nil || len(doc.Errors) != 1) {
		s.accuse("%d with a body that is no registry error: %.100q", status, b)
	}
	s.note(func(o *outcome) {
		o.whole, o.err = err == nil, err
		if len(doc.Errors) == 1 {
			o.message = doc.Errors[0].Code + ": " + strings.TrimSpace(doc.Errors[0].Message)
		}
	})
}
