package proxy

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/scan"
)

// A Journey is how a pull went, from the request that began it to the decision for who
// made that.
type Journey struct {
	Repo     Repo
	Digest   digest.Digest
	Caller   string
	Began    time.Time
	LastByte time.Time // that upstream sent of what the scan needed; Began where it needed nothing
	Decided  time.Time
	Bytes    int64 // read of the image
	Verdict  scan.Summary
	Findings int
	Decision string      // allow, deny, warn, dry-run or off; empty where none could be made
	Steps    []scan.Step // in the order in which they began
}

// Delay returns how long the decision took after the last byte.
func (j *Journey) Delay() time.Duration { return max(0, j.Decided.Sub(j.LastByte)) }

// arrive notes that upstream has sent all that it was asked for, as far as is known now.
func (p *pull) arrive() {
	now := time.Now()
	p.lastMu.Lock()
	defer p.lastMu.Unlock()
	if now.After(p.last) {
		p.last = now
	}
}

func (p *pull) lastByte() time.Time {
	p.lastMu.Lock()
	defer p.lastMu.Unlock()
	return p.last
}

// awaitArrival notes when all of a layer's blob is there. It returns when it is, or when
// ctx ends.
func (p *pull) awaitArrival(ctx context.Context, desc ocispec.Descriptor, blob *spool.Blob) {
	began := time.Now()
	if blob.Wait(ctx) == nil || blob.Committed() {
		p.arrive()
		p.steps.Add(scan.Step{Name: scan.StepFetch, Layer: desc.Digest, Began: began, Took: time.Since(began)})
	}
}

// backlog notes what of the layers was left to read when the last of them was there.
func (p *pull) backlog() {
	if last := p.lastByte(); !last.IsZero() {
		p.steps.Add(scan.Step{Name: scan.StepBacklog, Began: last, Took: time.Since(last)})
	}
}

// journey returns how p went, by the time it is decided. made is the decision.
func (p *pull) journey(made string) *Journey {
	j := &Journey{
		Repo: p.repo, Digest: p.m.Digest, Caller: p.caller.Name,
		Began: p.entered, LastByte: p.lastByte(), Decided: time.Now(), Bytes: p.fetched.Load(),
		Verdict: p.verdict.Scan, Findings: len(p.verdict.Findings), Decision: made, Steps: p.steps.Steps(),
	}
	if j.LastByte.IsZero() {
		j.LastByte = j.Began
	}
	return j
}

// observe measures a pull that was decided.
func (m *Metrics) observe(j *Journey) {
	for _, s := range j.Steps {
		m.stepSeconds.WithLabelValues(s.Name).Observe(s.Took.Seconds())
	}
	if j.Verdict.Cause == scan.CauseNone {
		m.delaySeconds.Observe(j.Delay().Seconds())
	}
}
