package scan

import (
	"context"
	"testing"
	"time"
)

// A worker that was taken over by what it read names steps that are none, claims the
// gateway's own, repeats itself and lies about when. Labels of metrics are made of names,
// and spans of times: what comes out is bounded by what the gateway saw itself.
func TestConsumeTrustsNoEngine(t *testing.T) {
	var line Timeline
	began := time.Now().Add(-time.Second)
	var many []Step
	for range 10 * maxSteps {
		many = append(many, Step{Name: StepEncode, Began: began.Add(time.Millisecond), Took: time.Millisecond})
	}
	consume(line.Context(context.Background()), StepCatalogue, began, append([]Step{
		{Name: "x\nsluice_up 1", Began: began, Took: 1},
		{Name: StepDecide, Began: began, Took: 1},
		{Name: StepSearch, Began: began, Took: 1}, // of the match
		{Name: StepIndex, Began: began.Add(-time.Hour), Took: 2 * time.Hour},
		{Name: StepTurn, Began: began.Add(time.Hour), Took: 5},
		{Name: StepPackages, Began: began, Took: -5},
	}, many...))
	got := map[string]Step{}
	for _, s := range line.Steps() {
		if _, twice := got[s.Name]; twice {
			t.Errorf("%s is there twice", s.Name)
		}
		got[s.Name] = s
	}
	whole := got[StepCatalogue]
	for name, s := range got {
		if s.Took < 0 || s.Took > whole.Took || s.Began.Before(whole.Began) || s.End().After(whole.End()) {
			t.Errorf("%s: %s from %s lies outside of %s from %s", name, s.Took, s.Began, whole.Took, whole.Began)
		}
		if name != StepCatalogue && s.Within() != StepCatalogue {
			t.Errorf("%q is no part of the catalogue", name)
		}
	}
	if len(got) != 4 || whole.Took < time.Second || got[StepIndex].Took != whole.Took {
		t.Errorf("got %v", got)
	}
}

func TestTimeline(t *testing.T) {
	Timed(context.Background(), StepMatch)() // nobody listens
	var none *Timeline
	none.Add(Step{})
	if got := none.Steps(); got != nil {
		t.Error(got)
	}
	var line Timeline
	outer := Timed(line.Context(context.Background()), StepMatch)
	Timed(line.Context(context.Background()), StepDecode)()
	outer()
	steps := line.Steps()
	if len(steps) != 2 || steps[0].Name != StepMatch || steps[1].Within() != StepMatch || steps[1].End().After(steps[0].End()) {
		t.Errorf("%v", steps)
	}
	for range 2 * maxSteps {
		line.Add(Step{})
	}
	if n := len(line.Steps()); n != maxSteps {
		t.Errorf("%d steps, at most %d", n, maxSteps)
	}
}
