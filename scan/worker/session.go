package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/sluicegate/sluice/scan"
)

// A session is one image in one process. It waits for its place beside its caller, who
// may bring layers before; when the process dies, it is begun once more in one that has
// nothing else to do. An image that killed such a one has no place before its layers are
// all there.
type session struct {
	p       *Pool
	ctx     context.Context // of the session: scan.Session has no room for one in its methods
	cancel  context.CancelCauseFunc
	img     *scan.Image
	diffIDs []digest.Digest
	begun   chan struct{} // closed when at or err is set
	lined   atomic.Bool   // it waits for a process that has nothing else to do

	mu     sync.Mutex // guards all below
	layers map[int]string
	at     *seat // nil until it has begun, and for an image that kills
	err    error // why it could not begin
}

// A seat is a session's place in a process.
type seat struct {
	p       *Pool
	pr      *process
	id      uint64
	image   digest.Digest
	release func()
	once    sync.Once
}

var _ scan.Session = (*session)(nil)

// errEnded is why the work of a closed session ends.
var errEnded = errors.New("the session was closed")

// Begin implements scan.Engine. It does not wait: see session.
func (p *Pool) Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest) (scan.Session, error) {
	s := &session{p: p, img: &img, diffIDs: diffIDs, begun: make(chan struct{}), layers: map[int]string{}}
	s.ctx, s.cancel = p.within(ctx)
	if !p.task(s.begin) {
		s.cancel(errClosed)
		return nil, wrap(errClosed)
	}
	return s, nil
}

// begin takes a place for the session and keeps it until that ends.
func (s *session) begin() {
	if s.p.kills(s.img.Digest) {
		close(s.begun)
		return
	}
	at, err := s.sit(s.ctx, s.p.room().sessions)
	if errors.Is(err, errDoomed) && s.ctx.Err() == nil {
		at, err = s.sit(s.ctx, s.p.room().sessions)
	}
	s.mu.Lock()
	s.at, s.err = at, err
	s.mu.Unlock()
	close(s.begun)
	if err != nil {
		return
	}
	<-s.ctx.Done()
	s.mu.Lock()
	at = s.at // it may be another by now
	s.mu.Unlock()
	at.leave()
}

// sit takes a place and tells the process there all that is known. From then on s.at is
// the place, so that no layer is missed or told twice.
func (s *session) sit(ctx context.Context, room *semaphore.Weighted) (*seat, error) {
	pr, release, err := s.p.borrow(ctx, room)
	if err != nil {
		return nil, err
	}
	at := &seat{p: s.p, pr: pr, id: s.p.sessions.Add(1), image: s.img.Digest, release: release}
	err = s.p.answered(ctx, pr, request{Op: opBegin, Session: at.id, Image: s.img, DiffIDs: s.diffIDs})
	if err != nil {
		at.leave() // it may have begun all the same
		return nil, at.blame(wrap(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range slices.Sorted(maps.Keys(s.layers)) {
		if err := at.layer(i, s.layers[i]); err != nil {
			at.leave()
			return nil, at.blame(err)
		}
	}
	s.at = at
	return at, nil
}

// answered asks what a process answers at once, and kills one that doesn't: it may have
// been stopped since it said that it is warm.
func (p *Pool) answered(ctx context.Context, pr *process, q request) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errMute)
	defer cancel()
	_, err := pr.call(ctx, q, p.grace())
	if errors.Is(err, errMute) {
		pr.kill(errMute)
	}
	return err
}

// answerTimeout is how long a process may take over what takes it milliseconds.
const answerTimeout = 10 * time.Second

var errMute = errors.New("the worker process did not answer, and was killed")

// Waiting reports whether the session waits for a place, or its process for another one's
// catalogue.
func (s *session) Waiting() bool {
	if s.ctx.Err() != nil {
		return false
	}
	select {
	case <-s.begun:
	default:
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lined.Load() || s.at != nil && s.at.pr.waits(s.at.id)
}

func (s *session) Layer(i int, path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.layers[i] = path
	if s.at == nil || s.at.died() { // told when it has begun, or has begun once more
		return s.err
	}
	if err := s.at.layer(i, path); err != nil && !s.at.died() {
		return err
	}
	return nil
}

func (s *session) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	placed := scan.Timed(ctx, scan.StepPlace)
	select {
	case <-s.begun:
		placed()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, wrap(context.Cause(s.ctx))
	}
	s.mu.Lock()
	at, err := s.at, s.err
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if at == nil {
		return s.alone(ctx)
	}
	b, err := at.catalogue(ctx)
	if err == nil || !at.died() || ctx.Err() != nil || s.ctx.Err() != nil {
		return b, err
	}
	s.p.log().Warn("a worker process died with an image in it, which is tried once more by itself", "image", s.img.Digest, "reason", at.pr.reason())
	at.leave()
	return s.alone(ctx)
}

// alone catalogues the image in a process that has nothing else to do.
func (s *session) alone(ctx context.Context) (*scan.SBOM, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })()
	s.lined.Store(true)
	at, err := s.sit(ctx, s.p.room().alone)
	s.lined.Store(false)
	if err != nil {
		return nil, err
	}
	defer at.leave() // there is one such place, and others may need it
	b, err := at.catalogue(ctx)
	if err == nil || at.died() && ctx.Err() == nil {
		s.p.note(s.img.Digest, err != nil)
	}
	return b, err
}

// Close has the child end the session and does not wait for it. If the child is still
// at work after the pool's Grace, it is killed.
func (s *session) Close() error {
	s.cancel(errEnded)
	return nil
}

func (at *seat) died() bool { return at.pr.reason() != nil }

// errDoomed is wrapped by the errors of a process that was ending when a session began.
var errDoomed = errors.New("the worker process was ending")

func (at *seat) blame(err error) error {
	if at.died() {
		return fmt.Errorf("%w: %w", errDoomed, err)
	}
	return err
}

func (at *seat) layer(i int, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	if _, err := at.pr.call(ctx, request{Op: opLayer, Session: at.id, Index: i, Path: path}, at.p.grace()); err != nil {
		return wrap(err)
	}
	return nil
}

func (at *seat) catalogue(ctx context.Context) (*scan.SBOM, error) {
	defer at.pr.queue(at.id)()
	res, err := at.pr.call(ctx, request{Op: opCatalogue, Session: at.id}, at.p.grace())
	if err != nil {
		return nil, wrap(err)
	}
	if res.SBOM == nil {
		return nil, errors.New("worker: a catalogue without an answer")
	}
	b, err := at.pr.result(res.File)
	if err != nil {
		return nil, err
	}
	return &scan.SBOM{JSON: b, Packages: res.SBOM.Packages, Distro: res.SBOM.Distro, DistroVer: res.SBOM.DistroVer, Problems: res.SBOM.Problems, Steps: res.SBOM.Steps}, nil
}

// leave has the child end the session, kills it where it doesn't in time, and gives the
// place back.
func (at *seat) leave() {
	at.once.Do(func() {
		defer at.release()
		ctx, cancel := context.WithTimeout(context.Background(), at.p.grace())
		defer cancel()
		if _, err := at.pr.call(ctx, request{Op: opClose, Session: at.id}, 0); errors.Is(err, context.DeadlineExceeded) {
			at.pr.kill(errors.New("the worker process worked on after its image was given up, and was killed"))
			at.p.note(at.image, true)
		}
	})
}
