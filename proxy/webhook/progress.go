package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy"
)

// What the Store has of hooks.
const (
	kindHook  cache.Kind = "hook"  // id → progress
	kindDead  cache.Kind = "dead"  // id → event's id → DeadLetter
	kindAgain cache.Kind = "again" // id → event's id → again
)

const (
	hookFor    = 60 * 24 * time.Hour // how long a hook that nobody has any more is remembered
	deadFor    = 30 * 24 * time.Hour
	maxDead    = 1000 // of one hook; then the oldest are lost
	maxBacklog = proxy.MaxEvents
	maxPages   = 8
	maxRefused = 5 // tries of an event that the receiver refuses as itself

	// overlap is how far behind the last event that was sent another gateway's may still
	// appear: their clocks differ, and so does when they write.
	overlap = time.Minute
	// restEvery is how often the Store is told that there was nothing to send.
	restEvery = 10 * time.Minute
)

// progress is where a line is.
type progress struct {
	Since   time.Time            `json:"since"`             // of the last event that was settled, or when there was none left
	Settled map[string]time.Time `json:"settled,omitempty"` // those not long before Since, by id
	Failing time.Time            `json:"failing,omitzero"`  // since when nothing got through
	Tries   int                  `json:"tries,omitempty"`   // that failed, in a row
	Next    time.Time            `json:"next,omitzero"`     // no try before that
	Head    string               `json:"head,omitempty"`    // what was tried last
	Refused int                  `json:"refused,omitempty"` // tries of it that were refused
}

// An item is an event that waits.
type item struct {
	proxy.Event
	from  time.Time // counts from when it waits
	again bool      // somebody asked for it to be sent again
}

// again is what is stored of an event to be sent again.
type again struct {
	Event proxy.Event `json:"event"`
	Asked time.Time   `json:"asked"`
}

// load reads where the line is. A new one begins with what was raised in the last minute.
func (l *line) load(ctx context.Context) error {
	fresh := progress{Since: time.Now().UTC()}
	b, err := json.Marshal(fresh)
	if err != nil {
		return err
	}
	if b, err = l.Store.PutNew(ctx, l.key(kindHook), b, hookFor); err != nil {
		return err
	}
	l.stored, l.at = b, progress{}
	if err := json.Unmarshal(b, &l.at); err != nil {
		l.Log.Error("where a webhook was is damaged in the store; it goes on from now", "hook", l.name, "error", err)
		l.at = fresh
	}
	if l.at.Settled == nil {
		l.at.Settled = map[string]time.Time{}
	}
	l.storedS = l.at.Since
	return nil
}

func (l *line) key(k cache.Kind) cache.Key { return cache.Name(k, l.id) }

// save writes down where the line is. It fails where another gateway has written since.
func (l *line) save(ctx context.Context) error {
	for id, at := range l.at.Settled {
		if at.Before(l.at.Since.Add(-2 * overlap)) { // twice: an event that two gateways raise at once has two times
			delete(l.at.Settled, id)
		}
	}
	b, err := json.Marshal(l.at)
	if err != nil {
		return err
	}
	kept, err := l.Store.PutIf(ctx, l.key(kindHook), l.stored, b, hookFor)
	if err != nil {
		return err
	}
	if !kept {
		return fmt.Errorf("hook %s: %w", l.name, cache.ErrLost)
	}
	l.stored, l.storedS = b, l.at.Since
	return nil
}

// waiting returns what is to be sent, in order, and of when that is.
func (l *line) waiting(ctx context.Context) (out []item, asked time.Time, err error) {
	if out, err = l.repeats(ctx); err != nil {
		return nil, asked, err
	}
	asked = time.Now().UTC()
	from := l.at.Since.Add(-overlap)
	for range maxPages {
		es, err := l.Events.Events(ctx, from)
		if err != nil {
			return nil, asked, err
		}
		for _, e := range es {
			if _, settled := l.at.Settled[e.ID]; !settled && l.hook.wants(e.Type) {
				out = append(out, item{Event: e, from: e.Time})
			}
		}
		if len(es) < proxy.MaxEvents {
			return out[:min(len(out), maxBacklog)], asked, nil
		}
		asked = es[len(es)-1].Time // there may be more
		from = asked
		if len(out) >= maxBacklog {
			break
		}
	}
	return out[:min(len(out), maxBacklog)], asked, nil
}

// repeats returns what was given up and is to be sent again.
func (l *line) repeats(ctx context.Context) (out []item, err error) {
	fields, err := l.Store.Fields(ctx, l.key(kindAgain))
	if err != nil {
		return nil, err
	}
	for id, b := range fields {
		var a again
		if err := json.Unmarshal(b, &a); err != nil {
			l.Log.Warn("an event that is to be sent again can't be read", "hook", l.name, "error", err)
			if err := l.Store.DeleteField(ctx, l.key(kindAgain), id); err != nil {
				return nil, err
			}
			continue
		}
		out = append(out, item{a.Event, a.Asked, true})
	}
	slices.SortFunc(out, func(a, b item) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}

// rest notes that all there was at a time is sent.
func (l *line) rest(ctx context.Context, at time.Time) error {
	if at.After(l.at.Since) {
		l.at.Since = at
	}
	if l.at.Since.Sub(l.storedS) < restEvery {
		return nil
	}
	return l.save(ctx)
}

// delivered notes that an event was taken.
func (l *line) delivered(ctx context.Context, it item) error {
	l.at.Failing, l.at.Tries, l.at.Next, l.at.Head, l.at.Refused = time.Time{}, 0, time.Time{}, "", 0
	if err := l.settle(ctx, it); err != nil {
		return err
	}
	if it.again {
		if err := l.Store.DeleteField(ctx, l.key(kindDead), it.ID); err != nil { // where it was left behind
			return err
		}
		if err := l.countDead(ctx); err != nil {
			return err
		}
	}
	return l.save(ctx)
}

// settle notes that nothing is left to do about an event.
func (l *line) settle(ctx context.Context, it item) error {
	if it.again {
		return l.Store.DeleteField(ctx, l.key(kindAgain), it.ID)
	}
	l.at.Settled[it.ID] = it.Time
	if it.Time.After(l.at.Since) {
		l.at.Since = it.Time
	}
	return nil
}

// failed notes that the first of waiting was not taken, gives up what has waited too long,
// and says when to try again.
func (l *line) failed(ctx context.Context, waiting []item, cause error) error {
	now := time.Now().UTC()
	l.tell("a webhook can't be delivered; it is tried again", cause)
	if l.at.Failing.IsZero() {
		l.at.Failing = now
	}
	l.at.Tries++
	pause := l.pace.backoff(l.at.Tries)
	if e := (*answerError)(nil); errors.As(cause, &e) {
		pause = max(pause, min(e.after, l.pace.GiveUp))
	}
	l.at.Next = now.Add(pause)
	head := waiting[0]
	if l.at.Head != head.ID {
		l.at.Head, l.at.Refused = head.ID, 0
	}
	if refuses(cause) {
		l.at.Refused++
	}
	var over []item
	for i, it := range waiting {
		since := l.at.Failing
		if it.from.After(since) {
			since = it.from
		}
		switch {
		case i == 0 && l.at.Refused >= maxRefused: // the receiver is well, and the next is another event
			over = append(over, it)
			l.at.Failing, l.at.Tries, l.at.Next = time.Time{}, 0, now
		case now.Sub(since) >= l.pace.GiveUp && !l.at.Failing.IsZero():
			over = append(over, it)
		}
	}
	if len(over) > 0 {
		l.at.Head, l.at.Refused = "", 0
		if err := l.bury(ctx, over, cause, now); err != nil {
			return err
		}
	}
	return l.save(ctx)
}
