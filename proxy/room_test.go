package proxy

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What nobody has time to raise is dropped and counted: no pull waits for it.
func TestHappenedNeverBlocks(t *testing.T) {
	r := prometheus.NewRegistry()
	g := &Gateway{Metrics: NewMetrics(r), news: make(chan *Event, newsWaiting)}
	for range newsWaiting + 10 {
		g.happened(&Event{Type: PullDenied})
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "sluice_events_dropped_total" && f.GetMetric()[0].GetCounter().GetValue() == 10 {
			return
		}
	}
	t.Error("10 dropped events are not counted")
}

// Pulls that are denied take no room from other events, and of all there is an end.
func TestRoom(t *testing.T) {
	g := &Gateway{}
	at := time.Now()
	kept := map[string]int{}
	for range 2 * maxHourEvents {
		for _, kind := range []string{PullDenied, VerdictChanged} {
			if e := g.room(&Event{Type: kind, Time: at}); e != nil && e.Type == EventsOmitted {
				kept[e.Type+" "+e.Details.Type]++
			} else if e != nil {
				kept[e.Type]++
			}
		}
	}
	want := map[string]int{PullDenied: maxHourPulls, VerdictChanged: maxHourEvents, EventsOmitted + " " + PullDenied: 1, EventsOmitted + " " + VerdictChanged: 1}
	for kind, n := range want {
		if kept[kind] != n {
			t.Errorf("%d of %s are kept, want %d", kept[kind], kind, n)
		}
	}
	if e := g.room(&Event{Type: PullDenied, Time: at.Add(time.Hour)}); e == nil || e.Type != PullDenied {
		t.Errorf("an hour later: %+v", e)
	}
}
