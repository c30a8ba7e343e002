package decisionlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sluicegate/sluice/policy"
)

const (
	queueLength = 4096 // records that wait to be masked and written
	remembered  = 20_000
	// denialLife is how long a decision can be remembered by who made it, so that its ID
	// comes again.
	denialLife = 2 * time.Minute
)

// A Log writes decisions down. Its fields are set before Start; its methods may be called
// concurrently. A nil Log writes nothing.
type Log struct {
	File       string        // to append to; "-" for standard output, "" for none
	Collector  *Collector    // nil for none
	Allows     float64       // share of allows that have a record, from 0 to 1; denials always have
	AllowEvery time.Duration // before the same allow to the same caller has another record
	Labels     map[string]string
	Log        *slog.Logger

	now func() time.Time // time.Now where nil

	queue chan entry
	done  chan struct{} // closed when the queue is written
	end   context.CancelFunc
	stats [statCount]atomic.Int64

	mu      sync.Mutex // guards all below, and sending to queue against its end
	closed  bool
	full    bool                          // the queue was, when it was last added to
	allowed *lru.Cache[string, time.Time] // what was allowed to whom: when it had its record
	denied  *lru.Cache[string, time.Time] // the same of decisions, by their IDs
}

// An entry is a record on its way.
type entry struct {
	record Record
	masker Masker
}

// What is counted.
const (
	statWritten = iota
	statRepeated
	statUnsampled
	statDropped
	statFailed
	statCount
)

// Stats are counts since the start.
type Stats struct {
	Written   int64 // records, to the file or the collector's buffer
	Repeated  int64 // decisions that had a record already
	Unsampled int64 // allows that the sample leaves out
	Dropped   int64 // records that are lost, since something was full or failed
	Failed    int64 // tries to write or to send
}

// Start opens the file and begins to write.
func (l *Log) Start() error {
	out, err := openFile(l.File)
	if err != nil {
		return err
	}
	if l.Log == nil {
		l.Log = slog.New(slog.DiscardHandler)
	}
	if l.now == nil {
		l.now = time.Now
	}
	l.queue, l.done = make(chan entry, queueLength), make(chan struct{})
	if l.allowed, err = lru.New[string, time.Time](remembered); err != nil {
		return err
	}
	if l.denied, err = lru.New[string, time.Time](remembered); err != nil {
		return err
	}
	var ctx context.Context
	ctx, l.end = context.WithCancel(context.Background())
	if l.Collector != nil {
		l.Collector.start(l)
	}
	go l.run(ctx, out)
	return nil
}

// Note writes a decision down, unless it has a record already or the sample leaves it out.
// It never waits. m is what made it, or any of its kind; took is how long that was.
func (l *Log) Note(m Masker, in *policy.Input, d *policy.Decision, took time.Duration) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, key := l.place(in, d)
	if l.spared(seen, key, d) {
		return
	}
	if l.closed {
		l.stats[statDropped].Add(1)
		return
	}
	select {
	case l.queue <- entry{recordOf(in, d, l.now(), took, l.Labels), m}:
		l.full = false
	default:
		seen.Remove(key) // so that the next one has a record
		l.stats[statDropped].Add(1)
		if !l.full {
			l.full = true
			l.Log.Warn("decisions come faster than they can be written down; the count of those lost is a metric")
		}
	}
}

// place is where it is noted that a decision has its record, and under which key. l.mu is
// held.
func (l *Log) place(in *policy.Input, d *policy.Decision) (seen *lru.Cache[string, time.Time], key string) {
	who := strings.Join([]string{in.Request.Action, in.Request.Namespace, in.Request.Caller, in.Image.Registry, in.Image.Repository, in.Image.Digest}, "\x00")
	if !d.Allow {
		l.allowed.Remove(who) // when it is allowed again, that is news
		if len(d.Violations) > 0 && d.Violations[0].Policy == policy.KillList {
			return l.denied, who + "\x00" + d.Revision // each request of a client has an ID of its own
		}
		return l.denied, d.ID
	}
	return l.allowed, who
}

// spared reports whether a decision gets no record, and counts it then. l.mu is held.
func (l *Log) spared(seen *lru.Cache[string, time.Time], key string, d *policy.Decision) bool {
	life := denialLife
	if d.Allow {
		life = l.AllowEvery
	}
	if at, ok := seen.Get(key); ok && l.now().Sub(at) < life {
		l.stats[statRepeated].Add(1)
		return true
	}
	seen.Add(key, l.now())
	if !d.Allow || rand.Float64() < l.Allows {
		return false
	}
	l.stats[statUnsampled].Add(1)
	return true
}

// run masks and writes what is in the queue until it is closed.
func (l *Log) run(ctx context.Context, out *file) {
	defer close(l.done)
	failing := false
	for e := range l.queue {
		line, err := encode(ctx, &e.record, e.masker)
		if err == nil || line != nil {
			if err != nil {
				l.Log.Error("a decision is written down without what a mask may hide", "error", err)
			}
			err = out.write(line)
		}
		switch {
		case err != nil:
			l.stats[statFailed].Add(1)
			l.stats[statDropped].Add(1)
			if !failing {
				l.Log.Error("decisions can't be written down", "file", l.File, "error", err)
			}
		default:
			l.stats[statWritten].Add(1)
			if failing {
				l.Log.Info("decisions can be written down again", "file", l.File)
			}
		}
		failing = err != nil
		if line != nil && l.Collector != nil {
			l.Collector.add(line)
		}
	}
	if err := out.close(); err != nil {
		l.Log.Error("close the decision log", "file", l.File, "error", err)
	}
}

// Close writes what is left, until ctx ends.
func (l *Log) Close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	defer l.end()
	select {
	case <-l.done:
	case <-ctx.Done(): // a file may be a pipe that nobody reads
		err := fmt.Errorf("the decision log is not written to its end: %w", context.Cause(ctx))
		if l.Collector != nil {
			err = errors.Join(err, l.Collector.close(ctx))
		}
		return err
	}
	if l.Collector != nil {
		return l.Collector.close(ctx)
	}
	return nil
}

// Stats returns the counts.
func (l *Log) Stats() Stats {
	if l == nil {
		return Stats{}
	}
	n := func(i int) int64 { return l.stats[i].Load() }
	return Stats{n(statWritten), n(statRepeated), n(statUnsampled), n(statDropped), n(statFailed)}
}
