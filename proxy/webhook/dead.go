package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy"
)

// All is what Retry takes for all dead letters.
const All = "all"

// A DeadLetter is an event that a hook did not take.
type DeadLetter struct {
	Hook    string      `json:"hook"` // its name
	GivenUp time.Time   `json:"given_up"`
	Error   string      `json:"error"` // of the last try
	Event   proxy.Event `json:"event"`
}

// Dead returns what the hooks did not take and what is kept for 30 days, newest first, up
// to 1,000 of each hook.
func (s *Sender) Dead(ctx context.Context) ([]DeadLetter, error) {
	ctx = cache.Direct(ctx)
	out := []DeadLetter{}
	for i := range s.Hooks {
		letters, err := s.letters(ctx, &s.Hooks[i])
		if err != nil {
			return nil, err
		}
		for _, l := range letters {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b DeadLetter) int {
		return cmp.Or(b.GivenUp.Compare(a.GivenUp), b.Event.Time.Compare(a.Event.Time), cmp.Compare(a.Event.ID, b.Event.ID))
	})
	return out, nil
}

// Retry has the dead letters of that event, or All, sent again by whichever gateway serves
// their hooks, within a minute, and returns how many there are.
func (s *Sender) Retry(ctx context.Context, id string) (n int, err error) {
	ctx = cache.Direct(ctx)
	for i := range s.Hooks {
		h := &s.Hooks[i]
		letters, err := s.letters(ctx, h)
		if err != nil {
			return n, err
		}
		for event, letter := range letters {
			if id != All && id != event {
				continue
			}
			b, err := json.Marshal(again{letter.Event, time.Now().UTC()})
			if err == nil {
				err = s.Store.PutField(ctx, cache.Name(kindAgain, h.id()), event, b, deadFor)
			}
			if err == nil { // last: what is in both is sent, and then in neither
				err = s.Store.DeleteField(ctx, cache.Name(kindDead, h.id()), event)
			}
			if err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// letters returns what a hook did not take, by the events' ids.
func (s *Sender) letters(ctx context.Context, h *Hook) (map[string]DeadLetter, error) {
	fields, err := s.Store.Fields(ctx, cache.Name(kindDead, h.id()))
	if err != nil {
		return nil, err
	}
	out := map[string]DeadLetter{}
	for id, b := range fields {
		var d DeadLetter
		if json.Unmarshal(b, &d) == nil && time.Since(d.GivenUp) <= deadFor {
			d.Hook = h.Name()
			out[id] = d
		}
	}
	return out, nil
}

// bury puts events on the list of dead letters. They are settled.
func (l *line) bury(ctx context.Context, over []item, cause error, now time.Time) error {
	for _, it := range over {
		b, err := json.Marshal(DeadLetter{GivenUp: now, Error: cause.Error(), Event: it.Event})
		if err == nil {
			err = l.Store.PutField(ctx, l.key(kindDead), it.ID, b, deadFor)
		}
		if err == nil {
			err = l.settle(ctx, it)
		}
		if err != nil {
			return err
		}
		l.Metrics.deliveries.WithLabelValues(l.name, "given_up").Inc()
	}
	l.Log.Error("events are given up that a webhook did not take; `sluice events dead` lists them, and `sluice events retry` sends them again", "hook", l.name, "events", len(over), "error", cause)
	if err := l.prune(ctx); err != nil {
		return err
	}
	return l.countDead(ctx)
}

// prune removes dead letters that are too old, and the oldest where there are too many.
func (l *line) prune(ctx context.Context) error {
	fields, err := l.Store.Fields(ctx, l.key(kindDead))
	if err != nil {
		return err
	}
	letters, err := l.letters(ctx, l.hook)
	if err != nil {
		return err
	}
	ids := make([]string, 0, len(fields))
	for id := range fields {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { // those that are no letters any more first
		return cmp.Or(letters[a].GivenUp.Compare(letters[b].GivenUp), letters[a].Event.Time.Compare(letters[b].Event.Time))
	})
	for i, id := range ids {
		_, good := letters[id]
		if good && len(ids)-i <= maxDead {
			break
		}
		if err := l.Store.DeleteField(ctx, l.key(kindDead), id); err != nil {
			return err
		}
		if good {
			l.Metrics.deliveries.WithLabelValues(l.name, "lost").Inc()
		}
	}
	return nil
}

// countDead measures the dead letters.
func (l *line) countDead(ctx context.Context) error {
	letters, err := l.letters(ctx, l.hook)
	if err != nil {
		return err
	}
	l.Metrics.dead.WithLabelValues(l.name).Set(float64(len(letters)))
	return nil
}
