package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/scan"
)

// silent is a Store that can be made to answer nothing.
type silent struct {
	cache.Store
	gone atomic.Bool
}

var errGone = errors.New("the store is gone")

func (s *silent) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	if s.gone.Load() {
		return nil, errGone
	}
	return s.Store.Get(ctx, k)
}

func (s *silent) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	if s.gone.Load() {
		return nil, errGone
	}
	return s.Store.Fields(ctx, k)
}

// replica is an engine of one of several gateways on a Store.
func replica(t *testing.T, x *Exceptions) *Engine {
	t.Helper()
	if err := x.Open(context.Background()); err != nil {
		t.Fatal(err)
	}
	return open(t, Config{Exceptions: x, Now: x.Now, Log: x.Log})
}

func waiverFor(advisory, expires string) Waiver {
	return Waiver{Owner: "anna", Reason: "not reachable", Expires: expires, Scope: Scope{Advisory: advisory}}
}

func run(t *testing.T, xs ...*Exceptions) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	for _, x := range xs {
		go func() { done <- x.Run(ctx) }()
	}
	return func() {
		cancel()
		for range xs {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
}

func atNow(in Input) Input {
	in.Now = time.Time{}
	return in
}

func critical() Input {
	return atNow(with(clean(), finding("CVE-1", "critical", "1999-01-01"))) // a bubble's time begins in 2000
}

// TestTwoReplicas add and remove waivers on one Store: the one that does decides by it at
// once, the other within two seconds, remembered decisions or not; and it ends to the
// second.
func TestTwoReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		store := &cache.Memory{}
		a, b := &Exceptions{Store: store}, &Exceptions{Store: store}
		here, there := replica(t, a), replica(t, b)
		defer run(t, a, b)()
		both := func(when string, atHere, atThere bool) {
			t.Helper()
			if got := allows(here, critical()); got != atHere {
				t.Errorf("%s: here %v", when, got)
			}
			if got := allows(there, critical()); got != atThere {
				t.Errorf("%s: there %v", when, got)
			}
		}
		both("before", false, false)
		revision := here.Revision()
		w, err := a.Add(ctx, waiverFor("CVE-1", "90s"))
		if err != nil {
			t.Fatal(err)
		}
		both("added", true, false)
		time.Sleep(2 * time.Second)
		both("two seconds later", true, true)
		if here.Revision() == revision || here.Revision() != there.Revision() {
			t.Errorf("revisions %s, then %s and %s", revision, here.Revision(), there.Revision())
		}
		time.Sleep(time.Until(w.Ends) - time.Nanosecond)
		both("just before its end", true, true)
		time.Sleep(time.Nanosecond)
		both("at its end", false, false)

		if w, err = b.Add(ctx, waiverFor("CVE-1", "30d")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		both("another", true, true)
		if err := a.Remove(ctx, w.ID); err != nil {
			t.Fatal(err)
		}
		both("removed", false, true)
		time.Sleep(2 * time.Second)
		both("removed, two seconds later", false, false)
	})
}

// TestAWriterDies between what it writes and telling of it: others find it all the same.
func TestAWriterDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &cache.Memory{}
		x := &Exceptions{Store: store}
		e := replica(t, x)
		defer run(t, x)()
		w := waiverFor("CVE-1", "2999-01-01")
		w.ID = "w"
		if err := CopyWaivers(context.Background(), store, []WaiverStatus{{Waiver: w, Source: FromStore}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rereadEvery + 2*time.Second)
		if !allows(e, critical()) {
			t.Error("the waiver does not hold")
		}
	})
}

// TestAStoreIsGone: its waivers hold for five minutes more, and come back with it.
func TestAStoreIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &silent{Store: &cache.Memory{}}
		h := make(heard, 1000)
		x := &Exceptions{Store: store, Log: newHeard(h)}
		e := replica(t, x)
		if _, err := x.Add(context.Background(), waiverFor("CVE-1", "30d")); err != nil {
			t.Fatal(err)
		}
		defer run(t, x)()
		store.gone.Store(true)
		time.Sleep(lapseAfter - 5*time.Second)
		if !allows(e, critical()) {
			t.Error("it lapsed too early")
		}
		if s := e.Status(); !strings.Contains(s.LastError, "the store is gone") {
			t.Errorf("status %q", s.LastError)
		}
		time.Sleep(10 * time.Second)
		if allows(e, critical()) {
			t.Error("it holds without a store")
		}
		if len(h) != 2 {
			t.Errorf("%d lines were logged, want one of the store and one of the lapse", len(h))
		}
		if _, err := x.List(context.Background()); !errors.Is(err, errGone) {
			t.Errorf("list: %v", err)
		}
		store.gone.Store(false)
		time.Sleep(2 * time.Second)
		if !allows(e, critical()) || e.Status().LastError != "" {
			t.Errorf("it did not come back: %q", e.Status().LastError)
		}
	})
}

func TestADamagedWaiver(t *testing.T) {
	ctx := context.Background()
	store := &cache.Memory{}
	x := &Exceptions{Store: store}
	if err := x.Open(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Add(ctx, waiverFor("CVE-1", "30d")); err != nil {
		t.Fatal(err)
	}
	for id, text := range map[string]string{
		"cut":     `{"id": "cut", "owner": "a", `,
		"endless": `{"id": "endless", "owner": "a", "reason": "b", "scope": {"repository": "**"}}`,
		"other":   `{"id": "another", "owner": "a", "reason": "b", "expires": "2999-01-01", "scope": {"repository": "**"}}`,
		"kill":    `{"id": "kill", "owner": "a", "reason": "b", "expires": "2999-01-01", "scope": {"policy": "policy_error"}}`,
	} {
		if err := store.PutField(ctx, waiversKey(), id, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
		again := &Exceptions{Store: store}
		e := replica(t, again)
		if !allows(e, critical()) || allows(e, atNow(with(clean(), finding("CVE-2", "critical", "2020-01-01")))) {
			t.Errorf("%s: not decided by the good one alone", id)
		}
		if s := e.Status(); !strings.Contains(s.LastError, "waiver "+id+" in the store: ") || s.Waivers != 1 {
			t.Errorf("%s: status %+v", id, s)
		}
		if err := again.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
		if s := e.Status(); s.LastError != "" {
			t.Errorf("%s: removed, and still %q", id, s.LastError)
		}
	}
}

func TestAddErrors(t *testing.T) {
	ctx := context.Background()
	filed, err := parseWaivers("w.yaml", []byte(one("advisory: CVE-9")))
	if err != nil {
		t.Fatal(err)
	}
	x := &Exceptions{Store: &cache.Memory{}, MaxLife: 365 * 24 * time.Hour, Filed: func() ([]Waiver, error) { return filed.all, nil }}
	if err := x.Open(ctx); err != nil {
		t.Fatal(err)
	}
	taken := waiverFor("CVE-1", "1h")
	taken.ID = "taken"
	if _, err := x.Add(ctx, taken); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Waiver)
		kind   WaiverErrorKind
		want   string
	}{
		"no expiry":       {func(w *Waiver) { w.Expires = "" }, WaiverInvalid, "expires is missing: give a date"},
		"in the past":     {func(w *Waiver) { w.Expires = "2020-02-29" }, WaiverInvalid, "expires 2020-02-29 is in the past"},
		"no time at all":  {func(w *Waiver) { w.Expires = "0s" }, WaiverInvalid, "no time to come"},
		"backwards":       {func(w *Waiver) { w.Expires = "-3d" }, WaiverInvalid, "no time to come"},
		"for ever":        {func(w *Waiver) { w.Expires = "99999d" }, WaiverInvalid, "more than a hundred years"},
		"too long":        {func(w *Waiver) { w.Expires = "366d" }, WaiverInvalid, "is too late: here one may last until "},
		"a word":          {func(w *Waiver) { w.Expires = "soon" }, WaiverInvalid, "want a date"},
		"days of a word":  {func(w *Waiver) { w.Expires = "xd" }, WaiverInvalid, "want a date"},
		"no owner":        {func(w *Waiver) { w.Owner = " " }, WaiverInvalid, "owner is missing"},
		"no reason":       {func(w *Waiver) { w.Reason = "" }, WaiverInvalid, "reason is missing"},
		"no scope":        {func(w *Waiver) { w.Scope = Scope{} }, WaiverInvalid, "scope is missing"},
		"policy_error":    {func(w *Waiver) { w.Scope = Scope{Policy: PolicyError} }, WaiverInvalid, "policy_error can't be waived"},
		"a long id":       {func(w *Waiver) { w.ID = strings.Repeat("x", 501) }, WaiverInvalid, "longer than 500 bytes"},
		"a taken id":      {func(w *Waiver) { w.ID = "taken" }, WaiverTaken, "waiver taken is there already"},
		"an id of a file": {func(w *Waiver) { w.ID = "W-1" }, WaiverTaken, "waiver W-1 stands in the waiver file"},
	} {
		w := waiverFor("CVE-1", "30d")
		c.change(&w)
		_, err := x.Add(ctx, w)
		var e *WaiverError
		if !errors.As(err, &e) || e.Kind != c.kind || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for id, kind := range map[string]WaiverErrorKind{"none": WaiverUnknown, "W-1": WaiverTaken} {
		var e *WaiverError
		if err := x.Remove(ctx, id); !errors.As(err, &e) || e.Kind != kind {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	list, err := x.List(ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
}

// TestAnIndexWaiverServesItsChildren, whichever of them is pulled, and no other image.
func TestAnIndexWaiverServesItsChildren(t *testing.T) {
	x := &Exceptions{Store: &cache.Memory{}}
	e := replica(t, x)
	w := waiverFor("", "1h")
	w.Scope = Scope{Digest: indexDigest}
	if _, err := x.Add(context.Background(), w); err != nil {
		t.Fatal(err)
	}
	for _, digest := range []string{"sha256:" + strings.Repeat("1", 64), "sha256:" + strings.Repeat("2", 64)} {
		in := critical()
		in.Image.Digest = digest
		if allows(e, in) {
			t.Error("an image outside of the index is served")
		}
		in.Image.Indexes = []string{indexDigest}
		if !allows(e, in) {
			t.Error("a child of the index is denied")
		}
	}
}

// TestAnEndedWaiverIsNamed where it is missed, and nowhere else.
func TestAnEndedWaiverIsNamed(t *testing.T) {
	const file = `
waivers:
- {id: first, owner: a, reason: b, expires: 2025-06-30, scope: {advisory: CVE-1}}
- {id: last, owner: a, reason: b, expires: "2025-12-30T10:00:00Z", scope: {advisory: CVE-1, package: openssl}}
- {id: elsewhere, owner: a, reason: b, expires: 2025-12-31, scope: {advisory: CVE-1, repository: other/*}}
- {id: another, owner: a, reason: b, expires: 2025-12-31, scope: {advisory: CVE-2}}
- {id: policy, owner: a, reason: b, expires: 2025-11-30, scope: {policy: scan_failed}}
`
	e := open(t, Config{WaiverFile: write(t, t.TempDir(), "w.yaml", file)})
	said := func(in Input) string {
		d := e.Decide(context.Background(), in)
		if len(d.Violations) != 1 {
			t.Fatalf("%+v", d.Violations)
		}
		if m := Message(d, in.Image, in.Findings); !strings.Contains(m, d.Violations[0].Remediation[:30]) {
			t.Errorf("the client reads %q", m)
		}
		return d.Violations[0].Remediation
	}
	if got := said(with(clean(), finding("CVE-1", "critical", "2025-12-01"))); !strings.HasPrefix(got, "Waiver last for this ended 2025-12-30T10:00:00Z. Pull a newer build") {
		t.Errorf("%q", got)
	}
	if got := said(with(clean(), finding("CVE-3", "critical", "2025-12-01"))); strings.Contains(got, "aiver") {
		t.Errorf("%q", got)
	}
	failed := clean()
	failed.Scan.State, failed.Scan.Cause = scan.Failed, scan.CauseScanFailed
	if got := said(failed); !strings.HasPrefix(got, "Waiver policy for this ended 2025-11-30. ") {
		t.Errorf("%q", got)
	}
}

func TestReminders(t *testing.T) {
	ends := time.Date(2026, 6, 30, 0, 0, 0, 0, time.UTC)
	w := Waiver{ID: "w", until: ends}
	var r Reminders
	var told []string
	for now := ends.AddDate(0, 0, -10); now.Before(ends.AddDate(0, 0, 10)); now = now.Add(time.Hour) {
		for _, due := range r.Due([]WaiverStatus{w.statusAt(now)}, now) {
			told = append(told, fmt.Sprint(due.State, now.Sub(ends)))
		}
	}
	want := []string{}
	for h := 167; h > 0; h -= 24 {
		want = append(want, fmt.Sprint("expiring", -time.Duration(h)*time.Hour))
	}
	for h := 0; h <= 168; h += 24 {
		want = append(want, fmt.Sprint("expired", time.Duration(h)*time.Hour))
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func newHeard(h heard) *slog.Logger { return slog.New(h) }
