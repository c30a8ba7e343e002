package worker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A process is one child, from its start to its end.
type process struct {
	pid   int
	dir   string
	quota int64    // bytes that dir may hold
	root  *os.Root // of dir
	in    *frameWriter
	log   *slog.Logger

	warm chan struct{} // closed when it can be asked
	done chan struct{} // closed when it has ended and its directory is removed

	mu      sync.Mutex  // guards all below
	os      *os.Process // nil once it has ended
	waiting map[uint64]chan response
	next    uint64
	load    int      // sessions and matches on it
	turns   []uint64 // sessions that are catalogued, one at a time, and those behind it
	fatal   string   // what Go said of its end on standard error
	err     error    // why it ended, or is about to
}

// start starts a child and returns at once: see process.warm.
func (p *Pool) start() (*process, error) {
	parent, err := filepath.Abs(p.TempDir) // the child has another working directory
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(parent, dirPrefix)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	pr := &process{dir: dir, root: root, quota: p.temp(), log: p.log(), warm: make(chan struct{}), done: make(chan struct{}), waiting: map[uint64]chan response{}}
	started := make(chan error)
	go pr.run(p, started) // ends with the process; Pool.Close waits for done
	if err := <-started; err != nil {
		return nil, err
	}
	return pr, nil
}

// run is the life of a child. It keeps the thread that it was started from, since the
// kernel ends the child when that thread ends (prctl(2), PR_SET_PDEATHSIG).
func (pr *process) run(p *Pool, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, pipes, err := p.command(pr.dir)
	if err == nil {
		closeOnExec()
		err = cmd.Start()
		pipes.closeChild()
	}
	if err != nil {
		pipes.closeParent()
		pr.root.Close()
		started <- errors.Join(fmt.Errorf("start the worker %q: %w", p.command0(), err), os.RemoveAll(pr.dir))
		return
	}
	limit(cmd.Process.Pid, 2*p.memory(), 2*pr.quota)
	pr.os, pr.pid, pr.in = cmd.Process, cmd.Process.Pid, &frameWriter{w: pipes.in}
	started <- nil

	over := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() { pr.keepQuota(over) })
	readers.Go(func() { pr.awaitWarm(over) })
	readers.Go(func() { // beside the others: a child that doesn't listen is killed
		if err := pr.in.write(setup{p.Read}); err != nil {
			pr.kill(fmt.Errorf("the worker process does not listen: %w", err))
		}
	})
	readers.Go(func() { pr.kill(pr.read(p, pipes.out)) })
	readers.Go(func() { pr.relay(pipes.err) })
	awaitExit(pr.pid)
	close(over)
	pr.kill(nil) // whatever it started
	pr.mu.Lock()
	pr.os = nil // from here on its ID may be another's
	pr.mu.Unlock()
	state, err := cmd.Process.Wait()
	pipes.in.Close()
	pipes.expire()
	readers.Wait()
	pipes.closeParent()
	if err == nil {
		err = pr.ending(state.String(), p.memory())
	}
	pr.fail(err)
	pr.root.Close()
	if err := os.RemoveAll(pr.dir); err != nil {
		pr.log.Warn("a worker's directory can't be removed", "dir", pr.dir, "error", err)
	}
	close(pr.done)
}

// warmTimeout is how long a process may take to get warm: two seconds of a processor, and
// much more on a machine that has none to spare.
const warmTimeout = 3 * time.Minute

// awaitWarm kills the process where it doesn't get warm in time, unless over is closed.
func (pr *process) awaitWarm(over <-chan struct{}) {
	t := time.NewTimer(warmTimeout)
	defer t.Stop()
	select {
	case <-over:
	case <-pr.warm:
	case <-t.C:
		pr.kill(errors.New("the worker process did not get ready in time, and was killed"))
	}
}

// kill ends the process and what it started. why, where it is not nil, is what its
// users are told, if it is the first reason.
func (pr *process) kill(why error) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if pr.err == nil {
		pr.err = why
	}
	if pr.os != nil {
		killGroup(pr.os)
	}
}

// pipes are the parent's and the child's ends of a process's standard files.
type pipes struct {
	in, out, err                *os.File // the parent's
	childIn, childOut, childErr *os.File
}

func newPipes() (pipes, error) {
	var p pipes
	var e1, e2, e3 error
	p.childIn, p.in, e1 = os.Pipe()
	p.out, p.childOut, e2 = os.Pipe()
	p.err, p.childErr, e3 = os.Pipe()
	return p, errors.Join(e1, e2, e3)
}

func (p pipes) closeChild() {
	for _, f := range []*os.File{p.childIn, p.childOut, p.childErr} {
		f.Close() // on nil too: an error, and no more
	}
}

func (p pipes) closeParent() {
	for _, f := range []*os.File{p.in, p.out, p.err} {
		f.Close()
	}
}

// expire lets readers finish what is in the pipes and no more: a grandchild that got
// away may hold the other ends open.
func (p pipes) expire() {
	t := time.Now().Add(time.Second)
	_ = errors.Join(p.out.SetReadDeadline(t), p.err.SetReadDeadline(t))
}

// command makes the child's command line, environment and pipes.
func (p *Pool) command(dir string) (*exec.Cmd, pipes, error) {
	pp, err := newPipes()
	if err != nil {
		pp.closeChild()
		return nil, pp, err
	}
	args := p.Command
	if len(args) == 0 {
		args = []string{p.command0(), "worker"}
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"TMPDIR=" + dir, "HOME=" + dir,
		"GOMEMLIMIT=" + strconv.FormatInt(p.memory(), 10),
		// A quarter as many collections, which cost a tenth of a scan's CPU time and more:
		// GOMEMLIMIT holds the heap back where it matters.
		"GOGC=400",
	}, p.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = pp.childIn, pp.childOut, pp.childErr
	cmd.SysProcAttr = attributes()
	return cmd, pp, nil
}

// command0 returns the program of the child: the very file that runs now, even where
// another has taken its name since.
func (p *Pool) command0() string {
	if len(p.Command) > 0 {
		return p.Command[0]
	}
	if runtime.GOOS == "linux" {
		return "/proc/self/exe"
	}
	name, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return name
}

// read takes the child's messages to those who wait for them, until it ends.
func (pr *process) read(p *Pool, out io.Reader) error {
	r := bufio.NewReader(out)
	for warm := false; ; {
		var res response
		if err := readFrame(r, &res); errors.Is(err, io.EOF) {
			return nil // how it ended says more
		} else if err != nil {
			return fmt.Errorf("the worker process is not understood: %w", err)
		}
		if !warm {
			if res.ID != 0 {
				return fmt.Errorf("the worker process is not understood: answer %d to nothing", res.ID)
			}
			if res.Walls == nil {
				return errors.New("the worker process is not understood: it says nothing of its walls")
			}
			warm = true
			p.raised(*res.Walls)
			close(pr.warm)
			continue
		}
		pr.mu.Lock()
		ch := pr.waiting[res.ID]
		delete(pr.waiting, res.ID)
		pr.mu.Unlock()
		if ch == nil {
			return fmt.Errorf("the worker process is not understood: answer %d to nothing", res.ID)
		}
		ch <- res // has room for it
	}
}

// What is logged of a child's standard error.
const (
	maxLine  = 4 << 10  // bytes of a line
	maxLines = 500      // lines of a process
	maxSaid  = 64 << 20 // bytes in all; past it the process is killed, reading costs too
)

// relay logs what the child writes to its standard error.
func (pr *process) relay(stderr io.Reader) {
	r := bufio.NewReaderSize(stderr, maxLine)
	said := 0
	for n := 0; ; n++ {
		line, more, err := r.ReadLine()
		if err != nil {
			return
		}
		said += len(line)
		line = bytes.Clone(line) // the rest takes its place
		for more && err == nil { // the rest of a long line
			var rest []byte
			rest, more, err = r.ReadLine()
			said += len(rest)
			if said > maxSaid {
				break
			}
		}
		if said > maxSaid {
			pr.kill(errors.New("the worker process wrote too much to standard error"))
			return
		}
		pr.heard(string(line))
		switch {
		case n < maxLines:
			pr.log.Warn("worker", "pid", pr.pid, "stderr", string(line))
		case n == maxLines:
			pr.log.Warn("worker", "pid", pr.pid, "stderr", "… and more, which is not logged")
		}
	}
}

// heard keeps what Go says of a program's end.
func (pr *process) heard(line string) {
	for _, start := range []string{"fatal error: ", "runtime: out of memory"} {
		if strings.HasPrefix(line, start) {
			pr.mu.Lock()
			if pr.fatal == "" {
				pr.fatal = line
			}
			pr.mu.Unlock()
			return
		}
	}
}

// ending is why a process ended that nobody here killed.
func (pr *process) ending(state string, memory int64) error {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	switch {
	case strings.Contains(pr.fatal, "out of memory"), strings.Contains(pr.fatal, "cannot allocate memory"):
		return fmt.Errorf("the worker process ended: it needed more than %s of memory (%s)", size(2*memory), state)
	}
	return fmt.Errorf("the worker process ended: %s", state)
}

// fail keeps the first reason why the process ends.
func (pr *process) fail(why error) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	if pr.err == nil {
		pr.err = why
	}
}

func (pr *process) reason() error {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	return pr.err
}

// call asks the child and waits for the answer. When ctx ends it returns at once, and
// the child has grace to answer before it is killed.
func (pr *process) call(ctx context.Context, q request, grace time.Duration) (response, error) {
	ch := make(chan response, 1)
	pr.mu.Lock()
	pr.next++
	q.ID = pr.next
	pr.waiting[q.ID] = ch
	pr.mu.Unlock()
	if err := pr.in.write(q); err != nil {
		pr.kill(fmt.Errorf("the worker process does not listen: %w", err))
		return response{}, pr.reason()
	}
	select {
	case res := <-ch:
		return res, res.err()
	case <-pr.done:
		return response{}, pr.reason()
	case <-ctx.Done():
		_ = pr.in.write(request{Op: opCancel, Call: q.ID}) // if it fails, the answer doesn't come either
		go pr.linger(ch, grace)                            // ends with the process at the latest
		return response{}, context.Cause(ctx)
	}
}

// linger waits for the answer to a call that was cancelled, and drops it.
func (pr *process) linger(ch <-chan response, grace time.Duration) {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case res := <-ch:
		if res.File != "" {
			pr.remove(res.File)
		}
	case <-pr.done:
	case <-t.C:
		pr.kill(errors.New("the worker process did not stop in time and was killed"))
	}
}

// remove removes a file of the child's directory.
func (pr *process) remove(name string) {
	if err := pr.root.Remove(filepath.Base(name)); err != nil && !errors.Is(err, os.ErrClosed) {
		pr.log.Debug("a worker's file can't be removed", "file", name, "error", err)
	}
}
