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
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/sluicegate/sluice/scan"
)

// dirPrefix is how the directories of processes in Pool.TempDir begin.
const dirPrefix = "worker-"

// maxResult bounds an SBOM or a list of findings, in bytes: 10,000 packages have 100 MB,
// and the gateway takes three times as much memory for a while.
const maxResult = 128 << 20

// A Pool is a number of child processes that catalogue and match. Its fields are set
// before Start; its methods may be called concurrently.
type Pool struct {
	Command  []string    // the child's command line; empty: this program with the argument "worker"
	Versions scan.Recipe // of what the child runs: it is the same program
	Size     int         // processes; 0 is 2: see Fit
	TempDir  string      // belongs to the pool alone: children's directories are removed at Start

	// Read is what a child may read besides its own directory, where the kernel can see
	// to that: the directories, which must be there, of layers and databases. nil: any
	// file that the gateway may read.
	Read []string

	// Env is added to the child's environment, which is otherwise empty but for
	// TMPDIR, HOME and the Go runtime's limits. No secrets.
	Env []string

	// MemoryLimit is how many bytes of memory one process should not use more of. At
	// twice as many it is ended by the kernel, on Linux. 0 is 2 GiB: see Fit.
	MemoryLimit int64

	// TempLimit is how many bytes one process may keep on disk before it is killed. 0
	// is 4 GiB: what cataloguers unpack is a fraction of an image, an archive at a time.
	TempLimit int64

	// Grace is how long a process may work on after what it works for was cancelled,
	// before it is killed. 0 is 5 seconds: indexing one layer can't be interrupted.
	Grace time.Duration

	Log *slog.Logger // nil: nothing is logged

	every time.Duration // see keepEvery, which it is where it is 0

	sessions        atomic.Uint64
	waiting, inside atomic.Int64
	deaths          atomic.Int64

	once  sync.Once // for all of these
	rooms *rooms
	open  context.Context //nolint:containedctx // ends when the pool is closed
	end   context.CancelCauseFunc

	mu      sync.Mutex             // guards all below
	slots   []*process             // nil where there is none
	extra   map[*process]bool      // those in no slot
	walls   *Walls                 // around the child that was last warm
	killers map[digest.Digest]bool // images that killed a process that they had for themselves
	cold    time.Time              // since when no process is warm; zero while one is, or none ever was
	closed  bool
	tasks   sync.WaitGroup // watching processes, and sessions
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
	p.room()
	p.mu.Lock()
	p.closed = true
	for pr := range p.extra {
		pr.kill(errClosed)
	}
	for _, pr := range p.slots {
		if pr != nil {
			pr.kill(errClosed)
		}
	}
	p.mu.Unlock()
	p.end(errClosed)
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

// watch replaces pr when it ends. One that never got warm is replaced when somebody asks
// or Keep comes round, so that what can't work isn't tried all the time.
func (p *Pool) watch(i int, pr *process) {
	<-pr.done
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[i] == pr {
		p.slots[i] = nil
	}
	if p.walls != nil && p.cold.IsZero() && p.warmLocked() == 0 {
		p.cold = time.Now()
	}
	if p.closed {
		return
	}
	p.deaths.Add(1)
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

// Match implements scan.Engine. A match whose process died is tried once more in one that
// has nothing else to do.
func (p *Pool) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	ctx, cancel := p.within(ctx)
	defer cancel(nil)
	m, died, err := p.match(ctx, p.room().matches, sbom, db)
	if !died || ctx.Err() != nil {
		return m, err
	}
	p.log().Warn("a worker process ended over a match, which is tried once more by itself", "error", err)
	m, _, err = p.match(ctx, p.room().alone, sbom, db)
	return m, err
}

// match matches once. Where it can't, it reports whether the process has ended.
func (p *Pool) match(ctx context.Context, room *semaphore.Weighted, sbom []byte, db scan.Database) (m *scan.Matches, died bool, err error) {
	pr, release, err := p.borrow(ctx, room)
	if err != nil {
		return nil, false, err
	}
	defer release()
	defer func() { died = err != nil && pr.reason() != nil }()
	name := fmt.Sprintf("sbom-%d", p.sessions.Add(1))
	if err := pr.root.WriteFile(name, sbom, 0o600); err != nil {
		return nil, false, wrap(err)
	}
	defer pr.remove(name)
	res, err := pr.call(ctx, request{Op: opMatch, File: name, Database: &db, Dir: db.Dir}, p.grace())
	if err != nil {
		return nil, false, wrap(err)
	}
	b, err := pr.result(res.File)
	if err != nil {
		return nil, false, err
	}
	m = new(scan.Matches)
	if err := json.Unmarshal(b, m); err != nil {
		return nil, false, fmt.Errorf("worker: findings that can't be read: %w", err)
	}
	return m, false, nil
}

// result reads a file that the child names as its answer, and removes it. The child
// is not trusted to name, or to have made, only files of its own.
func (pr *process) result(name string) ([]byte, error) {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return nil, fmt.Errorf("worker: a result in a file named %q", name)
	}
	f, err := pr.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe would else be waited for
	if err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	defer pr.remove(name)
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("worker: %w", err)
	case !fi.Mode().IsRegular():
		return nil, errors.New("worker: a result that is no file")
	case fi.Size() > maxResult:
		return nil, fmt.Errorf("worker: a result of %d bytes, more than %d", fi.Size(), maxResult)
	}
	b := make([]byte, fi.Size())
	if _, err := io.ReadFull(f, b); err != nil {
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

// raised notes the walls of a child that became warm, and says once, and whenever that
// changes, which are up.
func (p *Pool) raised(w Walls) {
	p.mu.Lock()
	news := p.walls == nil || p.walls.whole() != w.whole()
	p.walls, p.cold = &w, time.Time{}
	p.mu.Unlock()
	switch {
	case news && w.whole():
		p.log().Debug("worker processes have their walls", "walls", w)
	case news:
		p.log().Warn("worker processes lack a wall that other kernels have: what breaks out of one can do what the gateway can", "walls", w)
	}
}

func (p *Pool) size() int {
	if p.Size <= 0 {
		return 2
	}
	return p.Size
}

func (p *Pool) memory() int64 {
	if p.MemoryLimit <= 0 {
		return defaultMemory
	}
	return p.MemoryLimit
}

func (p *Pool) temp() int64 {
	if p.TempLimit <= 0 {
		return 4 << 30
	}
	return p.TempLimit
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
