package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/api"
	"github.com/sluicegate/sluice/proxy/auth"
)

// diary is an event log in memory.
type diary struct {
	away  atomic.Bool  // it can't be read
	asked atomic.Int64 // while it was away

	mu sync.Mutex // guards all
	es []proxy.Event
}

func (d *diary) Events(_ context.Context, since time.Time) (out []proxy.Event, err error) {
	if d.away.Load() {
		d.asked.Add(1)
		return nil, errors.New("the store is away")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out = []proxy.Event{}
	for _, e := range d.es {
		if e.Time.After(since) {
			out = append(out, e)
		}
	}
	return out, nil
}

func (d *diary) Source(context.Context) (string, error) { return "urn:uuid:1", nil }

func (d *diary) add(id string, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.es = append(d.es, proxy.Event{ID: id, Time: at, Type: proxy.VerdictChanged})
}

func serveEvents(t *testing.T, d *diary, stopping func() bool) string {
	t.Helper()
	h := &api.Handler{Gateway: &oracle{}, Events: d, Admit: admit(true), Log: slog.New(slog.DiscardHandler), Stopping: stopping}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL + "/api/v1/events"
}

// follow opens a stream and returns a function that reads the next id.
func follow(t *testing.T, url, last string) (next func() string, resp *http.Response) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err = http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	lines := bufio.NewScanner(resp.Body)
	return func() string {
		for lines.Scan() {
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				return id
			}
		}
		return ""
	}, resp
}

func TestEventsList(t *testing.T) {
	d := &diary{}
	now := time.Now().UTC().Truncate(time.Second)
	d.add("one", now.Add(-time.Hour))
	d.add("two", now)
	url := serveEvents(t, d, nil)
	for query, want := range map[string]int{"": 2, "?since=" + now.Add(-time.Minute).Format(time.RFC3339): 1, "?since=yesterday": -1} {
		resp, err := http.Get(url + query)
		if err != nil {
			t.Fatal(err)
		}
		var es []proxy.Event
		err = json.NewDecoder(resp.Body).Decode(&es)
		resp.Body.Close()
		switch {
		case want < 0 && resp.StatusCode != 400:
			t.Errorf("%q: %d", query, resp.StatusCode)
		case want >= 0 && (err != nil || len(es) != want):
			t.Errorf("%q: %d events, %v", query, len(es), err)
		}
	}
}

// Who asks for CloudEvents gets these, as a list and as a stream.
func TestCloudEvents(t *testing.T) {
	d := &diary{}
	d.add("one", time.Now().UTC())
	url := serveEvents(t, d, nil) + "?format=cloudevents"
	check := func(c proxy.CloudEvent, err error) {
		t.Helper()
		if err != nil || c.SpecVersion != "1.0" || c.ID != "one" || c.Source != "urn:uuid:1" || c.Type != "dev.sluice.verdict.changed" || c.Data.Type != proxy.VerdictChanged {
			t.Errorf("%+v, %v", c, err)
		}
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []proxy.CloudEvent
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || len(list) != 1 || resp.Header.Get("Content-Type") != "application/cloudevents-batch+json" {
		t.Fatalf("%+v, %v, %s", list, err, resp.Header)
	}
	check(list[0], nil)
	_, stream := follow(t, url, "")
	for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var c proxy.CloudEvent
			err := json.Unmarshal([]byte(data), &c)
			check(c, err)
			break
		}
	}
	bad, err := http.Get(serveEvents(t, d, nil) + "?format=xml")
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Body.Close()
	if bad.StatusCode != 400 {
		t.Errorf("another format: %d", bad.StatusCode)
	}
}

// A client that comes back gets what it missed, what is raised while it listens, and
// nothing twice; also an event of a replica whose clock is behind.
func TestEventsStream(t *testing.T) {
	d := &diary{}
	now := time.Now().UTC()
	for i, id := range []string{"one", "two", "three"} {
		d.add(id, now.Add(time.Duration(i-10)*time.Second))
	}
	url := serveEvents(t, d, nil)
	next, resp := follow(t, url, "")
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	for _, want := range []string{"one", "two", "three"} {
		if got := next(); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	d.add("late", now.Add(-30*time.Second))
	if got := next(); got != "late" {
		t.Errorf("%q", got)
	}
	next, _ = follow(t, url, "two")
	got := map[string]bool{next(): true}
	if d.add("new", now); !got["three"] && !got["late"] {
		t.Errorf("after two: %v", got)
	}
	for !got["new"] {
		id := next()
		if got[id] || id == "two" || id == "" {
			t.Fatalf("%q after %v", id, got)
		}
		got[id] = true
	}
}

// What was raised while the Store can't be read is sent when it is back, however old.
func TestEventsStreamStoreAway(t *testing.T) {
	d := &diary{}
	d.add("old", time.Now().UTC().Add(-10*time.Minute))
	d.away.Store(true)
	next, _ := follow(t, serveEvents(t, d, nil)+"?since=2026-01-01T00:00:00Z", "")
	for d.asked.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	d.away.Store(false)
	if id := next(); id != "old" {
		t.Errorf("%q", id)
	}
}

// A stream ends when the gateway stops, so that it does not keep it from stopping, and
// their number is bounded.
func TestEventsStreamsEnd(t *testing.T) {
	var stop atomic.Bool
	url := serveEvents(t, &diary{}, stop.Load)
	var nexts []func() string
	for i := range 64 {
		next, resp := follow(t, url, "")
		if resp.StatusCode != 200 {
			t.Fatalf("stream %d: %d", i, resp.StatusCode)
		}
		nexts = append(nexts, next)
	}
	if _, resp := follow(t, url, ""); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d %v", resp.StatusCode, fmt.Sprint(resp.Header))
	}
	stop.Store(true)
	for _, next := range nexts {
		if id := next(); id != "" {
			t.Errorf("an event %q", id)
		}
	}
}

// TestEventsOfOthers leaves out what the caller may not see, whatever tag it has.
func TestEventsOfOthers(t *testing.T) {
	d := &diary{}
	for i, ref := range []string{"cgr.dev/acme/web:1@sha256:aa", "cgr.dev/acme/web@sha256:aa", "registry.test:5000/acme/web:1@sha256:aa", "cgr.dev/other/web:1@sha256:aa", ""} {
		d.es = append(d.es, proxy.Event{ID: fmt.Sprint(i), Time: time.Now(), Type: proxy.VerdictChanged, Image: proxy.Subject{Reference: ref}})
	}
	h := &api.Handler{Gateway: &oracle{}, Events: d, Admit: admit(true), Log: slog.New(slog.DiscardHandler),
		May: func(_ auth.Caller, repository string) bool {
			return repository == "cgr.dev/acme/web" || repository == "registry.test:5000/acme/web"
		}}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/events", nil))
	var es []proxy.Event
	if err := json.Unmarshal(w.Body.Bytes(), &es); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range es {
		ids = append(ids, e.ID)
	}
	if got := strings.Join(ids, ""); got != "0124" {
		t.Errorf("shown %s, want 0, 1, 2 and 4", got)
	}
}
