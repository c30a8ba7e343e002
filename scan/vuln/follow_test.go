package vuln

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// logged collects the lines from level info on, without what differs from run to run.
func logged() (*slog.Logger, func() []string) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.LevelKey, slog.MessageKey, "reason", "failures":
			return a
		}
		return slog.Attr{}
	}}))
	return log, func() []string {
		defer b.Reset()
		return strings.Split(strings.TrimSpace(b.String()), "\n")
	}
}

// said is where lines of a log go, one by one.
type said chan string

func (s said) Write(line []byte) (int, error) {
	s <- string(line)
	return len(line), nil
}

// until returns the first line that holds a text, and passes by those before.
func (s said) until(t *testing.T, text string) string {
	t.Helper()
	for patience := time.After(time.Minute); ; {
		select {
		case line := <-s:
			if strings.Contains(line, text) {
				return line
			}
		case <-patience:
			t.Fatalf("nothing said %q", text)
		}
	}
}

// A download takes long: what is brought by hand meanwhile is logged at once, and so is
// that it becomes too old.
func TestLogDuringADownload(t *testing.T) {
	m := newMirror(t)
	m.publish(t, 2*time.Hour)
	brought := m.archive(t)
	m.publish(t, time.Hour)
	arrived := make(chan struct{})
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".json") {
				h.ServeHTTP(w, r)
				return
			}
			close(arrived)
			<-r.Context().Done()
		})
	})
	lines := make(said, 99)
	var late atomic.Int64
	d := &Databases{Root: t.TempDir(), URL: m.URL, Log: slog.New(slog.NewTextHandler(lines, nil)), watch: 20 * time.Millisecond,
		now: func() time.Time { return time.Now().Add(time.Duration(late.Load())) }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	<-arrived
	_, err := (&Databases{Root: d.Root}).Import(t.Context(), brought)
	check(t, err)
	lines.until(t, "the vulnerability database is usable")
	lines.until(t, `msg="vulnerability database"`)
	late.Store(int64(200 * time.Hour))
	lines.until(t, "the vulnerability database is too old: pulls are denied")
	cancel()
	check(t, <-done)
}

// A database grows old while the gateway serves, its mirror being gone; then the mirror
// comes back. The log has a line for each change, and none for each try.
func TestLifeInTheLog(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	now := time.Now()
	log, lines := logged()
	d := &Databases{Root: t.TempDir(), URL: m.URL, Log: log, now: func() time.Time { return now }}
	f := follower{Databases: d, state: Missing}
	expect := func(what string, want ...string) {
		t.Helper()
		got := lines()
		if len(got) == 1 && got[0] == "" {
			got = nil
		}
		if len(got) != len(want) {
			t.Fatalf("%s: logged %q, want %q", what, got, want)
		}
		for i, w := range want {
			if !strings.Contains(got[i], w) {
				t.Errorf("%s: logged %q, want %q", what, got[i], w)
			}
		}
	}
	round := func() { f.end(t.Context(), <-f.begin(t.Context())); f.follow(t.Context()) }

	broken := func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	}
	m.breaks(broken)
	round()
	expect("at first", "level=ERROR msg=\"no usable vulnerability database yet; trying again")
	round()
	expect("the same again")
	m.breaks(func(h http.Handler) http.Handler { return http.NotFoundHandler() })
	m.breaks(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) })
	})
	round()
	expect("for another reason", "reason=listing failures=3")
	m.heals()
	round()
	expect("healed", "can be updated again\" failures=3", "the vulnerability database is usable", "level=INFO msg=\"vulnerability database\"")
	round()
	expect("nothing new")

	m.breaks(broken)
	round()
	expect("no mirror, but a build", "level=WARN msg=\"no update of the vulnerability database; trying again\" reason=refused failures=1")
	for range 10 {
		now = now.Add(10 * time.Hour)
		round()
	}
	expect("a long outage")
	if s := d.Status(t.Context()); s.State != Usable || s.Failures != 11 {
		t.Errorf("status %+v", s)
	}
	now = now.Add(30 * time.Hour)
	round()
	expect("too old", "level=ERROR msg=\"the vulnerability database is too old: pulls are denied")
	if s := d.Status(t.Context()); s.State != Stale || !s.Stale || !strings.Contains(s.Error, "limit is 120h") || s.LastReason != Refused {
		t.Errorf("status %+v", s)
	}
	m.heals()
	m.publish(t, time.Hour-time.Until(now))
	round()
	expect("fresh again", "can be updated again", "the vulnerability database is usable", "msg=\"vulnerability database\"")

	// The clock is set back by mistake, to before the build was made.
	right := now
	now = now.Add(-1000 * time.Hour)
	f.follow(t.Context())
	expect("clock set back", "too old")
	if s := d.Status(t.Context()); s.State != Stale || !strings.Contains(s.Error, "set the clock") {
		t.Errorf("status %+v", s)
	}
	now = right
	f.follow(t.Context())
	expect("clock right again", "is usable")

	check(t, os.RemoveAll(filepath.Dir(d.Status(t.Context()).Path)))
	f.follow(t.Context())
	expect("removed by hand", "level=ERROR msg=\"the vulnerability database can't be used: pulls are denied\"")
	f.follow(t.Context())
	expect("still removed")
	round()
	expect("downloaded again", "is usable")
}

// A file that may not be read is no database that is missing.
func TestUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	d := &Databases{Root: t.TempDir()}
	check(t, os.WriteFile(filepath.Join(d.Root, currentFile), nil, 0))
	if s := d.Status(t.Context()); !s.Unknown || strings.Contains(s.Error, "sluice db update") {
		t.Errorf("status %+v", s)
	}
}

// The first download that fails is not tried twice at once, and shows its progress.
func TestFirstDownload(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	var asked int
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			h.ServeHTTP(w, r)
		})
	})
	var calls []int64
	d := &Databases{Root: t.TempDir(), URL: m.URL, bounds: bounds{database: 1000}}
	over := make(chan struct{})
	d.Progress = func(_, total int64) {
		if calls = append(calls, total); total == -1 {
			close(over)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	<-over
	select {
	case err := <-done:
		t.Fatal(err)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	check(t, <-done)
	if asked != 2 || len(calls) < 2 || calls[0] <= 0 || calls[len(calls)-1] != -1 {
		t.Errorf("%d requests, progress %v", asked, calls)
	}
}
