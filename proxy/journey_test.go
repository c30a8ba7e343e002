package proxy_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/scan"
)

// journeys has a lab report its pulls.
func journeys(to chan *proxy.Journey) change {
	return func(l *lab, _ *policy.Config) {
		l.gateway.Trace = func(ctx context.Context) func(*proxy.Journey) {
			if ctx.Value(http.ServerContextKey) == nil {
				l.Error("the pull was begun by no request")
			}
			return func(j *proxy.Journey) { to <- j }
		}
	}
}

// The delay of a decision counts from the last byte that upstream sent, so that a slow
// upstream is none of it and a slow catalogue is all of it.
func TestJourney(t *testing.T) {
	ended := make(chan *proxy.Journey, 1)
	l := newLab(t, journeys(ended))
	img := l.push("acme/app", "1", 300_000, 300_000)
	resume := make(chan struct{})
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches, l.origin.Stall(200_000, resume))
	l.engine.hold()
	began := time.Now()
	l.get("GET", "/v2/acme/app/manifests/1", 10*time.Second)
	resumed := time.Now()
	close(resume)
	catalogues := func() int {
		l.engine.mu.Lock()
		defer l.engine.mu.Unlock()
		return l.engine.scans
	}
	for deadline := time.Now().Add(time.Minute); catalogues() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is catalogued")
		}
	}
	catalogued := time.Now()
	time.Sleep(50 * time.Millisecond) // what the catalogue takes
	released := time.Now()
	l.engine.release()
	j := <-ended
	if j.Digest != img.digest || j.Decision != "allow" || j.Verdict.State != scan.Complete || j.Bytes < 600_000 {
		t.Errorf("%+v", j)
	}
	if j.Began.Before(began) || j.LastByte.Before(resumed) || j.LastByte.After(catalogued) || j.Decided.Before(released) || j.Delay() < released.Sub(catalogued) {
		t.Errorf("began %s, last byte %s, decided %s; resumed %s, catalogued %s, released %s", j.Began, j.LastByte, j.Decided, resumed, catalogued, released)
	}
	got := map[string]time.Duration{}
	count := map[string]int{}
	for _, s := range j.Steps {
		got[s.Name] += s.Took
		count[s.Name]++
	}
	if count[scan.StepFetch] != 2 || count[scan.StepGuard] != 2 || count[scan.StepBacklog] != 1 || count[scan.StepDecide] != 1 || got[scan.StepCatalogue] < released.Sub(catalogued) {
		t.Errorf("%v, %v", count, got)
	}
}

// A layer for which there is no room settles the image, although upstream never sends the
// rest of it.
func TestJourneyWithoutRoom(t *testing.T) {
	ended := make(chan *proxy.Journey, 1)
	l := newLab(t, journeys(ended), func(l *lab, _ *policy.Config) {
		small, err := spool.Open(filepath.Join(l.dir, "small"), 1<<20)
		if err != nil {
			l.Fatal(err)
		}
		l.gateway.Scanner.Layers.Close()
		l.gateway.Scanner.Layers = small
	})
	img := l.push("acme/app", "1", 8_000_000)
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches, l.origin.Stall(7_000_000, nil))
	l.get("GET", "/v2/acme/app/manifests/1", 10*time.Second)
	select {
	case j := <-ended:
		if j.Verdict.Cause != scan.CauseNoRoom || j.Decision != "deny" {
			t.Errorf("%+v", j)
		}
	case <-time.After(20 * time.Second):
		t.Error("the pull waits for bytes that nobody needs")
	}
}
