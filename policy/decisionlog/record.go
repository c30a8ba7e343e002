package decisionlog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// A Record is one decision as it is written, in the fields of OPA's decision logs.
type Record struct {
	DecisionID string            `json:"decision_id"` // that the client's error names
	Timestamp  time.Time         `json:"timestamp"`
	Labels     map[string]string `json:"labels"`
	Path       string            `json:"path"` // sluice/policies
	Bundles    map[string]bundle `json:"bundles"`
	Input      Input             `json:"input"`
	Result     Result            `json:"result"`
	Metrics    map[string]int64  `json:"metrics"` // nanoseconds
}

type bundle struct {
	Revision string `json:"revision"`
}

// Input is the part of a policy.Input that is kept: who asked for what, and what the scan
// has come to.
type Input struct {
	Request policy.Request `json:"request"`
	Image   Image          `json:"image"`
	Scan    Scan           `json:"scan"`
}

// An Image is the part of a policy.Image that names it.
type Image struct {
	Reference  string   `json:"reference"`
	Registry   string   `json:"registry"`
	Repository string   `json:"repository"`
	Digest     string   `json:"digest"`
	Platform   string   `json:"platform"`
	Tags       []string `json:"tags"`
	Indexes    []string `json:"indexes,omitempty"`
}

// A Scan is the part of a scan.Summary that says by what was decided.
type Scan struct {
	State    scan.State     `json:"state"`
	Cause    scan.Cause     `json:"cause,omitempty"`
	Database *scan.Database `json:"database,omitempty"`
	Counts   scan.Counts    `json:"counts"`
}

// A Result is the decision.
type Result struct {
	Allow      bool               `json:"allow"`   // what the policies say
	Blocked    bool               `json:"blocked"` // whether it is refused, in its mode
	Mode       policy.Mode        `json:"mode"`
	Cause      scan.Cause         `json:"cause,omitempty"`
	Violations []policy.Violation `json:"violations"` // each with its mode
	Warnings   []policy.Violation `json:"warnings"`
	Waived     []policy.Waived    `json:"waived"`
}

func recordOf(in *policy.Input, d *policy.Decision, now time.Time, took time.Duration, labels map[string]string) Record {
	return Record{
		DecisionID: d.ID, Timestamp: now.UTC(), Labels: labels, Path: "sluice/policies",
		Bundles: map[string]bundle{"policies": {d.Revision}},
		Input: Input{
			Request: in.Request,
			Image: Image{in.Image.Reference, in.Image.Registry, in.Image.Repository, in.Image.Digest, in.Image.Platform,
				in.Image.Tags, in.Image.Indexes},
			Scan: Scan{in.Scan.State, in.Scan.Cause, in.Scan.Database, in.Scan.Counts},
		},
		Result:  Result{d.Allow, d.Blocks(), d.Mode, d.Cause, d.Violations, d.Warnings, d.Waived},
		Metrics: map[string]int64{"timer_sluice_decide_ns": took.Nanoseconds()},
	}
}

// A Masker says what of a record must not be written: *policy.Engine.
type Masker interface {
	Mask(ctx context.Context, record any) ([]policy.Mask, error)
}

// encode masks a record and returns it as one line of JSON. Where the masks can't be had
// the line has neither input nor reasons.
func encode(ctx context.Context, r *Record, m Masker) ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	masks, err := m.Mask(ctx, doc)
	if err == nil && len(masks) == 0 {
		return append(b, '\n'), nil
	}
	if err == nil {
		err = apply(doc, masks)
	}
	if err != nil {
		doc["input"] = map[string]any{}
		doc["result"] = map[string]any{"allow": r.Result.Allow, "blocked": r.Result.Blocked, "mode": r.Result.Mode}
		doc["erased"] = []string{"/input", "/result"}
		delete(doc, "masked")
		err = fmt.Errorf("mask the decision %s: %w", r.DecisionID, err)
	}
	if b, e := json.Marshal(doc); e == nil {
		return append(b, '\n'), err
	}
	return nil, err
}
