package worker

import (
	"context"
	"errors"
	"sync"

	"github.com/sluicegate/sluice/scan"
)

// A session is one image in one process.
type session struct {
	p    *Pool
	pr   *process
	id   uint64
	stop func() bool // ends the watch over the session's context; nil before that began

	once sync.Once
}

var _ scan.Session = (*session)(nil)

func (s *session) Layer(i int, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	_, err := s.pr.call(ctx, request{Op: opLayer, Session: s.id, Index: i, Path: path}, s.p.grace())
	if err != nil {
		return wrap(err)
	}
	return nil
}

func (s *session) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	res, err := s.pr.call(ctx, request{Op: opCatalogue, Session: s.id}, s.p.grace())
	if err != nil {
		return nil, wrap(err)
	}
	if res.SBOM == nil {
		return nil, errors.New("worker: a catalogue without an answer")
	}
	b, err := s.pr.result(res.File)
	if err != nil {
		return nil, err
	}
	return &scan.SBOM{JSON: b, Packages: res.SBOM.Packages, Distro: res.SBOM.Distro, DistroVer: res.SBOM.DistroVer, Problems: res.SBOM.Problems}, nil
}

// Close has the child end the session and does not wait for it. If the child is still
// at work after the pool's Grace, it is killed.
func (s *session) Close() error {
	s.stop()
	s.end()
	return nil
}

func (s *session) end() {
	s.once.Do(func() {
		if !s.p.task(s.close) {
			s.close() // the process is gone: it takes no time
		}
	})
}

func (s *session) close() {
	defer s.pr.users(-1)
	ctx, cancel := context.WithTimeout(context.Background(), s.p.grace())
	defer cancel()
	if _, err := s.pr.call(ctx, request{Op: opClose, Session: s.id}, 0); errors.Is(err, context.DeadlineExceeded) {
		s.pr.kill(errors.New("the worker process worked on after its image was given up, and was killed"))
	}
}
