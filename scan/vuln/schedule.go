package vuln

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"time"
)

const (
	// watch is how soon a build that another process activates is seen.
	watch = 5 * time.Second
	// retry is the wait after a check that failed; it doubles up to the interval.
	retry = time.Minute
	// spread is over how long those ask that are started together, after an upgrade or
	// a power cut, and have a build to go on with.
	spread = 10 * time.Minute
	// tidying is how often builds that have served are looked for.
	tidying = time.Minute
)

// Run keeps the database fresh until ctx ends, and returns nil then. It asks the
// mirror at once when there is no usable build, and else about every Interval, at a
// time that differs from gateway to gateway; each check costs the mirror its listing.
// A check that fails is tried again after a minute or so, and then ever less often, and
// never sooner than the mirror asked for; the active build stays. Run logs what changes:
// the first of many failures, their end, and, also while a download is under way, the
// build and whether it is usable.
func (d *Databases) Run(ctx context.Context) error {
	d.tidy(ctx)
	_, err := d.Current(ctx)
	f := follower{Databases: d, state: stateOf(err)}
	if r, err := d.active(); err == nil {
		f.seen = r.Checksum
	}
	next := time.NewTimer(d.first(ctx))
	defer next.Stop()
	if d.Offline {
		next.Stop()
	} else if w := d.exposed(); w != "" {
		d.log().WarnContext(ctx, w, "url", d.shown())
	}
	tick, tidy := time.NewTicker(cmp.Or(d.watch, watch)), time.NewTicker(tidying)
	defer tick.Stop()
	defer tidy.Stop()
	var check <-chan error // the one under way
	for {
		select {
		case <-ctx.Done():
			if check != nil {
				<-check
			}
			return nil
		case <-tick.C:
			if f.hurry() && check == nil {
				next.Reset(0)
			}
		case <-tidy.C:
			d.tidy(ctx)
		case <-next.C:
			check = f.begin(ctx)
		case err := <-check:
			check = nil
			next.Reset(f.end(ctx, err))
		}
		f.follow(ctx)
	}
}

// A follower is what Run remembers.
type follower struct {
	*Databases
	seen     string // checksum of the build that was logged last
	state    State
	failures int // checks that failed in a row
	reason   Reason
	since    time.Time // the first of them
	rushed   time.Time // when a check was made out of turn
}

// Hurry has Run, within seconds, look for a newer build that somebody knows of, and once a
// minute at most. While checks fail, they go on as they do.
func (d *Databases) Hurry() { d.hurried.Store(true) }

// hurry reports whether a check is due out of turn.
func (f *follower) hurry() bool {
	if !f.hurried.Swap(false) || f.Offline || f.failures > 0 || f.clock().Sub(f.rushed) < retry {
		return false
	}
	f.rushed = f.clock()
	return true
}

// begin looks for a newer build beside its caller, whom the channel tells how it ended.
func (f *follower) begin(ctx context.Context) <-chan error {
	var progress func(done, total int64)
	if f.state == Missing {
		progress = f.Progress
	}
	done := make(chan error, 1)
	go func() {
		_, changed, err := f.Update(ctx, progress)
		if progress != nil {
			progress(0, -1)
		}
		if err == nil {
			f.log().DebugContext(ctx, "asked for a new vulnerability database", "changed", changed)
		}
		done <- err
	}()
	return done
}

// end takes what became of a check and returns how long to wait for the next one.
func (f *follower) end(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	if err == nil {
		if f.failures > 0 {
			f.log().InfoContext(ctx, "the vulnerability database can be updated again", "failures", f.failures, "since", stamp(f.since))
		}
		f.failures, f.reason = 0, ""
		return f.wait(0, 0)
	}
	f.complain(ctx, err)
	var mirror *failure
	if errors.As(err, &mirror) {
		return f.wait(f.failures, mirror.after)
	}
	return f.wait(f.failures, 0)
}

// complain logs the first of many checks that fail for the same reason: as an error
// where there is nothing to go on with.
func (f *follower) complain(ctx context.Context, err error) {
	level, text := slog.LevelWarn, "no update of the vulnerability database; trying again"
	if _, err := f.Current(ctx); err != nil {
		level, text = slog.LevelError, "no usable vulnerability database yet; trying again, and until then pulls are denied"
	}
	if f.failures++; f.failures == 1 {
		f.since = f.clock()
	} else if f.reason == reasonOf(err) {
		level = slog.LevelDebug
	}
	f.reason = reasonOf(err)
	f.log().Log(ctx, level, text, "reason", f.reason, "failures", f.failures, "error", err)
}

// follow logs when the state changes, and when another build has become active, whichever
// process did that.
func (f *follower) follow(ctx context.Context) {
	db, err := f.Current(ctx)
	if ctx.Err() != nil {
		return
	}
	before := f.state
	f.state = stateOf(err)
	switch {
	case f.state == before:
	case f.state == Stale:
		f.log().ErrorContext(ctx, "the vulnerability database is too old: pulls are denied", "error", err)
	case f.state == Missing:
		f.log().ErrorContext(ctx, "the vulnerability database can't be used: pulls are denied", "error", err)
	default:
		f.log().InfoContext(ctx, "the vulnerability database is usable", "built", stamp(db.Built))
	}
	if f.state == Missing || db.Checksum == f.seen {
		return
	}
	f.seen = db.Checksum
	f.log().InfoContext(ctx, "vulnerability database", "built", stamp(db.Built), "checksum", db.Checksum)
}

// first returns how long to wait before the first check.
func (d *Databases) first(ctx context.Context) time.Duration {
	if _, err := d.Current(ctx); err != nil {
		return 0
	}
	c := d.LastCheck()
	since := d.clock().Sub(c.Time)
	if c.Error == "" && since >= 0 && since < d.interval() {
		return d.interval() - since
	}
	return time.Duration(d.chance() * float64(min(spread, d.interval()/4)))
}

// wait returns how long to wait for the next check after some failures in a row, and at
// least for so long.
func (d *Databases) wait(failures int, after time.Duration) time.Duration {
	w := d.interval()
	if failures == 0 {
		return w + time.Duration((d.chance()-0.5)*0.2*float64(w))
	}
	// Those that one outage has hit don't come back together.
	w = min(w, retry<<min(failures-1, 20))
	w = w/2 + time.Duration(d.chance()*float64(w))
	if after = min(after, d.interval()); w < after {
		w = after + time.Duration(d.chance()*0.1*float64(after))
	}
	return w
}
