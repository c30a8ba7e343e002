package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/sluicegate/sluice/scan"
)

// smoke evaluates the policies on an image with everything and one with nothing, so
// that a policy that always errs is refused when it is loaded, not when it is needed.
func (p *program) smoke(ctx context.Context, timeout time.Duration) error {
	for _, in := range []Input{sampleFull(), sampleEmpty()} {
		var err error
		// A busy machine can make one evaluation late; a policy that is slow is late each time.
		for range 3 {
			if _, err = p.eval(ctx, &in, in.Findings, timeout); !errors.Is(err, context.DeadlineExceeded) {
				break
			}
		}
		if errors.Is(err, context.DeadlineExceeded) {
			if at := p.busiest(ctx, &in, timeout); at != "" {
				err = fmt.Errorf("%s: %w, most of that time here: ask for less, or bound what is gone through", at, err)
			}
		}
		if err != nil {
			return fmt.Errorf("try policies on a sample: %w", err)
		}
	}
	in := sampleFull()
	record := map[string]any{"decision_id": "sample", "input": map[string]any{"request": in.Request, "image": in.Image, "scan": in.Scan}, "result": map[string]any{"allow": true}}
	if _, err := p.masks(ctx, record, in.Now); err != nil {
		return fmt.Errorf("try the masks of the decision log on a sample: %w", err)
	}
	return nil
}

// busiest returns the file and line that policies which run out of time are longest at, ""
// where they don't.
func (p *program) busiest(ctx context.Context, in *Input, timeout time.Duration) (at string) {
	input, err := inputValue(in, in.Findings)
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	t := &busyTracer{spent: map[fileLine]time.Duration{}, since: time.Now()}
	if _, err = p.query.Eval(ctx, rego.EvalParsedInput(input), rego.EvalTime(in.Now), rego.EvalQueryTracer(t)); err == nil || ctx.Err() == nil {
		return ""
	}
	t.move(t.at)
	most := time.Duration(0)
	for line, spent := range t.spent {
		if spent > most && line.file != "" {
			at, most = fmt.Sprintf("%s:%d", line.file, line.row), spent
		}
	}
	return at
}

// A busyTracer measures how long an evaluation is at each line.
type busyTracer struct {
	spent map[fileLine]time.Duration
	at    fileLine
	since time.Time
}

type fileLine struct {
	file string
	row  int
}

func (t *busyTracer) move(to fileLine) {
	now := time.Now()
	t.spent[t.at] += now.Sub(t.since)
	t.at, t.since = to, now
}

var _ topdown.QueryTracer = (*busyTracer)(nil)

// Enabled implements topdown.QueryTracer.
func (t *busyTracer) Enabled() bool { return true }

// Config implements topdown.QueryTracer.
func (t *busyTracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent implements topdown.QueryTracer.
func (t *busyTracer) TraceEvent(e topdown.Event) {
	if e.Location != nil {
		t.move(fileLine{e.Location.File, e.Location.Row})
	}
}

func sampleEmpty() Input {
	return Input{
		Request: Request{Action: "pull", Groups: []string{}},
		Image:   Image{Tags: []string{}},
		Scan:    scan.Summary{State: scan.Failed, Cause: scan.CauseScanFailed, Coverage: scan.Coverage{Problems: []scan.Problem{}}},
		Now:     time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func sampleFull() Input {
	in := sampleEmpty()
	db := scan.Database{Built: in.Now, Checksum: "xxh64:0"}
	in.Image = Image{
		Reference: "registry.example/a/b:1", Registry: "registry.example", Repository: "a/b",
		Digest: "sha256:" + strings.Repeat("0", 64), Platform: "linux/amd64", Tags: []string{"1"},
		Created: "2025-01-01T00:00:00Z", User: "65532",
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"a": "b"},
		Env: []string{"PATH"}, Size: 1 << 20, Layers: 1,
		Base: &Base{Name: "registry.example/base:1", LatestDigest: "sha256:" + strings.Repeat("1", 64), Outdated: new(bool), Verified: new(bool)},
	}
	signature := Signature{Verified: true, Kind: "keyless", Format: "bundle", Subject: in.Image.Digest,
		Issuer: "https://issuer.example", Identity: "https://ci.example/a/b", Time: "2025-01-01T00:00:00Z"}
	in.Image.Signatures = []Signature{signature, {Kind: "key", Format: "cosign-tag", Subject: in.Image.Digest, Error: "no trusted key made it"}}
	in.Image.Attestations = []Attestation{{Signature: signature, PredicateType: "https://slsa.dev/provenance/v1", Predicate: map[string]any{}}}
	in.Scan = scan.Summary{
		State: scan.Complete, ScannedAt: in.Now, Packages: 2, Database: &db,
		Coverage: scan.Coverage{Distro: "wolfi", DistroKnown: true, DistroEOL: "2025-06-01", Problems: []scan.Problem{}},
		Counts:   scan.Counts{Critical: 1, High: 1, Unknown: 1},
	}
	fix := scan.Fix{State: "fixed", Versions: []string{"2"}, Available: "2025-01-01"}
	pkg := scan.Package{Name: "sample", Version: "1", Type: "apk", PURL: "pkg:apk/wolfi/sample@1", Licenses: []string{"MIT"}}
	in.Packages = []scan.Package{pkg, {Name: "other", Version: "2", Type: "apk", PURL: "pkg:apk/wolfi/other@2"}}
	for _, f := range []scan.Finding{
		{ID: "CVE-2025-0001", Severity: "critical", CVSS: 9.8, EPSS: 0.9, Percentile: 0.99, KEV: "2025-01-02", Published: "2025-01-01", Fix: fix},
		{ID: "CVE-2025-0002", Severity: "high", Fix: scan.Fix{State: "fixed", Versions: []string{"2"}}},
		{ID: "CVE-2025-0003", Severity: "unknown", Fix: scan.Fix{State: "unknown", Versions: []string{}}},
	} {
		f.Package, f.Aliases, f.FirstSeen = pkg, []string{}, "2025-01-01"
		in.Findings = append(in.Findings, f)
	}
	in.History = History{FirstSeen: "2025-01-01T00:00:00Z", PreviouslyAllowed: true, LastAllowed: "2025-01-01T00:00:00Z"}
	return in
}
