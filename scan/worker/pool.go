package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// dirPrefix is how the directories of processes in Pool.TempDir begin.
const dirPrefix = "worker-"

// maxResult bounds an SBOM or a list of findings, in bytes.
const maxResult = 512 << 20

// A Pool is a number of child processes that catalogue and match. Its fields are set
// before Start; its methods may be called concurrently.
type Pool struct {
	Command  []string    // the child's command line; empty: this program with the argument "worker"
	Versions scan.Recipe // of what the child runs: it is the same program
	Size     int         // processes; 0 is 2 (see the package documentation)
	TempDir  string      // belongs to the pool alone: children's directories are removed at Start

	// Env is added to the child's environment, which is otherwise empty but for
	// TMPDIR, HOME and the Go runtime's limits. No secrets.
	Env []string

	// MemoryLimit is how many bytes of memory one process should not use more of. At
	// twice as many it is ended by the kernel, on Linux. 0 is 2 GiB: the largest
	// images that were measured took 0.9.
	MemoryLimit int64

	// Grace is how long a process may work on after what it works for was cancelled,
	// before it is killed. 0 is 5 seconds: indexing one layer can't be interrupted.
	Grace time.Duration

	Log *slog.Logger // nil: nothing is logged

	sessions atomic.Uint64

	mu     sync.Mutex // guards all below
	slots  []*process // nil where there is none
	closed bool
	tasks  sync.WaitGroup // watching processes and closing sessions
}

var _ scan.Engine = (*Pool)(nil)

// Start removes what an earlier pool left in TempDir and starts the processes. It
// returns when all are warm, or with why one can't be. A pool may be used before, or
// without, or when Start failed: it starts a process when it is asked for one.
func (p *Pool) Start(ctx context.Context) error {
	left, err := filepath.Glob(filepath.Join(p.TempDir, dirPrefix+"*"))
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
	}
	var all []*process
	for i := range p.size() {
		pr, err := p.process(i)
		if err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		all = append(all, pr)
	}
	for _, pr := range all {
		if err := pr.ready(ctx); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
	}
	return nil
}

// Close kills the processes and waits until nothing of them is left. What runs in
// them fails.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	for _, pr := range p.slots {
		if pr != nil {
			pr.kill(errClosed)
		}
	}
	p.mu.Unlock()
	p.tasks.Wait()
	return nil
}

// task runs f beside others, unless the pool is closed. Close waits for it.
func (p *Pool) task(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.tasks.Go(f)
	return true
}

var errClosed = errors.New("the worker pool is closed")

// Recipe returns Versions.
func (p *Pool) Recipe() scan.Recipe { return p.Versions }

// process returns the process in slot i, a new one where there is none.
func (p *Pool) process(i int) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.processLocked(i)
}

func (p *Pool) processLocked(i int) (*process, error) {
	if p.closed {
		return nil, errClosed
	}
	if p.slots == nil {
		p.slots = make([]*process, p.size())
	}
	if pr := p.slots[i]; pr != nil && pr.reason() == nil {
		return pr, nil
	}
	pr, err := p.start()
	if err != nil {
		return nil, err
	}
	p.slots[i] = pr
	p.tasks.Go(func() { p.watch(i, pr) })
	return pr, nil
}

// watch replaces pr when it ends. One that never got warm is replaced only when
// somebody asks, so that what can't work isn't tried for ever.
func (p *Pool) watch(i int, pr *process) {
	<-pr.done
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[i] == pr {
		p.slots[i] = nil
	}
	if p.closed {
		return
	}
	p.log().Warn("a worker process ended", "pid", pr.pid, "reason", pr.reason())
	select {
	case <-pr.warm:
	default:
		return
	}
	if _, err := p.processLocked(i); err != nil {
		p.log().Error("a worker process can't be replaced", "error", err)
	}
}

// borrow returns the process with the least to do, warm, and counts one user of it.
func (p *Pool) borrow(ctx context.Context) (*process, error) {
	p.mu.Lock()
	var best *process
	for i := range p.size() {
		pr, err := p.processLocked(i)
		if err != nil {
			p.mu.Unlock()
			return nil, fmt.Errorf("worker: %w", err)
		}
		if best == nil || pr.users(0) < best.users(0) {
			best = pr
		}
	}
	best.users(1)
	p.mu.Unlock()
	if err := best.ready(ctx); err != nil {
		best.users(-1)
		return nil, fmt.Errorf("worker: %w", err)
	}
	return best, nil
}

// users adds n to the number of users and returns it.
func (pr *process) users(n int) int {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.load += n
	return pr.load
}

// ready waits until the process can be asked.
func (pr *process) ready(ctx context.Context) error {
	select {
	case <-pr.warm:
		return nil
	case <-pr.done:
		return pr.reason()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Match implements scan.Engine.
func (p *Pool) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	pr, err := p.borrow(ctx)
	if err != nil {
		return nil, err
	}
	defer pr.users(-1)
	name := fmt.Sprintf("sbom-%d", p.sessions.Add(1))
	if err := pr.root.WriteFile(name, sbom, 0o600); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	defer pr.remove(name)
	res, err := pr.call(ctx, request{Op: opMatch, File: name, Database: &db, Dir: db.Dir}, p.grace())
	if err != nil {
		return nil, wrap(err)
	}
	b, err := pr.result(res.File)
	if err != nil {
		return nil, err
	}
	m := new(scan.Matches)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("worker: findings that can't be read: %w", err)
	}
	return m, nil
}

// result reads a file that the child names as its answer, and removes it. The child
// is not trusted to name, or to have made, only files of its own.
func (pr *process) result(name string) ([]byte, error) {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return nil, fmt.Errorf("worker: a result in a file named %q", name)
	}
	f, err := pr.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	defer pr.remove(name)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxResult {
		return nil, fmt.Errorf("worker: a result that is no file, or larger than %d bytes", maxResult)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxResult))
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	return b, nil
}

// err returns the error that the child answered with.
func (r response) err() error {
	switch {
	case r.Error == "":
		return nil
	case r.Content:
		return &scan.ContentError{Detail: r.Error}
	}
	return errors.New(r.Error)
}

func wrap(err error) error { return fmt.Errorf("worker: %w", err) }

// Begin implements scan.Engine.
func (p *Pool) Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest) (scan.Session, error) {
	pr, err := p.borrow(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{p: p, pr: pr, id: p.sessions.Add(1)}
	if _, err := pr.call(ctx, request{Op: opBegin, Session: s.id, Image: &img, DiffIDs: diffIDs}, p.grace()); err != nil {
		s.end() // it may have begun all the same
		return nil, wrap(err)
	}
	s.stop = context.AfterFunc(ctx, s.end)
	return s, nil
}

func (p *Pool) size() int {
	if p.Size <= 0 {
		return 2
	}
	return p.Size
}

func (p *Pool) memory() int64 {
	if p.MemoryLimit <= 0 {
		return 2 << 30
	}
	return p.MemoryLimit
}

func (p *Pool) grace() time.Duration {
	if p.Grace <= 0 {
		return 5 * time.Second
	}
	return p.Grace
}

func (p *Pool) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}
