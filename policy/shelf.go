package policy

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/cache"
)

const (
	kindWaivers   cache.Kind = "waivers"   // → id → Waiver
	kindWaiverRev cache.Kind = "waiversat" // → random, new at each change of the waivers
)

func waiversKey() cache.Key   { return cache.Name(kindWaivers, "all") }
func waiverRevKey() cache.Key { return cache.Name(kindWaiverRev, "all") }

// A WaiverError says why waivers were not changed.
type WaiverError struct {
	Kind    WaiverErrorKind
	Message string
}

func (e *WaiverError) Error() string { return e.Message }

// A WaiverErrorKind tells apart whose fault it is.
type WaiverErrorKind string

const (
	WaiverInvalid WaiverErrorKind = "invalid" // something in the waiver is wrong
	WaiverTaken   WaiverErrorKind = "taken"   // another has its ID, or stands in the file
	WaiverUnknown WaiverErrorKind = "unknown" // there is none of that ID
)

func waiverError(kind WaiverErrorKind, format string, args ...any) error {
	return &WaiverError{kind, fmt.Sprintf(format, args...)}
}

// Where a waiver stands.
const (
	FromFile  = "file"
	FromStore = "store"
)

// States of a waiver.
const (
	WaiverActive   = "active"
	WaiverExpiring = "expiring" // ends within 7 days
	WaiverExpired  = "expired"
)

// A WaiverStatus is a waiver and how it stands.
type WaiverStatus struct {
	Waiver
	Source string    `json:"source"` // file, store
	State  string    `json:"state"`  // active, expiring, expired
	Ends   time.Time `json:"ends"`   // at this instant it is over

	Warning string `json:"warning,omitempty"` // why it sets nothing aside now, where that is known
}

func (w *Waiver) statusAt(now time.Time) WaiverStatus {
	s := WaiverStatus{Waiver: *w, Source: FromFile, State: WaiverActive, Ends: w.until}
	if w.stored {
		s.Source = FromStore
	}
	switch {
	case !now.Before(w.until):
		s.State = WaiverExpired
	case w.until.Sub(now) < expiringSoon:
		s.State = WaiverExpiring
	}
	return s
}

// Waivers returns all waivers that the engine knows, those that end first in front.
func (e *Engine) Waivers() []WaiverStatus {
	return statusOf(e.snapshot().waivers.all, e.c.Now())
}

// FileWaivers returns the waivers of the waiver file.
func (e *Engine) FileWaivers() []Waiver { return e.current.Load().waivers.all }

func statusOf(ws []Waiver, now time.Time) []WaiverStatus {
	all := make([]WaiverStatus, 0, len(ws))
	for i := range ws {
		all = append(all, ws[i].statusAt(now))
	}
	slices.SortStableFunc(all, func(a, b WaiverStatus) int {
		return cmp.Or(a.Ends.Compare(b.Ends), strings.Compare(a.ID, b.ID))
	})
	return all
}

// ReadWaivers reads a waiver file; no name, no waivers.
func ReadWaivers(name string) ([]Waiver, error) {
	if name == "" {
		return nil, nil
	}
	data, err := readBounded(name, maxWaiverFile)
	if err != nil {
		return nil, err
	}
	set, err := parseWaivers(name, data)
	if err != nil {
		return nil, err
	}
	return set.all, nil
}

// List returns the waivers of the Store as it is now, and those of the file.
func (x *Exceptions) List(ctx context.Context) ([]WaiverStatus, error) {
	filed, err := x.filed()
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.look(ctx, true); x.storeErr != nil {
		return nil, x.storeErr
	}
	x.publish()
	all := statusOf(slices.Concat(filed, x.waivers), x.Now())
	for i := range all {
		all[i].Warning = x.warning(&all[i].Waiver)
	}
	return all, ctx.Err()
}

func (x *Exceptions) warning(w *Waiver) string {
	if x.Warn == nil {
		return ""
	}
	return x.Warn(w)
}

func (x *Exceptions) filed() ([]Waiver, error) {
	if x.Filed == nil {
		return nil, nil
	}
	return x.Filed()
}

// Add keeps a waiver in the Store. Expires may also be a duration from now: 30d, 12h. One
// without an ID gets one. It holds for decisions here once Add returns, and for those of
// others that share the Store within a second. An error is a *WaiverError where the waiver
// is to blame. Of two that add one ID at the same moment, the later wins.
func (x *Exceptions) Add(ctx context.Context, w Waiver) (WaiverStatus, error) {
	if w.ID == "" {
		w.ID = "w-" + strings.ToLower(rand.Text()[:10])
	}
	now := x.Now()
	w.stored, w.Created = true, now.UTC().Truncate(time.Second).Format(time.RFC3339)
	if err := w.fromNow(now); err != nil {
		return WaiverStatus{}, waiverError(WaiverInvalid, "%v", err)
	}
	if err := w.check(); err != nil {
		return WaiverStatus{}, waiverError(WaiverInvalid, "waiver %s: %v", clip(w.ID, 100), err)
	}
	if !now.Before(w.until) {
		return WaiverStatus{}, waiverError(WaiverInvalid, "waiver %s: expires %s is in the past; set one that is to come", clip(w.ID, 100), w.Expires)
	}
	if latest := now.Add(x.MaxLife); x.MaxLife > 0 && w.until.After(latest) {
		return WaiverStatus{}, waiverError(WaiverInvalid, "waiver %s: expires %s is too late: here one may last until %s", clip(w.ID, 100), w.Expires, latest.UTC().Format(time.RFC3339))
	}
	all, err := x.List(ctx)
	if err != nil {
		return WaiverStatus{}, err
	}
	if len(all) >= maxWaivers {
		return WaiverStatus{}, waiverError(WaiverTaken, "%d waivers are kept already, the most there can be; remove those that have expired", len(all))
	}
	for _, other := range all {
		switch {
		case other.ID == w.ID && other.Source == FromFile:
			return WaiverStatus{}, waiverError(WaiverTaken, "waiver %s stands in the waiver file; change it there, or choose another id", clip(w.ID, 100))
		case other.ID == w.ID:
			return WaiverStatus{}, waiverError(WaiverTaken, "waiver %s is there already; remove it first, or choose another id", clip(w.ID, 100))
		}
	}
	value, err := json.Marshal(w)
	if err != nil {
		return WaiverStatus{}, err
	}
	if err := x.change(ctx, func() error { return x.Store.PutField(ctx, waiversKey(), w.ID, value, 0) }); err != nil {
		return WaiverStatus{}, err
	}
	s := w.statusAt(now)
	s.Warning = x.warning(&w)
	return s, x.Audit.Write(ctx, "waiver.add", w.ID, fmt.Sprintf("%v, owner %s, until %s: %s", w.Scope, w.Owner, s.Ends.UTC().Format(time.RFC3339), w.Reason))
}

// Remove ends a waiver of the Store, also one that can't be read, as quickly as Add has one
// begin. That there is none of
// that ID, or that it stands in the file, is a *WaiverError.
func (x *Exceptions) Remove(ctx context.Context, id string) error {
	stored, err := x.Store.Fields(ctx, waiversKey())
	if err != nil {
		return err
	}
	if _, ok := stored[id]; !ok {
		filed, err := x.filed()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(filed, func(w Waiver) bool { return w.ID == id }) {
			return waiverError(WaiverTaken, "waiver %s stands in the waiver file; remove it there", clip(id, 100))
		}
		return waiverError(WaiverUnknown, "there is no waiver %s", quote(id))
	}
	if err := x.change(ctx, func() error { return x.Store.DeleteField(ctx, waiversKey(), id) }); err != nil {
		return err
	}
	return x.Audit.Write(ctx, "waiver.remove", id, "")
}

// change writes to the Store and takes what is there then.
func (x *Exceptions) change(ctx context.Context, write func() error) error {
	if err := write(); err != nil {
		return err
	}
	if err := TellWaivers(ctx, x.Store); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.look(ctx, true)
	x.publish()
	return x.storeErr
}

// TellWaivers has all who share a Store look at its waivers again.
func TellWaivers(ctx context.Context, s cache.Store) error {
	return s.Put(ctx, waiverRevKey(), []byte(rand.Text()), 0)
}

// storedRevision returns what changes when waivers do, "" where there never was one.
func storedRevision(ctx context.Context, s cache.Store) (string, error) {
	b, err := s.Get(ctx, waiverRevKey())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// storedWaivers returns the waivers of a Store in the order of their IDs. Those that can't
// be read are left out, and told of by damaged.
func storedWaivers(ctx context.Context, s cache.Store) (ws []Waiver, damaged, err error) {
	fields, err := s.Fields(ctx, waiversKey())
	if err != nil {
		return nil, nil, err
	}
	for id, value := range fields {
		w := Waiver{}
		err := json.Unmarshal(value, &w)
		if err == nil {
			err = w.check()
		}
		if err == nil && w.ID != id {
			err = errors.New("it has another id")
		}
		if err != nil {
			damaged = fmt.Errorf("waiver %s in the store: %w; remove it", clip(id, 100), err)
			continue
		}
		w.stored = true
		ws = append(ws, w)
	}
	slices.SortFunc(ws, func(a, b Waiver) int { return strings.Compare(a.ID, b.ID) })
	return ws, damaged, nil
}

// fromNow turns an expiry that is a duration into the instant that is meant.
func (w *Waiver) fromNow(now time.Time) error {
	s := w.Expires
	if s == "" {
		return errors.New("expires is missing: give a date (2026-12-31), a time (2026-12-31T18:00:00Z) or a duration (30d)")
	}
	d, err := time.ParseDuration(s)
	if n, isDays := strings.CutSuffix(s, "d"); err != nil && isDays {
		var days int
		if days, err = strconv.Atoi(n); err == nil && days > 36500 {
			return fmt.Errorf("expires %s is more than a hundred years: a waiver is to end", quote(s))
		}
		d = time.Duration(days) * 24 * time.Hour
	}
	if err != nil {
		return nil // a date or a time, or wrong
	}
	if d <= 0 {
		return fmt.Errorf("expires %s is no time to come", quote(s))
	}
	w.Expires = now.Add(d).UTC().Truncate(time.Second).Format(time.RFC3339)
	return nil
}

// CopyWaivers puts those of ws that stand in a Store into another, as they are.
func CopyWaivers(ctx context.Context, to cache.Store, ws []WaiverStatus) error {
	for _, w := range ws {
		if w.Source != FromStore {
			continue
		}
		value, err := json.Marshal(w.Waiver)
		if err != nil {
			return err
		}
		if err := to.PutField(ctx, waiversKey(), w.ID, value, 0); err != nil {
			return err
		}
	}
	return nil
}
