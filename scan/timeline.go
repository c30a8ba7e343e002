package scan

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// The steps from the first request of an image to its decision. Those of proxy.Gateway
// stand here too, so that there is one list.
const (
	StepQueue     = "queue"     // the pull waits for a place to run
	StepConfig    = "config"    // the config is brought
	StepLookup    = "lookup"    // what is known of the image's layers is read from the Store
	StepFetch     = "fetch"     // a layer, until its last byte is there
	StepGuard     = "guard"     // a layer goes through the stream guard, as it is fetched
	StepBacklog   = "backlog"   // what the guard has still to read when the last byte is there
	StepCatalogue = "catalogue" // from the last layer to the SBOM
	StepStore     = "store"     // SBOM and record are written, beside the match
	StepMatch     = "match"     // from the SBOM to the verdict
	StepDecide    = "decide"    // from the verdict to the decision for who asked first
)

// Parts of StepCatalogue.
const (
	StepPlace         = "place"         // the image waits for a place in a worker process
	StepIndex         = "index"         // the files of layers that were not indexed as they came
	StepTurn          = "turn"          // other images are catalogued
	StepPackages      = "packages"      // syft's cataloguers, and relationships of its own
	StepRelationships = "relationships" // those between packages and files
	StepEncode        = "encode"        // the SBOM as JSON
)

// Parts of StepMatch.
const (
	StepOpen      = "open"       // the database, when it is new to the process
	StepDecode    = "decode"     // the SBOM
	StepSearch    = "search"     // the database
	StepFindings  = "findings"   // what is said of each match
	StepFirstSeen = "first_seen" // when advisories were first seen, from the Store
	StepKeep      = "keep"       // the verdict is written to the Store
)

// parts names the steps that are parts of others.
var parts = map[string]string{
	StepPlace: StepCatalogue, StepIndex: StepCatalogue, StepTurn: StepCatalogue, StepPackages: StepCatalogue, StepRelationships: StepCatalogue, StepEncode: StepCatalogue,
	StepOpen: StepMatch, StepDecode: StepMatch, StepSearch: StepMatch, StepFindings: StepMatch, StepFirstSeen: StepMatch, StepKeep: StepMatch,
}

// A Step is one part of the work on an image, with when it was done.
type Step struct {
	Name  string        `json:"name"` // one of the Step constants
	Layer digest.Digest `json:"layer,omitempty"`
	Began time.Time     `json:"began"`
	Took  time.Duration `json:"took"` // nanoseconds
}

// End returns when the step was over.
func (s Step) End() time.Time { return s.Began.Add(s.Took) }

// Within returns the name of the step that s is a part of, empty where it is none.
func (s Step) Within() string { return parts[s.Name] }

// maxSteps bounds a Timeline: two for each layer, and a few dozens. What comes after is
// dropped.
const maxSteps = 1000

// A Timeline collects the steps of the work that was given its Context. The zero value
// is ready; it may be used concurrently, and so may a nil one, which collects nothing.
type Timeline struct {
	mu    sync.Mutex // guards steps
	steps []Step
}

type timelineKey struct{}

// Context returns a context for work whose steps t is to collect.
func (t *Timeline) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, timelineKey{}, t)
}

// timeline returns the Timeline that ctx belongs to, or nil.
func timeline(ctx context.Context) *Timeline {
	t, _ := ctx.Value(timelineKey{}).(*Timeline)
	return t
}

// Timed notes on the Timeline of ctx, if it has one, that a step lasted from this call
// to that of the function returned.
func Timed(ctx context.Context, name string) (end func()) {
	t := timeline(ctx)
	if t == nil {
		return func() {}
	}
	began := time.Now()
	return func() { t.Add(Step{Name: name, Began: began, Took: time.Since(began)}) }
}

// Add adds steps.
func (t *Timeline) Add(steps ...Step) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range steps {
		if len(t.steps) < maxSteps {
			t.steps = append(t.steps, s)
		}
	}
}

// Steps returns the steps that have ended, in the order in which they began.
func (t *Timeline) Steps() []Step {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.Clone(t.steps)
	slices.SortStableFunc(out, func(a, b Step) int { return a.Began.Compare(b.Began) })
	return out
}

// clamp returns t, or the end of s that it lies beyond.
func (s Step) clamp(t time.Time) time.Time {
	switch {
	case t.Before(s.Began):
		return s.Began
	case t.After(s.End()):
		return s.End()
	}
	return t
}

// consume notes a step that an Engine did from began until now, and the parts of it that
// the Engine reports. It is not trusted with them: a part is what parts names, once, and
// lies within the step.
func consume(ctx context.Context, name string, began time.Time, reported []Step) {
	t := timeline(ctx)
	if t == nil {
		return
	}
	whole := Step{Name: name, Began: began, Took: time.Since(began)}
	t.Add(whole)
	seen := map[string]bool{}
	for _, s := range reported {
		if s.Within() != name || seen[s.Name] || s.Took < 0 {
			continue
		}
		seen[s.Name] = true
		from, to := whole.clamp(s.Began), whole.clamp(s.End())
		t.Add(Step{Name: s.Name, Began: from, Took: to.Sub(from)})
	}
}
