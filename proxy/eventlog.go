package proxy

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
)

// What the Store has of events.
const (
	kindEvents cache.Kind = "events" // hour → id → Event
	kindRaised cache.Kind = "raised" // id → when, so that nothing is told twice
	kindSource cache.Kind = "source" // what CloudEvents say they are from
)

const (
	eventsFor     = 30 * 24 * time.Hour // how long events can be asked for
	maxHourEvents = 1000                // of one type, by one gateway: past it they are only logged and counted
	maxHourPulls  = 300                 // the same of types that come of pulls, which strangers make

	// MaxEvents is how many events one answer has at most, the first.
	MaxEvents = 1000
)

// An EventLog reads the events in a Store.
type EventLog struct {
	Store cache.Store
	Log   *slog.Logger     // told of damaged records
	Now   func() time.Time // nil: time.Now
}

// Events returns the events after a time, of all replicas, oldest first; not more than
// MaxEvents of them: whoever gets so many asks again from the last one's time.
func (l *EventLog) Events(ctx context.Context, since time.Time) ([]Event, error) {
	now := time.Now()
	if l.Now != nil {
		now = l.Now()
	}
	if oldest := now.Add(-eventsFor); since.Before(oldest) {
		since = oldest
	}
	out := []Event{}
	for hour := since.UTC().Truncate(time.Hour); !hour.After(now) && len(out) < MaxEvents; hour = hour.Add(time.Hour) {
		key := hourKey(hour)
		fields, err := l.Store.Fields(ctx, key)
		if err != nil {
			return nil, storeDown(err)
		}
		for _, b := range fields {
			var e Event
			if err := json.Unmarshal(b, &e); err != nil {
				l.Log.Warn("a stored event can't be read", "key", fmt.Sprintf("%q", key), "error", err)
				continue
			}
			if e.Time.After(since) {
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, func(a, b Event) int {
		return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.ID, b.ID))
	})
	return out[:min(len(out), MaxEvents)], nil
}

// Source returns what CloudEvents of this Store name as their source: a URN that is made
// once, so that all who share the Store have the same and no others do.
func (l *EventLog) Source(ctx context.Context) (string, error) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	urn, err := l.Store.PutNew(ctx, cache.Name(kindSource), fmt.Appendf(nil, "urn:uuid:%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), 0)
	if err != nil {
		return "", storeDown(err)
	}
	return string(urn), nil
}

func (g *Gateway) eventLog() *EventLog { return &EventLog{Store: g.Store, Log: g.Log, Now: g.now} }

// Events is that of the EventLog of g's Store.
func (g *Gateway) Events(ctx context.Context, since time.Time) ([]Event, error) {
	return g.eventLog().Events(ctx, since)
}

// Source is that of the EventLog of g's Store.
func (g *Gateway) Source(ctx context.Context) (string, error) { return g.eventLog().Source(ctx) }

// eventID names an event by what it is about.
func eventID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:12])
}

func hourKey(t time.Time) cache.Key {
	return cache.Name(kindEvents, t.UTC().Format("2006-01-02T15"))
}

// room returns the event to keep in place of e: e itself, one that says that others of its
// type are omitted, or none where that was said.
func (g *Gateway) room(e *Event) *Event {
	most := maxHourEvents
	if e.Type == VerdictNew || e.Type == PullDenied {
		most = maxHourPulls
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if hour := e.Time.Truncate(time.Hour); !g.told.hour.Equal(hour) {
		g.told.hour, g.told.n = hour, map[string]int{}
	}
	g.told.n[e.Type]++
	switch n := g.told.n[e.Type]; {
	case n <= most:
		return e
	case n == most+1:
		return &Event{ID: eventID(EventsOmitted, e.ID), Time: e.Time, Type: EventsOmitted,
			Image: Subject{Tags: []string{}}, Before: Opinion{Violations: []policy.Violation{}}, After: Opinion{Violations: []policy.Violation{}}, Advisories: []Advisory{}, // as it always was
			Details: Details{Type: e.Type, Message: fmt.Sprintf("more than %d events of type %s in an hour; the others are only logged and counted", most, e.Type)}}
	}
	return nil
}

// raise keeps an event, and reports whether it is news: no replica has raised it before.
func (g *Gateway) raise(ctx context.Context, e *Event) (news bool, err error) {
	if err := g.keepEvent(ctx, e); err != nil { // before it is marked as raised, so that a crash in between tells it twice, not never
		return false, err
	}
	at, err := e.Time.MarshalText()
	if err != nil {
		return false, err
	}
	first, err := g.Store.PutNew(ctx, cache.Name(kindRaised, e.ID), at, eventsFor)
	return err == nil && string(first) == string(at), err
}

// keepEvent writes an event down, where there is room for it.
func (g *Gateway) keepEvent(ctx context.Context, e *Event) error {
	kept := g.room(e)
	if kept == nil {
		return nil
	}
	b, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	return g.Store.PutField(ctx, hourKey(e.Time), kept.ID, b, eventsFor)
}

// raised reports whether an event was raised before.
func (g *Gateway) raised(ctx context.Context, id string) (bool, error) {
	_, err := g.Store.Get(ctx, cache.Name(kindRaised, id))
	if errors.Is(err, cache.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
