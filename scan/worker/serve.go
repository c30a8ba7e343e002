package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// A Cataloguer makes SBOMs: package sbom has one.
type Cataloguer interface {
	// Warm builds what every catalogue needs.
	Warm() error
	// Begin starts a session that keeps its files under tempDir. After its Close, its
	// Catalogue returns when its work has ended.
	Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest, tempDir string) (scan.Session, error)
}

// A Matcher matches SBOMs: package vuln has one. It reads the database out of db.Dir.
type Matcher interface {
	Match(ctx context.Context, sbomFile string, db scan.Database) (*scan.Matches, error)
}

// Serve is the child: it answers the messages of a Pool on in until that ends, which
// it does with the parent, and writes to out, where nothing else may write. Files are
// kept in os.TempDir, which belongs to this process alone.
//
// It returns nil when in has ended, without waiting for work that can't be stopped:
// the process must exit then.
func Serve(ctx context.Context, in io.Reader, out io.Writer, c Cataloguer, m Matcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := bufio.NewReader(in)
	var with setup
	if err := readFrame(r, &with); err != nil {
		return fmt.Errorf("read from the parent: %w", err)
	}
	if err := warm(c); err != nil {
		return err
	}
	s := &server{cataloguer: c, matcher: m, dir: os.TempDir(), out: &frameWriter{w: out},
		sessions: map[uint64]scan.Session{}, calls: map[uint64]context.CancelFunc{}}
	walls := raise(with.Read, s.dir) // before a byte of a stranger is read
	if err := s.out.write(response{Walls: &walls}); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	for {
		var q request
		if err := readFrame(r, &q); errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return fmt.Errorf("read from the parent: %w", err)
		}
		if q.Op == opCancel {
			s.cancel(q.Call)
			continue
		}
		s.start(ctx, q)
	}
}

// warm warms c behind whatever else wants a processor, since a pull might.
func warm(c Cataloguer) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // until the goroutine ends, and the thread with it
		yield()
		done <- c.Warm()
	}()
	return <-done
}

type server struct {
	cataloguer Cataloguer
	matcher    Matcher
	dir        string
	out        *frameWriter

	mu       sync.Mutex // guards both maps
	sessions map[uint64]scan.Session
	calls    map[uint64]context.CancelFunc
}

// start answers one request, beside others. Sessions begin in the order of requests.
func (s *server) start(ctx context.Context, q request) {
	if q.Op == opBegin { // now, so that the next message finds the session
		s.reply(q.ID, response{}, s.begin(ctx, q))
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.calls[q.ID] = cancel
	s.mu.Unlock()
	go func() { // ends with its call, or with the process
		defer s.cancel(q.ID)
		res, err := s.answer(ctx, q)
		s.reply(q.ID, res, err)
	}()
}

// cancel ends a call, if it runs.
func (s *server) cancel(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.calls[id]; cancel != nil {
		cancel()
		delete(s.calls, id)
	}
}

func (s *server) reply(id uint64, res response, err error) {
	res.ID = id
	if err != nil {
		var content *scan.ContentError
		res = response{ID: id, Error: err.Error(), Content: errors.As(err, &content)}
		if res.Content {
			res.Error = content.Detail
		}
		if len(res.Error) > 4096 {
			res.Error = res.Error[:4096]
		}
	}
	_ = s.out.write(res) // if nobody hears it, in ends too
}

func (s *server) begin(ctx context.Context, q request) error {
	if q.Image == nil {
		return errors.New("a session without an image")
	}
	sess, err := s.cataloguer.Begin(ctx, *q.Image, q.DiffIDs, s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[q.Session] = sess
	return nil
}

func (s *server) session(id uint64) (scan.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess, ok := s.sessions[id]; ok {
		return sess, nil
	}
	return nil, fmt.Errorf("session %d is not open", id)
}

func (s *server) answer(ctx context.Context, q request) (res response, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	if q.Op == opMatch {
		return s.match(ctx, q)
	}
	sess, err := s.session(q.Session)
	if err != nil {
		return response{}, err
	}
	switch q.Op {
	case opLayer:
		return response{}, sess.Layer(q.Index, q.Path)
	case opCatalogue:
		return s.catalogue(ctx, sess)
	case opClose:
		return response{}, s.close(q.Session, sess)
	}
	return response{}, fmt.Errorf("unknown request %q", q.Op)
}

func (s *server) catalogue(ctx context.Context, sess scan.Session) (response, error) {
	b, err := sess.Catalogue(ctx)
	if err != nil {
		return response{}, err
	}
	name, err := s.store(b.JSON)
	return response{File: name, SBOM: &facts{b.Packages, b.Distro, b.DistroVer, b.Problems, b.Steps}}, err
}

// close answers when the session's work has ended, whatever came out of it.
func (s *server) close(id uint64, sess scan.Session) error {
	err := sess.Close()
	_, _ = sess.Catalogue(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, id)
	return err
}

func (s *server) match(ctx context.Context, q request) (response, error) {
	if q.Database == nil || filepath.Base(q.File) != q.File {
		return response{}, errors.New("a match without a database or an SBOM")
	}
	db := *q.Database
	db.Dir = q.Dir
	var steps scan.Timeline
	m, err := s.matcher.Match(steps.Context(ctx), filepath.Join(s.dir, q.File), db)
	if err == nil {
		err = ctx.Err() // never by the error alone
	}
	if err != nil {
		return response{}, err
	}
	m.Steps = steps.Steps()
	b, err := json.Marshal(m)
	if err != nil {
		return response{}, err
	}
	name, err := s.store(b)
	return response{File: name}, err
}

// store writes a result to a new file and returns its name. The parent removes it.
func (s *server) store(b []byte) (string, error) {
	f, err := os.CreateTemp(s.dir, "result-")
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return filepath.Base(f.Name()), nil
}
