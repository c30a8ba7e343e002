package policy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicegate/sluice/policy/vex"
	"github.com/sluicegate/sluice/scan"
)

// Names of the two violations that come from the engine itself. No policy may use
// them and no waiver can set them aside.
const (
	PolicyError = "policy_error" // policy could not decide
	KillList    = "kill_list"    // the digest is on the kill list
)

const (
	// defaultTimeout is many times what the default policies need for an image with
	// two thousand findings, and less than a person notices in a pull.
	defaultTimeout = 200 * time.Millisecond
	// patience is how many times longer a second try may take, where the first ran out
	// of time. Decisions fall due when a scan ends, with every core busy: an evaluation
	// of 17 ms was seen to take more than 200 at five runnable threads a core, and a
	// denial for that would be wrong. A policy that is slow by itself is late twice.
	patience = 4
	// errorTTL keeps a policy that fails, or runs into its deadline, from being
	// evaluated again for each request of a client that retries at once.
	errorTTL = time.Second
)

// Config says where policies, waivers and the kill list come from. The zero value
// is useful: the embedded defaults, enforced.
type Config struct {
	Dir        string        // directory of *.rego files in place of the embedded defaults; "" for these
	Bundle     string        // file with a bundle in OPA's format, in place of Dir; "" for none
	BundleKeys []BundleKey   // one of which must have signed the bundle; none: nobody needs to
	Origin     string        // what Status calls the bundle; "" is its file's name
	Behind     func() error  // why the bundle's file could not be brought up to date; nil for never
	Mode       Mode          // of what no rule of Modes covers; "" is Enforce
	Modes      []ModeRule    // the first that matches counts
	WaiverFile string        // "" for no waivers; named, it must exist when the engine is opened
	KillFile   string        // "" for none; named, it must exist when the engine is opened
	Kill       []string      // digests that are never served, each with an optional " # reason"
	Exceptions *Exceptions   // waivers in a Store and VEX documents; nil for none
	Timeout    time.Duration // of one evaluation, which gets a second, longer try; 0 is 200 ms
	Now        func() time.Time
	Log        *slog.Logger
}

func (c *Config) behind() error {
	if c.Behind == nil {
		return nil
	}
	return c.Behind()
}

// An Engine decides. All its methods may be called concurrently.
type Engine struct {
	c        Config
	modes    modes
	fixed    killList // Config.Kill, parsed
	current  atomic.Pointer[snapshot]
	combined atomic.Pointer[combination] // the last one of current and c.Exceptions
	evals    chan struct{}               // one place for each evaluation that may run at once
	explains chan struct{}               // a place for the explanation that is made now
	memory   *memory

	mu    sync.Mutex // serialises loading; guards tried and state
	tried sums       // content that was last looked at, good or bad
	state loadState
}

// A snapshot is everything that decides, at one moment. It is never changed.
type snapshot struct {
	program  *program
	waivers  *waiverSet
	vex      *vex.Set // nil for none
	attested bool     // VEX of attestations counts
	kill     killList
	revision string
}

// Open loads policies, waivers and kill list, runs the policies' own tests and
// evaluates them once. Anything wrong with any of them is an error that names file
// and line, but for single lines of the kill file: these are logged, and the others
// hold. ctx bounds the loading only.
func Open(ctx context.Context, c Config) (*Engine, error) {
	modes, err := newModes(c.Mode, c.Modes)
	if err != nil {
		return nil, err
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		c:        c,
		modes:    modes,
		evals:    make(chan struct{}, runtime.GOMAXPROCS(0)),
		explains: make(chan struct{}, 1),
		memory:   newMemory(),
	}
	if e.fixed, err = parseKillLines("kill", c.Kill); err != nil {
		return nil, err
	}
	if err := e.load(ctx, e.read()); err != nil {
		return nil, err
	}
	return e, nil
}

// Decide returns the opinion of the policies about one image and one caller. It
// never fails: a policy that is undefined, errs, runs out of time or returns
// something of the wrong shape gives a Decision that denies, with the cause
// policy_error. The kill list comes before everything and holds in every mode.
//
// A Decision may be remembered until the next whole minute, and never beyond the expiry of a
// waiver, or the end of a grace period of whole hours or days from any time in the input; the
// same decision then has the same ID. Its slices must not be modified.
func (e *Engine) Decide(ctx context.Context, in Input) Decision {
	if in.Now.IsZero() {
		in.Now = e.c.Now()
	}
	in.Now = in.Now.UTC()
	s := e.snapshot()
	if reason, ok := s.kill.find(in.Image.Digest, in.Image.Indexes...); ok {
		return e.killed(s, reason)
	}
	if reason, ok := s.kill.find("", in.Image.Aliases...); ok {
		return e.killed(s, reason)
	}
	if e.modes.strictest(in.Image.Registry, in.Image.Repository) == Off {
		d := e.newDecision(s)
		d.Allow = true
		return d
	}
	key := keyOf(s, &in)
	if d, ok := e.memory.get(key, in.Now); ok {
		return d
	}
	select {
	case e.evals <- struct{}{}:
		defer func() { <-e.evals }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return e.undecided(s, &in.Image, fmt.Errorf("the caller left: %w", context.Cause(ctx)))
	}
	// Others that waited for the same decision may have made it meanwhile.
	if d, ok := e.memory.get(key, in.Now); ok {
		return d
	}
	d, err := e.decide(ctx, s, in)
	until := in.Now.Add(maxAge)
	if err != nil {
		d, until = e.undecided(s, &in.Image, err), in.Now.Add(errorTTL)
		e.c.Log.ErrorContext(ctx, "policy could not decide", "digest", in.Image.Digest, "error", err)
	}
	if next, ok := s.waivers.nextExpiry(in.Now); ok && next.Before(until) {
		until = next
	}
	if next := nextHour(&in); next.Before(until) {
		until = next
	}
	if ctx.Err() == nil { // a caller who left says nothing about the policy
		e.memory.put(key, d, in.Now, until)
	}
	return d
}

// decide applies waivers to findings, evaluates, and applies waivers to violations.
func (e *Engine) decide(ctx context.Context, s *snapshot, in Input) (Decision, error) {
	waivers := s.waivers.active(&in)
	active, waived := s.suppress(&in, waivers)
	out, err := s.program.eval(ctx, &in, active, e.c.Timeout)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		out, err = s.program.eval(ctx, &in, active, patience*e.c.Timeout)
	}
	if err != nil {
		return Decision{}, err
	}
	d := e.newDecision(s)
	var more []Waived
	d.Violations, more = waivers.violations(out.violations)
	s.waivers.tellExpired(&in, active, d.Violations)
	waived = append(waived, more...)
	d.Warnings, more = waivers.violations(out.warnings)
	d.Waived = append(append(d.Waived, waived...), more...)
	e.modes.apply(&d, &in.Image)
	return d, nil
}

func (e *Engine) newDecision(s *snapshot) Decision {
	return Decision{
		ID:         rand.Text(),
		Mode:       Off,
		Violations: []Violation{},
		Warnings:   []Violation{},
		Waived:     []Waived{},
		Revision:   s.revision,
	}
}

func (e *Engine) killed(s *snapshot, reason string) Decision {
	d := e.newDecision(s)
	d.Mode = Enforce
	msg := "the image is on the kill list"
	if reason != "" {
		msg += ": " + reason
	}
	d.Violations = []Violation{{
		Policy:      KillList,
		Message:     clip(msg, maxMessage),
		Findings:    []string{},
		Remediation: "Use another image, or ask who keeps the kill list.",
		Mode:        Enforce,
	}}
	return d
}

// undecided returns the denial where policy could not decide. What exactly went wrong
// is for the log: a client learns nothing of the policies' insides.
func (e *Engine) undecided(s *snapshot, a *Image, err error) Decision {
	d := e.newDecision(s)
	d.Cause = scan.CausePolicyError
	msg := "policy could not decide"
	if errors.Is(err, context.DeadlineExceeded) {
		msg = "policy could not decide in time"
	}
	d.Violations = []Violation{{
		Policy:      PolicyError,
		Message:     msg,
		Findings:    []string{},
		Remediation: "Tell who keeps the policies; the gateway's log names file and line.",
	}}
	e.modes.apply(&d, a)
	return d
}

// Killed reports whether one of the digests, of an image or an index, is on the
// kill list, and the reason given there, which may be empty.
func (e *Engine) Killed(digests ...string) (reason string, killed bool) {
	return e.current.Load().kill.find("", digests...)
}

// Revision names the content of the policies, waivers and modes that decide now. Equal
// content has the same revision in every process.
func (e *Engine) Revision() string { return e.snapshot().revision }

// Names reports whether a policy may call itself so in what it says. Who makes names up of
// parts can't be told: then it is no.
func (e *Engine) Names(policy string) bool {
	p := e.snapshot().program
	return p.words[policy] || slices.ContainsFunc(p.listings, func(l Listing) bool { return l.Package == policy })
}
