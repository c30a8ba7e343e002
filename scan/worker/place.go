package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
)

// sessionsEach is how many images one process may have in hand. Of these it catalogues one
// at a time; the others arrive and are indexed meanwhile.
const sessionsEach = 4

// errIdle is why the process that is started for what a crash left over ends.
var errIdle = errors.New("it is not needed any more")

// rooms are the places of a pool, first come, first served.
type rooms struct {
	sessions *semaphore.Weighted
	matches  *semaphore.Weighted // apart from sessions, which hold theirs until they are matched
	alone    *semaphore.Weighted
}

func newRooms(size int) *rooms {
	return &rooms{
		sessions: semaphore.NewWeighted(int64(size) * sessionsEach),
		matches:  semaphore.NewWeighted(int64(size) * 2),
		alone:    semaphore.NewWeighted(1),
	}
}

// Load is what a pool does.
type Load struct {
	Running int // images and matches in processes
	Waiting int // those that wait for a place in one
}

// Load returns what the pool does now.
func (p *Pool) Load() Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	behind := 0
	for _, pr := range p.slots {
		if pr != nil {
			behind += pr.behind()
		}
	}
	return Load{Running: int(p.inside.Load()) - behind, Waiting: int(p.waiting.Load()) + behind}
}

// queue puts a session behind those that the process catalogues; the caller takes it out.
func (pr *process) queue(session uint64) (leave func()) {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	pr.turns = append(pr.turns, session)
	return func() {
		pr.mu.Lock()
		defer pr.mu.Unlock()
		pr.turns = slices.DeleteFunc(pr.turns, func(s uint64) bool { return s == session })
	}
}

// waits reports whether a session is behind another.
func (pr *process) waits(session uint64) bool {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	return slices.Index(pr.turns, session) > 0
}

// behind returns how many sessions are behind another.
func (pr *process) behind() int {
	pr.mu.Lock()
	defer pr.mu.Unlock()
	return max(0, len(pr.turns)-1)
}

// maxKillers bounds the images that are known to kill their process. Past it all are
// forgotten, which costs a process each.
const maxKillers = 1000

// kills reports whether an image has killed a process that had nothing else to do.
func (p *Pool) kills(image digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killers[image]
}

// note notes whether an image has killed a process that had nothing else to do.
func (p *Pool) note(image digest.Digest, killed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !killed {
		delete(p.killers, image)
		return
	}
	if p.killers == nil || len(p.killers) >= maxKillers {
		p.killers = map[digest.Digest]bool{}
	}
	p.killers[image] = true
}

// borrow waits for a place and returns a warm process with one more user: the one with the
// least to do or, for what was in a process that died, one that has nothing else to do, so
// that what kills it again kills nothing of anybody else's. release gives the place back.
func (p *Pool) borrow(ctx context.Context, room *semaphore.Weighted) (pr *process, release func(), err error) {
	p.waiting.Add(1)
	err = room.Acquire(ctx, 1)
	p.waiting.Add(-1)
	if err != nil {
		return nil, nil, context.Cause(ctx)
	}
	p.inside.Add(1)
	alone := room == p.room().alone
	release = func() {
		if pr != nil {
			pr.users(-1)
			if alone {
				pr.kill(errIdle)
			}
		}
		p.inside.Add(-1)
		room.Release(1)
	}
	if pr, err = p.choose(alone); err == nil {
		err = pr.ready(ctx)
	}
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("worker: %w", err)
	}
	return pr, release, nil
}

// choose returns a process and counts one user of it.
func (p *Pool) choose(alone bool) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if alone {
		pr, err := p.launch()
		if err == nil {
			pr.users(1)
			p.tasks.Go(func() { p.bury(pr) })
		}
		return pr, err
	}
	var best *process
	var failed error
	for i := range p.size() {
		pr, err := p.processLocked(i)
		if err != nil { // the others do
			failed = err
			continue
		}
		if best == nil || pr.burden() < best.burden() {
			best = pr
		}
	}
	if best == nil {
		return nil, failed
	}
	best.users(1)
	return best, nil
}

// burden is the number of users, and counts one that isn't warm yet as full.
func (pr *process) burden() int {
	select {
	case <-pr.warm:
		return pr.users(0)
	default:
		return pr.users(0) + sessionsEach
	}
}

// launch starts a process. p.mu is held.
func (p *Pool) launch() (*process, error) {
	if p.closed {
		return nil, errClosed
	}
	pr, err := p.start()
	if err != nil {
		return nil, err
	}
	if p.extra == nil {
		p.extra = map[*process]bool{}
	}
	p.extra[pr] = true
	return pr, nil
}

// bury waits for the end of a process that is in no slot.
func (p *Pool) bury(pr *process) {
	<-pr.done
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.extra, pr)
	if reason := pr.reason(); !p.closed && !errors.Is(reason, errIdle) {
		p.deaths.Add(1)
		p.log().Warn("a worker process ended", "pid", pr.pid, "reason", reason)
	}
}

// room returns the places, which are made when they are first needed.
func (p *Pool) room() *rooms {
	p.once.Do(func() {
		p.rooms = newRooms(p.size())
		p.open, p.end = context.WithCancelCause(context.Background())
	})
	return p.rooms
}

// within returns a context that ends with ctx, with the pool, or when it is cancelled.
func (p *Pool) within(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	p.room()
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.open, func() { cancel(errClosed) })
	return ctx, func(why error) {
		stop()
		cancel(why)
	}
}
