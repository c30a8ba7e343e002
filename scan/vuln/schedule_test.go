package vuln

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
)

func TestWait(t *testing.T) {
	at := 0.0
	d := &Databases{random: func() float64 { return at }}
	const almost = 0.999999
	for _, c := range []struct {
		failures  int
		after     time.Duration
		low, high time.Duration
	}{
		{0, 0, 108 * time.Minute, 132 * time.Minute},
		{1, 0, 30 * time.Second, 90 * time.Second},
		{2, 0, time.Minute, 3 * time.Minute},
		{5, 0, 8 * time.Minute, 24 * time.Minute},
		{9, 0, time.Hour, 3 * time.Hour},
		{1000, 0, time.Hour, 3 * time.Hour},
		{1, 20 * time.Minute, 20 * time.Minute, 22 * time.Minute}, // Retry-After
		{1, 1000 * time.Hour, 2 * time.Hour, 132 * time.Minute},   // one that would stop updates
		{5, time.Second, 8 * time.Minute, 24 * time.Minute},
	} {
		at = 0
		low := d.wait(c.failures, c.after)
		at = almost
		high := d.wait(c.failures, c.after)
		if low != c.low || high.Round(time.Second) != c.high {
			t.Errorf("after %d failures and told to wait %s: %s to %s, want %s to %s", c.failures, c.after, low, high, c.low, c.high)
		}
	}
}

func TestFirst(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	now := time.Now()
	d := &Databases{Root: t.TempDir(), URL: m.URL, now: func() time.Time { return now }, random: func() float64 { return 0.5 }}
	first := func(situation string, want time.Duration) {
		t.Helper()
		if w := d.first(t.Context()); w != want {
			t.Errorf("%s: %s, want %s", situation, w, want)
		}
	}
	first("with no database", 0)
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	first("after a check", 2*time.Hour)
	now = now.Add(30 * time.Minute)
	first("half an hour after a check", 90*time.Minute)
	now = now.Add(150 * time.Minute)
	first("three hours after a check", 5*time.Minute)
	now = now.Add(-6 * time.Hour)
	first("when the clock has gone back", 5*time.Minute)
	now = now.Add(200 * time.Hour)
	first("when the build has become too old", 0)
	if _, err := (&Databases{Root: "a?b"}).Current(t.Context()); !errors.Is(err, scan.ErrDatabaseMissing) {
		t.Errorf("a path that SQLite misreads: %v", err)
	}
}

// A thousand gateways that an upgrade starts over in the same second don't ask the mirror
// in the same minute, nor do they come back together after an outage of the mirror.
func TestCrowd(t *testing.T) {
	m := newMirror(t)
	m.publish(t, time.Hour)
	now := time.Now()
	d := &Databases{Root: t.TempDir(), URL: m.URL, now: func() time.Time { return now }, random: rand.New(rand.NewPCG(1, 2)).Float64}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	now = now.Add(5 * time.Hour)
	for name, asked := range map[string]func() time.Duration{
		"after an upgrade":       func() time.Duration { return d.first(t.Context()) },
		"a round later":          func() time.Duration { return d.wait(0, 0) },
		"in a long outage":       func() time.Duration { return d.wait(5, 0) },
		"told to wait 2 hours":   func() time.Duration { return d.wait(1, 2*time.Hour) },
		"after a second failure": func() time.Duration { return d.wait(4, 0) },
	} {
		minutes, most := map[time.Duration]int{}, 0
		for range 1000 {
			w := asked().Truncate(time.Minute)
			minutes[w]++
			most = max(most, minutes[w])
		}
		if most > 150 {
			t.Errorf("%s, %d of 1000 ask in the same minute", name, most)
		}
	}
}
