package policy

import (
	"context"
	"time"
)

const (
	// explainTimeout bounds an explanation: fifty evaluations of what the largest images
	// have take two seconds.
	explainTimeout = 10 * time.Second
	turnDays       = 30 // that are looked ahead
)

// A Turn is when time alone makes an image allowed or denied: a grace period ends, a
// waiver ends, a cooldown is over. Findings of later databases are not known to it.
type Turn struct {
	At         time.Time   `json:"at"` // to the minute: until then it is as now
	Allow      bool        `json:"allow"`
	Blocks     bool        `json:"blocks"`
	Violations []Violation `json:"violations"` // from then on; never null in JSON
}

// replay decides as at in.Now by what s holds, past what is remembered.
func (e *Engine) replay(ctx context.Context, s *snapshot, in Input) (Decision, error) {
	select {
	case e.evals <- struct{}{}:
		defer func() { <-e.evals }()
	case <-ctx.Done():
		return Decision{}, ctx.Err()
	}
	return e.decide(ctx, s, in)
}

// turn looks for the first time within 30 days at which d would be another, nil where
// there is none or it can't be told.
func (e *Engine) turn(ctx context.Context, s *snapshot, in Input, d Decision) *Turn {
	differs := func(at time.Time) (Decision, bool, error) {
		in.Now = at
		then, err := e.replay(ctx, s, in)
		return then, then.Allow != d.Allow || then.Blocks() != d.Blocks(), err
	}
	same := in.Now
	for range turnDays {
		later := same.Add(24 * time.Hour)
		then, turned, err := differs(later)
		if err != nil {
			return nil
		}
		if !turned {
			same = later
			continue
		}
		for later.Sub(same) > time.Minute {
			middle := same.Add(later.Sub(same) / 2)
			other, turned, err := differs(middle)
			switch {
			case err != nil:
				return nil
			case turned:
				later, then = middle, other
			default:
				same = middle
			}
		}
		return &Turn{At: later.Truncate(time.Minute), Allow: then.Allow, Blocks: then.Blocks(), Violations: nonNil(then.Violations)}
	}
	return nil
}
