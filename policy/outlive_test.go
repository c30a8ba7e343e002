package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluicegate/sluice/scan"
)

// TestNothingIsOutlived: at whatever moment it is asked, an engine that remembers says what
// one says that has never been asked: past the ends of waivers and of grace periods, of
// days and of hours, from dates and from times, and of a time that somebody wrote.
func TestNothingIsOutlived(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "p.rego", `package sluice.policies.p
hour := 60 * 60 * 1000000000
violations contains {"policy": "young", "message": "made less than 36 hours ago"} if {
	time.now_ns() - time.parse_rfc3339_ns(input.image.created) < 36 * hour
}
violations contains {"policy": "old", "message": "first seen over 2 days ago"} if {
	time.now_ns() - time.parse_rfc3339_ns(input.history.first_seen) >= 48 * hour
}
violations contains {"policy": "overdue", "message": "fixed over a day ago", "findings": {f.id}} if {
	some f in input.findings
	time.now_ns() >= time.parse_ns("2006-01-02", f.fix.available) + 24 * hour
}
violations contains {"policy": "over", "message": "an agreement is over"} if {
	time.now_ns() >= time.parse_rfc3339_ns("2026-03-02T00:43:00Z")
}
`)
	start := time.Date(2026, 3, 1, 22, 17, 13, 0, time.UTC)
	waivers := write(t, dir, "w", "waivers:\n")
	text := "waivers:\n"
	for i := range 6 {
		text += fmt.Sprintf("  - {id: W%d, owner: o, reason: r, expires: %q, scope: {advisory: CVE-2026-%d}}\n", i, start.Add(time.Duration(i)*1777*time.Second).Format(time.RFC3339), i)
	}
	write(t, dir, "w", text)
	now := start
	c := Config{Dir: dir, WaiverFile: waivers, Now: func() time.Time { return now }}
	old := open(t, c)
	in := clean()
	in.Image.Created = start.Add(-34*time.Hour - 11*time.Minute).Format(time.RFC3339)
	in.History.FirstSeen = start.Add(-46*time.Hour - 47*time.Minute - 3*time.Second).Format(time.RFC3339)
	for i := range 6 {
		in.Findings = append(in.Findings, scan.Finding{ID: fmt.Sprintf("CVE-2026-%d", i), Aliases: []string{}, Severity: "high",
			Fix: scan.Fix{State: "fixed", Versions: []string{"2"}, Available: start.AddDate(0, 0, i%2).Format(time.DateOnly)}})
	}
	random := rand.New(rand.NewPCG(1, 2))
	turns := map[string]bool{}
	for now.Before(start.Add(5 * time.Hour)) {
		now = now.Add(time.Duration(1+random.IntN(50)) * time.Second)
		in.Now = now
		fresh := open(t, c).Decide(t.Context(), in)
		got := old.Decide(t.Context(), in)
		want := fmt.Sprintf("%v %v %v", fresh.Allow, fresh.Violations, fresh.Waived)
		if was := fmt.Sprintf("%v %v %v", got.Allow, got.Violations, got.Waived); was != want {
			t.Fatalf("%s: it says %s, and should say %s", now, was, want)
		}
		turns[want] = true
	}
	if len(turns) < 8 {
		t.Errorf("only %d different decisions: the test is too easy", len(turns))
	}
}
