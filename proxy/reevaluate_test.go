package proxy_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// reviewed runs the re-evaluation until it has ended by the database in use.
func (l *lab) reviewed() proxy.Reevaluation {
	l.Helper()
	ctx, cancel := context.WithCancel(l.Context())
	done := make(chan error, 1)
	go func() { done <- l.gateway.Reevaluate(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			l.Error(err)
		}
	}()
	var r proxy.Reevaluation
	l.eventually("the images are re-evaluated", func() bool {
		r = l.gateway.Reevaluation()
		db, err := l.engine.database(ctx)
		return err == nil && r.Database.Checksum == db.Checksum && !r.Running && r.Done == r.Total
	})
	return r
}

// events are those of verdicts that changed.
func (l *lab) events() []proxy.Event {
	l.Helper()
	return l.eventsOf(proxy.VerdictChanged)
}

func (l *lab) eventsOf(kind string) []proxy.Event {
	l.Helper()
	es, err := l.gateway.Events(l.Context(), time.Time{})
	if err != nil {
		l.Fatal(err)
	}
	return slices.DeleteFunc(es, func(e proxy.Event) bool { return e.Type != kind })
}

// known has the lab's callers ask with names, and its Store never lose anything.
func known(names ...string) change {
	return func(l *lab, _ *policy.Config) {
		var lines []byte
		for _, n := range names {
			hash, err := bcrypt.GenerateFromPassword([]byte(n), bcrypt.MinCost)
			if err != nil {
				l.Fatal(err)
			}
			lines = fmt.Appendf(lines, "%s:%s\n", n, hash)
		}
		path := filepath.Join(l.dir, "htpasswd")
		if err := os.WriteFile(path, lines, 0o600); err != nil {
			l.Fatal(err)
		}
		l.gateway.Auth = &auth.Authenticator{Htpasswd: path, Log: l.gateway.Log}
	}
}

// basic is the Authorization header of a caller of known.
func basic(name string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+name))
}

// pulledBy has a caller ask for an image's manifest until it is decided.
func (l *lab) pulledBy(name string, img *image, tag string, status int) {
	l.Helper()
	l.eventually(name+" is answered", func() bool {
		return l.get("GET", manifestPath(img.repo, tag), patience, "Authorization", basic(name)).status == status
	})
	l.eventually("the image is scanned", func() bool {
		_, err := l.gateway.Scanner.Cached(l.Context(), img.digest)
		return err == nil
	})
}

// reviewedLab is a lab with an image that ada has pulled and that is matched.
func reviewedLab(t *testing.T, changes ...change) (*lab, *image) {
	t.Helper()
	l := newLab(t, append([]change{known("ada")}, changes...)...)
	img := l.push("acme/app", "1", 1000)
	l.pulledBy("ada", img, "1", 200)
	l.reviewed()
	return l, img
}

// A new database has an advisory for an image that was allowed: an event says which, and
// who pulled it last, and upstream hears nothing of it. The next one takes it back.
func TestVerdictTurns(t *testing.T) {
	t.Parallel()
	l := newLab(t, known("ada", "bob"))
	turns, stays := l.push("acme/app", "1.2", 1000), l.push("acme/app", "1.3", 1000)
	l.pulledBy("ada", turns, "1.2", 200)
	l.pulledBy("bob", turns, "1.2", 200)
	l.pulledBy("ada", stays, "1.3", 200)
	if r := l.reviewed(); r.Total != 2 || r.Done != 2 || r.Skipped != 0 || len(l.events()) != 0 {
		t.Errorf("at first: %+v, %+v", r, l.events())
	}
	asked := len(l.origin.Requests())
	l.engine.condemn(turns.digest)
	l.engine.renew()
	if r := l.reviewed(); r.Denied != 1 || r.Allowed != 0 || r.Total != 2 || r.Failed != 0 {
		t.Errorf("%+v", r)
	}
	es := l.events()
	if len(es) != 1 {
		t.Fatalf("events %+v", es)
	}
	e := es[0]
	if e.Type != proxy.VerdictChanged || e.Image.Digest != turns.digest.String() || e.Image.Repository != "acme/app" || !slices.Contains(e.Image.Tags, "1.2") ||
		e.LastPull.Caller != "bob" || time.Since(e.LastPull.Time) > time.Hour || !e.Before.Allow || e.After.Allow || e.After.Mode != policy.Enforce ||
		len(e.After.Violations) == 0 || len(e.Before.Violations) != 0 || e.Before.Database.Checksum == e.After.Database.Checksum ||
		len(e.Advisories) != 1 || e.Advisories[0].ID != "CVE-2021-44228" || e.Advisories[0].Package != "log4j-core" || e.Advisories[0].Change != "new" {
		t.Errorf("%+v", e)
	}
	l.engine.pardon(turns.digest)
	l.engine.renew()
	l.reviewed()
	if es = l.events(); len(es) != 2 || es[1].Before.Allow || !es[1].After.Allow || len(es[1].Advisories) != 1 || es[1].Advisories[0].Change != "gone" {
		t.Errorf("%+v", es)
	}
	if got := l.origin.Requests()[asked:]; len(got) > 0 {
		t.Errorf("upstream was asked: %+v", got)
	}
	if l.get("GET", manifestPath("acme/app", "1.2"), patience, "Authorization", basic("ada")).status != 200 {
		t.Error("the image is not allowed again")
	}
}

// A restart, or another replica on the same Store, goes on where one stopped and tells
// nothing twice.
func TestReevaluationResumes(t *testing.T) {
	t.Parallel()
	stop := &stopAfter{kind: "events"}
	stop.left.Store(1 << 30)
	l := newLab(t, known("ada"), func(l *lab, _ *policy.Config) {
		stop.Store, l.gateway.Store = l.gateway.Store, stop
	})
	var imgs []*image
	for i := range 6 {
		img := l.push("acme/app", fmt.Sprint("t", i), 1000)
		l.pulledBy("ada", img, fmt.Sprint("t", i), 200)
		imgs = append(imgs, img)
	}
	l.reviewed()
	for _, img := range imgs {
		l.engine.condemn(img.digest)
	}
	l.engine.renew()
	stop.left.Store(3)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.gateway.Reevaluate(ctx) }()
	l.eventually("it stops in the middle", func() bool { return stop.left.Load() < 0 && !l.gateway.Reevaluation().Running })
	cancel()
	<-done
	if n := len(l.events()); n != 3 {
		t.Errorf("%d events before the restart", n)
	}
	stop.left.Store(1 << 30)
	two := l.another()
	if r := two.reviewed(); r.Denied != 6 || r.Done != 6 { // three of them before the restart
		t.Errorf("after the restart: %+v", r)
	}
	es := two.events()
	seen := map[string]bool{}
	for _, e := range es {
		seen[e.Image.Digest] = true
	}
	if len(es) != 6 || len(seen) != 6 {
		t.Errorf("%d events of %d images", len(es), len(seen))
	}
}

// stopAfter is a Store that fails, from some write of a kind on.
type stopAfter struct {
	cache.Store
	kind cache.Kind
	left atomic.Int64
}

func (s *stopAfter) PutField(ctx context.Context, k cache.Key, field string, value []byte, ttl time.Duration) error {
	if k.Kind() == s.kind && s.left.Add(-1) < 0 {
		return errors.New("the store is away")
	}
	return s.Store.PutField(ctx, k, field, value, ttl)
}

// An image whose SBOM is not kept any more is skipped: nothing is pulled for it.
func TestReevaluationWithoutSBOM(t *testing.T) {
	t.Parallel()
	lost := &losing{}
	l, _ := reviewedLab(t, func(l *lab, _ *policy.Config) {
		lost.Store, l.gateway.Scanner.Store = l.gateway.Store, lost
	})
	lost.now.Store(true)
	l.engine.renew()
	asked := len(l.origin.Requests())
	if r := l.reviewed(); r.Skipped != 1 || r.Done != 1 {
		t.Errorf("%+v", r)
	}
	if got := l.origin.Requests()[asked:]; len(got) > 0 {
		t.Errorf("upstream was asked: %+v", got)
	}
}

// losing is a Store that loses its SBOMs.
type losing struct {
	cache.Store
	now atomic.Bool
}

func (s *losing) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	if k.Kind() == "sbom" && s.now.Load() {
		return nil, cache.ErrNotExist
	}
	return s.Store.Get(ctx, k)
}

// Another database in the middle: it begins again with that one, and the event tells of
// the last verdict that there was.
func TestDatabaseChangesMeanwhile(t *testing.T) {
	t.Parallel()
	slow := &heldMatch{}
	l := newLab(t, known("ada"), func(l *lab, _ *policy.Config) {
		slow.engine, l.gateway.Scanner.Engine = l.engine, slow
	})
	img := l.push("acme/app", "1", 1000)
	l.pulledBy("ada", img, "1", 200)
	first := l.reviewed().Database
	gate := make(chan struct{})
	slow.gate.Store(&gate)
	l.engine.renew()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { l.gateway.Reevaluate(ctx) })
	l.eventually("it begins", func() bool { return l.gateway.Reevaluation().Running })
	l.engine.condemn(img.digest)
	l.engine.renew()
	close(gate)
	l.eventually("it has ended by the last one", func() bool {
		db, _ := l.engine.database(ctx)
		r := l.gateway.Reevaluation()
		return r.Database.Checksum == db.Checksum && !r.Running && r.Done == 1
	})
	cancel()
	wg.Wait()
	es := l.events()
	if len(es) != 1 || es[0].After.Allow {
		t.Fatalf("%+v", es)
	}
	if db := es[0].Before.Database; db == nil || db.Checksum != first.Checksum && !strings.HasPrefix(db.Checksum, first.Checksum) {
		t.Errorf("before: %+v", db)
	}
}

// heldMatch is an engine whose matches can be held.
type heldMatch struct {
	*engine
	gate atomic.Pointer[chan struct{}]
}

func (h *heldMatch) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	if gate := h.gate.Load(); gate != nil {
		select {
		case <-*gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return h.engine.Match(ctx, sbom, db)
}

// Images that nobody has pulled for a month are forgotten, and so is what can't be read.
func TestPulledLongAgo(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, known("ada"), func(l *lab, _ *policy.Config) { l.gateway.Now = clock.now })
	old := l.push("acme/app", "old", 1000)
	l.pulledBy("ada", old, "old", 200)
	clock.add(29 * 24 * time.Hour)
	l.pulledBy("ada", l.push("acme/app", "new", 1000), "new", 200)
	if r := l.reviewed(); r.Total != 2 {
		t.Errorf("%+v", r)
	}
	clock.add(2 * 24 * time.Hour)
	l.engine.renew()
	if r := l.reviewed(); r.Total != 1 {
		t.Errorf("%+v", r)
	}
}

// Pulls go first: while one runs, an image waits a second for it.
func TestReevaluationBehindPulls(t *testing.T) {
	t.Parallel()
	l, _ := reviewedLab(t)
	l.engine.hold()
	l.push("acme/app", "2", 1000)
	if r := l.get("GET", manifestPath("acme/app", "2"), patience, "Authorization", basic("ada")); r.status != 200 { // and its pull runs on
		t.Fatalf("%d %s", r.status, r.message())
	}
	l.engine.renew()
	begun := time.Now()
	l.reviewed()
	if took := time.Since(begun); took < time.Second {
		t.Errorf("it took only %v beside a pull", took)
	}
}
