package proxy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// The gate acts at once, and doesn't wait for the re-evaluation; which tells of the turn
// all the same.
func TestPulledBeforeItsTurn(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t)
	l.engine.condemn(img.digest)
	l.engine.renew()
	l.pulledBy("ada", img, "1", 403)
	l.reviewed()
	if es := l.events(); len(es) != 1 || es[0].LastPull.Caller != "ada" {
		t.Errorf("%+v", es)
	}
}

// A database that was active before is active again: what it says counts again, and so does
// the next time that it is replaced.
func TestDatabaseComesBack(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t)
	l.engine.condemn(img.digest)
	l.engine.renew()
	l.reviewed()
	for n := 2; n < 6; n += 2 {
		l.engine.goBack()
		l.reviewed()
		if es := l.events(); len(es) != n || !es[n-1].After.Allow {
			t.Fatalf("after going back: %+v", es)
		}
		l.engine.renew()
		l.reviewed()
		if es := l.events(); len(es) != n+1 || es[n].After.Allow {
			t.Fatalf("and forth: %+v", es)
		}
	}
}

// goBack puts the build before in place again.
func (e *engine) goBack() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.build = strings.TrimSuffix(e.build, "+")
}

// An image is denied by a database that is replaced before the image's turn has come: the
// next one's re-evaluation tells of it.
func TestTurnedBetween(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t)
	l.engine.condemn(img.digest)
	l.engine.renew()
	l.pulledBy("ada", img, "1", 403) // and no re-evaluation has begun
	lost, _ := l.engine.database(t.Context())
	l.engine.renew()
	l.reviewed()
	if es := l.events(); len(es) != 1 || es[0].After.Allow || es[0].Before.Database.Checksum == lost.Checksum {
		t.Errorf("%+v", es)
	}
}

// Two replicas, one of which has the new database first: one event, whichever looks again.
func TestReplicasOnDifferentDatabases(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t)
	l.engine.condemn(img.digest)
	two := l.another()
	ahead := newEngine()
	ahead.built, ahead.build = l.engine.built, l.engine.build+"+"
	two.scanner.replaceDatabase(ahead.database)
	look := func(on *lab, e *engine) {
		on.engine = e
		on.reviewed()
	}
	look(two, ahead)
	for range 3 { // both go on looking
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		l.gateway.Reevaluate(ctx)
		two.gateway.Reevaluate(ctx)
		cancel()
	}
	if es := l.events(); len(es) != 1 || es[0].After.Allow {
		t.Errorf("%d events: %+v", len(es), es)
	}
}

// An image is told of as denied, and the re-evaluation doesn't end; the next database
// allows it again, which is told of too.
func TestToldThenTakenBack(t *testing.T) {
	t.Parallel()
	stop := &stopAfter{kind: "databases"}
	stop.left.Store(1 << 30)
	l, img := reviewedLab(t, func(l *lab, _ *policy.Config) { stop.Store, l.gateway.Store = l.gateway.Store, stop })
	l.engine.condemn(img.digest)
	l.engine.renew()
	stop.left.Store(1) // it begins, tells, and can't be written down as done
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.gateway.Reevaluate(ctx) }()
	l.eventually("it has told, and is not done", func() bool { return len(l.events()) == 1 && stop.left.Load() < 0 })
	cancel()
	<-done
	stop.left.Store(1 << 30)
	l.engine.pardon(img.digest)
	l.engine.renew()
	l.reviewed()
	if es := l.events(); len(es) != 2 || !es[1].After.Allow {
		t.Errorf("%+v", es)
	}
}

// The match fails while the image's turn is there, and the next pull's doesn't: the next
// re-evaluation tells of the turn.
func TestFailedThenPulled(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t)
	l.engine.condemn(img.digest)
	l.engine.fail(errors.New("a matcher's fault"))
	l.engine.renew()
	if r := l.reviewed(); r.Failed != 1 || r.Done != 1 {
		t.Fatalf("%+v", r)
	}
	l.engine.fail(nil)
	l.pulledBy("ada", img, "1", 403)
	l.engine.renew()
	l.reviewed()
	if es := l.events(); len(es) != 1 || es[0].After.Allow {
		t.Errorf("%+v", es)
	}
}

// A waiver names an advisory by another name, which the next database doesn't know.
func TestAliasGone(t *testing.T) {
	t.Parallel()
	a := &aliased{}
	l := newLab(t, known("ada"), waived("GHSA-jfh8-c2jp-5v3q"), func(l *lab, _ *policy.Config) {
		a.engine, l.gateway.Scanner.Engine = l.engine, a
	})
	img := l.push("acme/app", "1", 1000)
	l.engine.condemn(img.digest)
	l.pulledBy("ada", img, "1", 200)
	l.reviewed()
	a.drop.Store(true)
	l.engine.renew()
	l.reviewed()
	if es := l.events(); len(es) != 1 || es[0].After.Allow || len(es[0].Advisories) != 1 || es[0].Advisories[0].Change != "changed" {
		t.Errorf("%+v", es)
	}
}

// aliased is an engine whose advisory has another name, until that is dropped.
type aliased struct {
	*engine
	drop atomic.Bool
}

func (a *aliased) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	m, err := a.engine.Match(ctx, sbom, db)
	if err == nil && !a.drop.Load() {
		for i := range m.Findings {
			m.Findings[i].Aliases = []string{"GHSA-jfh8-c2jp-5v3q"}
		}
	}
	return m, err
}

// waived has the lab's policies waive an advisory.
func waived(advisory string) change {
	return func(l *lab, c *policy.Config) {
		c.WaiverFile = filepath.Join(l.dir, "waivers.yaml")
		waiver := "waivers:\n- id: w1\n  owner: sec\n  reason: not reachable\n  expires: 2099-01-01\n  scope: {advisory: " + advisory + "}\n"
		if err := os.WriteFile(c.WaiverFile, []byte(waiver), 0o600); err != nil {
			l.Fatal(err)
		}
	}
}

// What holds the images' advisories off holds it off in the event too.
func TestWaivedIsNoTurn(t *testing.T) {
	t.Parallel()
	l, img := reviewedLab(t, waived("CVE-2021-44228"))
	l.engine.condemn(img.digest)
	l.engine.renew()
	if r := l.reviewed(); r.Denied != 0 || r.Done != 1 || len(l.events()) != 0 {
		t.Errorf("%+v %+v", r, l.events())
	}
}

// A verdict that becomes partial, or complete, by a database turns an image as well.
func TestDistributionThatTheDatabaseDrops(t *testing.T) {
	t.Parallel()
	forgets := &forgetful{}
	l, _ := reviewedLab(t, func(l *lab, _ *policy.Config) {
		forgets.engine, l.gateway.Scanner.Engine = l.engine, forgets
	})
	forgets.unknown.Store(true)
	l.engine.renew()
	l.reviewed()
	es := l.events()
	if len(es) != 1 || es[0].After.Allow || es[0].After.Cause != scan.CauseScanFailed || len(es[0].Advisories) != 0 {
		t.Errorf("%+v", es)
	}
}

// forgetful is an engine whose database can lose a distribution.
type forgetful struct {
	*engine
	unknown atomic.Bool
}

func (f *forgetful) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	m, err := f.engine.Match(ctx, sbom, db)
	if err == nil && f.unknown.Load() {
		m.DistroKnown = false
	}
	return m, err
}
