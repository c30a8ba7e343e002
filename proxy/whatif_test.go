package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
)

// candidate opens policies of one file, in the mode that the lab has.
func (l *lab) candidate(mode policy.Mode, rego string) *policy.Engine {
	l.Helper()
	dir := l.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "candidate.rego"), []byte("package sluice.policies.candidate\n\n"+rego), 0o600); err != nil {
		l.Fatal(err)
	}
	e, err := policy.Open(l.Context(), policy.Config{Dir: dir, Mode: mode})
	if err != nil {
		l.Fatal(err)
	}
	return e
}

// whatIf replays and returns what would change, a line each.
func (l *lab) whatIf(q proxy.WhatIf) (changes []string, sum proxy.WhatIfSummary) {
	l.Helper()
	last := 0
	sum, err := l.gateway.WhatIf(l.Context(), q, func(c *proxy.Change, done, all int) error {
		if done < last || done > all {
			l.Errorf("%d of %d images after %d", done, all, last)
		}
		last = done
		if c != nil {
			var who []string
			for _, p := range c.Callers {
				who = append(who, p.Caller)
				if time.Since(p.Time) > time.Hour {
					l.Errorf("last pull of %s: %s", p.Caller, p.Time)
				}
			}
			changes = append(changes, fmt.Sprintf("%s %s %s by %s", c.Change, c.Image.Repository, strings.Join(c.Image.Tags, ","), strings.Join(who, ",")))
		}
		return nil
	})
	if err != nil {
		l.Fatal(err)
	}
	slices.Sort(changes)
	return changes, sum
}

func (l *lab) expect(what string, got []string, want ...string) {
	l.Helper()
	if !slices.Equal(got, want) {
		l.Errorf("%s: %q, want %q", what, got, want)
	}
}

const (
	nothing   = `violations contains {"policy": "never", "message": "never"} if input.image.size == -1`
	onlyFor   = `violations contains {"policy": "not_bob", "message": "not for bob"} if input.request.caller == "bob"`
	smallOnes = `violations contains {"policy": "small", "message": "too small"} if input.image.repository == "acme/small"`
)

// Before policies are changed it is told which images they would block or allow, and who
// pulls these. Nobody upstream is asked, and nothing is decided by it.
func TestWhatIf(t *testing.T) {
	t.Parallel()
	l := newLab(t, known("ada", "bob"))
	small, app, bad := l.push("acme/small", "1", 1000), l.push("acme/app", "2", 1000), l.push("acme/bad", "3", 1000)
	l.engine.condemn(bad.digest)
	l.pulledBy("bob", small, "1", 200)
	l.pulledBy("ada", small, "1", 200)
	l.pulledBy("ada", app, "2", 200)
	l.pulledBy("bob", bad, "3", 403)
	asked := len(l.origin.Requests())

	got, sum := l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, nothing)})
	l.expect("no policy", got, "allowed acme/bad 3 by bob")
	if sum.Images != 3 || sum.Requests != 4 || sum.Allowed != 1 || sum.Blocked+sum.Skipped+sum.Failed+sum.Warned+sum.Cleared != 0 || sum.Before == sum.After || sum.Before == "" {
		t.Errorf("%+v", sum)
	}
	got, _ = l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, smallOnes)})
	l.expect("one is blocked for all", got, "allowed acme/bad 3 by bob", "blocked acme/small 1 by ada,bob")
	got, sum = l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, onlyFor)})
	l.expect("one caller is blocked", got, "blocked acme/small 1 by bob")
	if sum.Blocked != 1 {
		t.Errorf("%+v", sum)
	}
	got, sum = l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Warn, smallOnes)})
	l.expect("a trial in warn", got, "allowed acme/bad 3 by bob", "warned acme/small 1 by ada,bob")
	if sum.Warned != 1 || sum.Blocked != 0 {
		t.Errorf("%+v", sum)
	}
	got, sum = l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, smallOnes), Since: time.Now().Add(time.Hour)})
	l.expect("pulls to come", got)
	if sum.Images != 0 {
		t.Errorf("%+v", sum)
	}
	if got, _ = l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, smallOnes), Upstream: "elsewhere.test"}); len(got) != 0 {
		t.Errorf("another upstream: %q", got)
	}
	got, sum = l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, `violations contains {"policy": "x", "message": sprintf("%d", [to_number(input.image.registry)])} if input.image.registry == "cgr.test"`)})
	l.expect("policies that can't decide", got)
	if sum.Failed != 3 {
		t.Errorf("%+v", sum)
	}

	if n := len(l.origin.Requests()); n != asked {
		t.Errorf("upstream was asked: %+v", l.origin.Requests()[asked:])
	}
	for name, want := range map[string]int{"acme/small": 200, "acme/app": 200, "acme/bad": 403} {
		tag := map[string]string{"acme/small": "1", "acme/app": "2", "acme/bad": "3"}[name]
		if r := l.get("GET", manifestPath(name, tag), patience, "Authorization", basic("bob")); r.status != want {
			t.Errorf("afterwards %s is a %d", name, r.status)
		}
	}
}

// After a new database nobody has matched the images with, the verdicts before it count.
func TestWhatIfByAnOlderVerdict(t *testing.T) {
	t.Parallel()
	l, _ := reviewedLab(t)
	l.engine.renew()
	got, sum := l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, `violations contains {"policy": "all", "message": "nothing may run"}`)})
	l.expect("by the older verdict", got, "blocked acme/app 1 by ada")
	if sum.Skipped != 0 {
		t.Errorf("%+v", sum)
	}
}

// Two at once would take the machine from pulls; whoever stops listening ends his.
func TestWhatIfIsBounded(t *testing.T) {
	t.Parallel()
	l, _ := reviewedLab(t)
	q := proxy.WhatIf{Engine: l.candidate(policy.Enforce, nothing)}
	gone := errors.New("gone")
	_, err := l.gateway.WhatIf(t.Context(), q, func(*proxy.Change, int, int) error {
		_, err := l.gateway.WhatIf(t.Context(), q, nil)
		var e *proxy.Error
		if !errors.As(err, &e) || e.Status != 429 {
			t.Errorf("a second one: %v", err)
		}
		return gone
	})
	if !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.gateway.WhatIf(ctx, q, func(*proxy.Change, int, int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	l.whatIf(q) // and the place is free again
}

// However many callers there are, a bounded number of them is kept, the latest.
func TestCallersAreBounded(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 104 {
		names = append(names, fmt.Sprintf("caller-%03d", i))
	}
	l := newLab(t, known(names...))
	img := l.push("acme/app", "1", 1000)
	l.pulledBy(names[0], img, "1", 200)
	for _, n := range names[1:] {
		if r := l.get("GET", manifestPath("acme/app", "1"), patience, "Authorization", basic(n)); r.status != 200 {
			t.Fatal(r.status)
		}
	}
	got, sum := l.whatIf(proxy.WhatIf{Engine: l.candidate(policy.Enforce, `violations contains {"policy": "all", "message": "nothing may run"}`)})
	if sum.Requests != 100 || len(got) != 1 || strings.Contains(got[0], "caller-003") || !strings.Contains(got[0], "by caller-103,caller-102,") {
		t.Errorf("%+v %q", sum, got)
	}
}
