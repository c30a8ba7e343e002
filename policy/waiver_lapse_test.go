package policy

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestWaiverRemovedByAnEditThatSpoilsTheFile: a waiver that is taken out of the file
// together with a slip elsewhere in it ends after 5 minutes; until then it is named.
func TestWaiverRemovedByAnEditThatSpoilsTheFile(t *testing.T) {
	const one, two = "  - {id: W-1, owner: o, reason: r, expires: 2030-01-01, scope: {policy: x}}\n", "  - {id: W-2, owner: o, reason: r, expires: 2030-01-01, scope: {repository: other/*}}\n"
	dir := t.TempDir()
	rego := write(t, dir, "policies/x.rego", "package sluice.policies.x\n\n"+said+"true\n")
	file := write(t, dir, "waivers.yaml", "waivers:\n"+one+two)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	e, err := Open(context.Background(), Config{Dir: strings.TrimSuffix(rego, "/x.rego"), WaiverFile: file, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	edit := func(text string) {
		t.Helper()
		write(t, dir, "waivers.yaml", text)
		e.follow(context.Background())
		e.lapse(context.Background())
	}
	allowed := func() bool {
		in := clean()
		in.Now = now
		return e.Decide(context.Background(), in).Allow
	}
	edit("waivers:\n" + strings.Replace(two, "owner", "ownr", 1))
	if s := e.Status(); !allowed() || !strings.Contains(s.LastError, "these hold until 2026-01-01T00:05:00Z: W-1, W-2") || !strings.Contains(s.LastError, "waivers.yaml:2") {
		t.Errorf("at once: allowed %v, %s", allowed(), s.LastError)
	}
	now = now.Add(4*time.Minute + 59*time.Second)
	edit("waivers:\n" + strings.Replace(two, "owner", "ownerr", 1)) // another bad edit gives no more time
	if !allowed() {
		t.Error("the waiver ends before its time")
	}
	now = now.Add(time.Second)
	e.lapse(context.Background())
	if s := e.Status(); allowed() || !strings.Contains(s.LastError, "no longer hold (W-1, W-2): mend it") || !strings.Contains(s.LastError, "waivers.yaml:2") || s.Waivers != 0 {
		t.Errorf("after 5 minutes: allowed %v, %s", allowed(), s.LastError)
	}
	edit("waivers:\n" + one)
	if s := e.Status(); !allowed() || s.LastError != "" {
		t.Errorf("mended: allowed %v, %s", allowed(), s.LastError)
	}
}
