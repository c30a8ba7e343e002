package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
)

// An image raises one event for its first verdict and one for each caller who is refused,
// whichever replica he asks and however often.
func TestEventsOfPulls(t *testing.T) {
	t.Parallel()
	l := newLab(t, known("ada", "bob"))
	two := l.another()
	good, bad := l.push("acme/app", "1", 1000), l.push("acme/app", "2", 1000)
	l.engine.condemn(bad.digest)
	l.pulledBy("ada", good, "1", 200)
	for _, name := range []string{"ada", "bob"} {
		l.pulledBy(name, bad, "2", 403)
		two.pulledBy(name, bad, "2", 403)
	}
	l.eventually("all is told", func() bool {
		return len(l.eventsOf(proxy.VerdictNew)) >= 2 && len(l.eventsOf(proxy.PullDenied)) >= 2
	})
	l.engine.renew() // a verdict that is made anew is no first one
	l.pulledBy("ada", good, "1", 200)
	time.Sleep(100 * time.Millisecond)
	news, denied := l.eventsOf(proxy.VerdictNew), l.eventsOf(proxy.PullDenied)
	if len(news) != 2 || len(denied) != 2 {
		t.Fatalf("%d and %d events, want 2 and 2: %+v %+v", len(news), len(denied), news, denied)
	}
	e := news[0]
	if e.Image.Digest != good.digest.String() || !e.After.Allow || e.LastPull.Caller != "ada" || e.Details.State != "complete" || e.Details.Counts == nil {
		t.Errorf("%+v", e)
	}
	callers := map[string]bool{}
	for _, e := range denied {
		callers[e.LastPull.Caller] = true
		if e.Image.Digest != bad.digest.String() || e.After.Allow || len(e.After.Violations) == 0 || e.Details.Decision == "" || e.Details.Policies == "" {
			t.Errorf("%+v", e)
		}
	}
	if !callers["ada"] || !callers["bob"] {
		t.Errorf("callers %v", callers)
	}
}

// offStore takes no events while it is off.
type offStore struct {
	cache.Store
	off *atomic.Bool
}

func (s offStore) PutField(ctx context.Context, k cache.Key, field string, value []byte, ttl time.Duration) error {
	if k.Kind() == "events" && s.off.Load() {
		return errors.New("no room")
	}
	return s.Store.PutField(ctx, k, field, value, ttl)
}

// A Store that takes no events holds up no pull, however many there are.
func TestEventsNotTaken(t *testing.T) {
	t.Parallel()
	var off atomic.Bool
	off.Store(true)
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Store = offStore{l.gateway.Store, &off} })
	img := l.deny("acme/app", "1", 1000)
	began := time.Now()
	for range 600 {
		l.want(403, "", "GET", manifestPath("acme/app", "1"))
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("600 denials took %s", took)
	}
	if es := l.eventsOf(proxy.PullDenied); len(es) != 0 {
		t.Errorf("%s: %+v", img.digest, es)
	}
}

// What is told of once is told of once by all replicas; and what an event doesn't say is
// left out of its JSON, while what those of before say stays.
func TestTell(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	two := l.another()
	told := 0
	for _, g := range []*proxy.Gateway{l.gateway, two.gateway, l.gateway} {
		news, err := g.Tell(t.Context(), proxy.CredentialExpiring, proxy.Details{Name: "cgr.test", Within: "3d"}, "cgr.test", "3d")
		if err != nil {
			t.Fatal(err)
		}
		if news {
			told++
		}
	}
	es := l.eventsOf(proxy.CredentialExpiring)
	if told != 1 || len(es) != 1 {
		t.Fatalf("told %d times, %+v", told, es)
	}
	var fields map[string]any
	if b, err := json.Marshal(es[0]); err != nil || json.Unmarshal(b, &fields) != nil || len(fields) != 4 {
		t.Errorf("%v %v", fields, err)
	}
	b, err := json.Marshal(proxy.Event{Type: proxy.VerdictChanged, Image: proxy.Subject{Tags: []string{}}, Before: proxy.Opinion{Violations: []policy.Violation{}},
		After: proxy.Opinion{Allow: true}, LastPull: proxy.Puller{Time: time.Now()}, Advisories: []proxy.Advisory{}})
	if err != nil {
		t.Fatal(err)
	}
	fields = nil
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"id", "time", "type", "image", "before", "after", "last_pull", "advisories"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("an event has no %s: %s", name, b)
		}
	}
	source, err := l.gateway.Source(t.Context())
	other, err2 := two.gateway.Source(t.Context())
	if err != nil || err2 != nil || source != other || len(source) != len("urn:uuid:")+36 {
		t.Errorf("%q and %q, %v", source, other, errors.Join(err, err2))
	}
	if c := es[0].Cloud(source); c.Type != "dev.sluice.credential.expiring" || c.Subject != "cgr.test" || c.SpecVersion != "1.0" || c.ID != es[0].ID {
		t.Errorf("%+v", c)
	}
}
