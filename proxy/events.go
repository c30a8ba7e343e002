package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// What the Store has of events.
const (
	kindEvents cache.Kind = "events" // hour → id → Event
	kindRaised cache.Kind = "raised" // id → when, so that nothing is told twice
)

const (
	eventsFor     = 30 * 24 * time.Hour // how long events can be asked for
	maxHourEvents = 1000                // of one gateway: past it they are only logged and counted
	maxListed     = 1000                // in one answer, the first
)

// VerdictChanged is the type of an Event about an image that turned from allowed to
// denied, or back, by a new vulnerability database.
const VerdictChanged = "verdict.changed"

// EventsOmitted is the type of an Event that stands for all others of its hour which are
// not kept. The log and the metrics have them.
const EventsOmitted = "events.omitted"

// An Event is something that happened to an image without anybody asking for it. Its JSON
// is stable: fields may be added, never renamed.
type Event struct {
	ID       string    `json:"id"` // the same for the same event, whichever replica raised it
	Time     time.Time `json:"time"`
	Type     string    `json:"type"`
	Image    Subject   `json:"image"`
	Before   Opinion   `json:"before"`
	After    Opinion   `json:"after"`
	LastPull Puller    `json:"last_pull"`

	// Advisories are what made the difference: new in, gone from or changed in the
	// findings that deny the image on one of both sides. Worst first, at most 100, never
	// null in JSON. None: it was no advisory, see the opinions' causes.
	Advisories []Advisory `json:"advisories"`
}

// A Subject is the image of an Event.
type Subject struct {
	Reference  string   `json:"reference"` // with its digest
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Platform   string   `json:"platform,omitempty"`
	Tags       []string `json:"tags"` // never null in JSON
}

// An Opinion is how an image is decided by one build of the vulnerability database, for
// who pulled it last and under today's policies.
type Opinion struct {
	Allow      bool               `json:"allow"`
	Mode       policy.Mode        `json:"mode"`            // only in enforce does a denial block
	Cause      scan.Cause         `json:"cause,omitempty"` // why its verdict is not complete
	Database   *scan.Database     `json:"database,omitempty"`
	Violations []policy.Violation `json:"violations"` // never null in JSON
}

// blocks reports whether a pull is refused by it.
func (o Opinion) blocks() bool { return !o.Allow && o.Mode == policy.Enforce }

// allowed reports whether the event is one for the better: nothing, or nothing that
// blocks, is held against the image any more.
func (e *Event) allowed() bool { return e.After.Allow || e.Before.blocks() && !e.After.blocks() }

// A Puller is who asked for an image last, to about ten minutes.
type Puller struct {
	Caller string    `json:"caller"` // empty: anonymous
	Time   time.Time `json:"time"`
}

// An Advisory is one that counts in an Event.
type Advisory struct {
	ID       string   `json:"id"`
	Package  string   `json:"package"`
	Version  string   `json:"version"`
	Severity string   `json:"severity"`
	Fixed    []string `json:"fixed"`  // versions, never null in JSON
	Change   string   `json:"change"` // new, gone, changed
}

// eventID names an event by what it is about.
func eventID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:12])
}

func hourKey(t time.Time) cache.Key {
	return cache.Name(kindEvents, t.UTC().Format("2006-01-02T15"))
}

// room returns the event to keep in place of e: e itself, one that says that others are
// omitted, or none where that was said.
func (g *Gateway) room(e *Event) *Event {
	g.mu.Lock()
	defer g.mu.Unlock()
	if hour := e.Time.Truncate(time.Hour); !g.told.hour.Equal(hour) {
		g.told.hour, g.told.n = hour, 0
	}
	switch g.told.n++; {
	case g.told.n <= maxHourEvents:
		return e
	case g.told.n == maxHourEvents+1:
		return &Event{ID: eventID(EventsOmitted, e.ID), Time: e.Time, Type: EventsOmitted, Image: Subject{Tags: []string{}},
			Before: Opinion{Violations: []policy.Violation{}}, After: Opinion{Violations: []policy.Violation{}}, Advisories: []Advisory{}}
	}
	return nil
}

// raise keeps an event, and reports whether it is news: no replica has raised it before.
func (g *Gateway) raise(ctx context.Context, e *Event) (news bool, err error) {
	if kept := g.room(e); kept != nil { // before it is marked as raised, so that a crash in between tells it twice, not never
		b, err := json.Marshal(kept)
		if err != nil {
			return false, err
		}
		if err := g.Store.PutField(ctx, hourKey(e.Time), kept.ID, b, eventsFor); err != nil {
			return false, err
		}
	}
	at, err := e.Time.MarshalText()
	if err != nil {
		return false, err
	}
	first, err := g.Store.PutNew(ctx, cache.Name(kindRaised, e.ID), at, eventsFor)
	return err == nil && string(first) == string(at), err
}

// raised reports whether an event was raised before.
func (g *Gateway) raised(ctx context.Context, id string) (bool, error) {
	_, err := g.Store.Get(ctx, cache.Name(kindRaised, id))
	if errors.Is(err, cache.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Events returns the events after a time, of all replicas, oldest first; not more than
// 1,000 of them: whoever gets so many asks again from the last one's time.
func (g *Gateway) Events(ctx context.Context, since time.Time) ([]Event, error) {
	now := g.now()
	if oldest := now.Add(-eventsFor); since.Before(oldest) {
		since = oldest
	}
	out := []Event{}
	for hour := since.UTC().Truncate(time.Hour); !hour.After(now) && len(out) < maxListed; hour = hour.Add(time.Hour) {
		key := hourKey(hour)
		fields, err := g.Store.Fields(ctx, key)
		if err != nil {
			return nil, storeDown(err)
		}
		for _, b := range fields {
			var e Event
			if err := json.Unmarshal(b, &e); err != nil {
				g.damaged(key, err)
				continue
			}
			if e.Time.After(since) {
				out = append(out, e)
			}
		}
	}
	slices.SortFunc(out, func(a, b Event) int {
		if c := a.Time.Compare(b.Time); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out[:min(len(out), maxListed)], nil
}
