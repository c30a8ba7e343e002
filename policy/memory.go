package policy

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"strconv"
	"sync"
	"time"

	"github.com/sluicegate/sluice/scan"
)

const (
	// maxAge is how long a decision may be remembered. What ends to the second (a waiver,
	// a grace period: see nextHour) ends it earlier.
	maxAge = 60 * time.Second
	// maxCost bounds what is remembered, in decisions and the findings and waivers
	// that they name: some 30 MB at most.
	maxCost = 1 << 18
)

// A key names a decision by everything that it is made from.
type key [sha256.Size]byte

// keyOf hashes what a decision is made from: the image, the verdict, the class of
// caller, policies and waivers. Of findings it covers every field: a verdict's identity would
// do as long as nobody ever builds two of one identity; a wrong hit here would let an image
// pass. Only two things are left out: the time, which bounds
// how long a decision is remembered, and when the image was last allowed, which each
// pull changes.
func keyOf(s *snapshot, in *Input) key {
	small := *in
	small.Findings, small.Packages, small.Now, small.History.LastAllowed = nil, nil, time.Time{}, ""
	b, err := json.Marshal(small)
	if err != nil { // no value of these types makes Marshal fail
		b = []byte(err.Error())
	}
	b = append(b, 0)
	b = append(b, s.revision...)
	b = append(b, 0)
	b = strconv.AppendUint(b, in.Sum.Of(in.Findings), 16)
	b = append(b, 0)
	b = strconv.AppendUint(b, scan.SumPackages(in.Packages), 16)
	return sha256.Sum256(b)
}

// nextHour is when next a whole number of hours will have passed since a time or a date in
// an input, and at the latest at the next whole minute: grace periods of hours and days
// end then, and so does what people write down as a time.
func nextHour(in *Input) time.Time {
	next := in.Now.Truncate(time.Minute).Add(time.Minute) // of dates, and of what is in whole hours and minutes
	since := func(t time.Time) {
		if t.IsZero() {
			return
		}
		if due := in.Now.Add(time.Hour - in.Now.Sub(t)%time.Hour); t.Before(in.Now) && due.Before(next) {
			next = due
		} else if due := in.Now.Add(t.Sub(in.Now) % time.Hour); t.After(in.Now) && due.After(in.Now) && due.Before(next) {
			next = due
		}
	}
	text := func(s string) {
		if t, err := time.Parse(time.RFC3339, s); err == nil {
			since(t)
		}
	}
	for _, s := range [...]string{in.Image.Created, in.History.FirstSeen, in.Image.Annotations[createdKey]} {
		text(s)
	}
	since(in.Scan.ScannedAt)
	if in.Scan.Database != nil {
		since(in.Scan.Database.Built)
	}
	for i := range in.Image.Signatures {
		text(in.Image.Signatures[i].Time)
	}
	for i := range in.Image.Attestations {
		text(in.Image.Attestations[i].Time)
	}
	return next
}

// A memory holds the decisions used last.
type memory struct {
	mu    sync.Mutex // guards all below; cost is the sum of the entries' costs and at most maxCost
	byKey map[key]*list.Element
	used  *list.List // of *remembered, the one used last in front
	cost  int
}

type remembered struct {
	key         key
	d           Decision
	from, until time.Time
	cost        int
}

func newMemory() *memory {
	return &memory{byKey: map[key]*list.Element{}, used: list.New()}
}

// get returns the decision that holds at now. A decision made at a later time, as
// when an old one is replayed, doesn't.
func (m *memory) get(k key, now time.Time) (Decision, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byKey[k]
	if !ok {
		return Decision{}, false
	}
	r := e.Value.(*remembered)
	if now.Before(r.from) || !now.Before(r.until) {
		return Decision{}, false
	}
	m.used.MoveToFront(e)
	return r.d, true
}

func (m *memory) put(k key, d Decision, from, until time.Time) {
	cost := 1 + len(d.Waived)
	for _, vs := range [][]Violation{d.Violations, d.Warnings} {
		for _, v := range vs {
			cost += 1 + len(v.Findings)
		}
	}
	if cost > maxCost/8 || !from.Before(until) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byKey[k]; ok {
		m.drop(e)
	}
	m.byKey[k] = m.used.PushFront(&remembered{k, d, from, until, cost})
	m.cost += cost
	for m.cost > maxCost {
		m.drop(m.used.Back())
	}
}

// drop is called with mu held.
func (m *memory) drop(e *list.Element) {
	r := m.used.Remove(e).(*remembered)
	delete(m.byKey, r.key)
	m.cost -= r.cost
}
