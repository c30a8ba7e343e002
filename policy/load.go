package policy

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Status is what the engine works with, and what is wrong with what it was given.
type Status struct {
	Source    string    `json:"source"` // the directory, the bundle, or "embedded defaults"
	Mode      Mode      `json:"mode"`
	Revision  string    `json:"revision"`
	Bundle    string    `json:"bundle_revision,omitempty"` // that the bundle says of itself
	LoadedAt  time.Time `json:"loaded_at"`                 // when any part last changed
	LastError string    `json:"last_error,omitempty"`
	Policies  int       `json:"policies"`        // packages below sluice.policies
	Waivers   int       `json:"waivers"`         // that hold now
	Expired   []string  `json:"expired"`         // IDs of waivers that are over and ignored
	Expiring  []string  `json:"expiring"`        // IDs of waivers that end within 7 days
	VEX       int       `json:"vex"`             // documents
	Killed    int       `json:"killed"`          // digests on the kill list
	Hints     []string  `json:"hints,omitempty"` // rules that refuse nothing where a field is absent, by file and line
}

// files is what the engine's files hold at one moment, good or bad.
type files struct {
	sources            sources
	bundle             []byte // in place of sources
	keys               keySet
	waivers, kill      []byte
	policyErr          error
	waiverErr, killErr error
	sums               sums
}

// sums identify content, or the error met instead.
type sums struct{ policies, waivers, kill string }

type loadState struct {
	loadedAt                      time.Time
	policyErr, waiverErr, killErr error
	waiversBad                    time.Time // since when the waiver file is no good; zero where it is
}

func (s *loadState) err() error { return errors.Join(s.policyErr, s.waiverErr, s.killErr) }

// read reads everything, remembering errors by part.
func (e *Engine) read() files {
	var f files
	switch {
	case e.c.Bundle != "":
		var sum string
		if f.keys, sum, f.policyErr = readKeys(e.c.BundleKeys, e.c.Now()); f.policyErr == nil {
			f.bundle, f.policyErr = readBounded(e.c.Bundle, MaxBundle)
		}
		f.sums.policies = sumOf(f.bundle, f.policyErr) + sum
	case e.c.Dir == "":
		sub, err := fs.Sub(defaults, "default")
		if err == nil {
			f.sources, err = readSources(sub, "embedded")
		}
		f.policyErr = err
	default:
		f.sources, f.policyErr = readSources(os.DirFS(e.c.Dir), e.c.Dir)
	}
	if e.c.Bundle == "" {
		f.sums.policies = f.sources.sum() + errText(f.policyErr)
	}
	f.waivers, f.waiverErr = readBounded(e.c.WaiverFile, maxWaiverFile)
	f.sums.waivers = sumOf(f.waivers, f.waiverErr)
	f.kill, f.killErr = readBounded(e.c.KillFile, maxKillFile)
	f.sums.kill = sumOf(f.kill, f.killErr)
	return f
}

func sumOf(b []byte, err error) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:]) + errText(err)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return " " + err.Error()
}

// readBounded reads a file whole; no name, no content.
func readBounded(name string, limit int64) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: larger than %d MiB", name, limit>>20)
	}
	return b, err
}

// load makes a snapshot of what changed in f and keeps what didn't. What is bad
// leaves the last good part in place, and is reported; the first load, which has
// nothing to fall back on, then fails.
func (e *Engine) load(ctx context.Context, f files) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	next, state := snapshot{waivers: &waiverSet{}, kill: e.fixed}, e.state
	old := e.current.Load()
	if old != nil {
		next = *old
	}
	if f.sums.policies != e.tried.policies {
		p, err := e.compileFiles(ctx, f)
		if err == nil {
			next.program = p
		}
		state.policyErr = err
	}
	if f.sums.waivers != e.tried.waivers {
		w, err := waiversOf(e.c.WaiverFile, f)
		switch {
		case err == nil:
			next.waivers, state.waiversBad = w, time.Time{}
		case state.waiversBad.IsZero():
			state.waiversBad = e.c.Now()
		}
		state.waiverErr = next.waivers.kept(err, state.waiversBad)
	}
	if f.sums.kill != e.tried.kill {
		next.kill, state.killErr = e.killOf(next.kill, f)
	}
	if ctx.Err() != nil { // not the fault of the files: they are tried again
		return ctx.Err()
	}
	err := state.err()
	if old == nil && err != nil {
		if state.policyErr != nil || state.waiverErr != nil || f.killErr != nil {
			return err
		}
		e.c.Log.ErrorContext(ctx, "the kill list has errors; its good lines hold", "error", err)
		err = nil
	}
	next.revision = e.revisionOf(&next)
	state.loadedAt = e.c.Now().UTC()
	e.tried, e.state = f.sums, state
	e.current.Store(&next)
	return err
}

func (e *Engine) revisionOf(s *snapshot) string {
	revision := s.program.revision
	for _, r := range []string{s.waivers.revision, e.modes.revision()} {
		if r != "" {
			revision += "-" + r
		}
	}
	return revision
}

func (e *Engine) compileFiles(ctx context.Context, f files) (*program, error) {
	if f.policyErr != nil {
		return nil, f.policyErr
	}
	if f.bundle != nil {
		var err error
		if f.sources, err = readBundle(cmp.Or(e.c.Origin, e.c.Bundle), f.bundle, f.keys, e.c.Now()); err != nil {
			return nil, fmt.Errorf("policies: %w", err)
		}
	}
	p, err := compile(ctx, f.sources, e.c.Timeout)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	return p, nil
}

func waiversOf(name string, f files) (*waiverSet, error) {
	if f.waiverErr != nil {
		return nil, fmt.Errorf("waivers: %w", f.waiverErr)
	}
	if name == "" {
		return &waiverSet{}, nil
	}
	w, err := parseWaivers(name, f.waivers)
	if err != nil {
		return nil, fmt.Errorf("waivers: %w", err)
	}
	return w, nil
}

// maxNamed is how many waivers one error names.
const maxNamed = 10

func (w *waiverSet) names() string {
	var ids []string
	for i := range w.all[:min(len(w.all), maxNamed)] {
		ids = append(ids, clip(w.all[i].ID, 60))
	}
	if n := len(w.all) - maxNamed; n > 0 {
		ids = append(ids, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(ids, ", ")
}

// kept adds to what is wrong with a waiver file which waivers of the one before still hold,
// and until when.
func (w *waiverSet) kept(err error, since time.Time) error {
	if err == nil || len(w.all) == 0 {
		return err
	}
	return fmt.Errorf("%w; of the file as it was before these hold until %s: %s", err, since.Add(lapseAfter).UTC().Format(time.RFC3339), w.names())
}

// lapse ends the waivers of a waiver file that has been no good for 5 minutes: the edit that
// spoilt it may have removed one.
func (e *Engine) lapse(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.current.Load()
	if e.state.waiversBad.IsZero() || len(old.waivers.all) == 0 || e.c.Now().Sub(e.state.waiversBad) < lapseAfter {
		return
	}
	next := *old
	next.waivers = &waiverSet{}
	next.revision = e.revisionOf(&next)
	e.state.waiverErr = fmt.Errorf("the waiver file has been no good for 5 minutes, and its waivers no longer hold (%s): mend it; %w", old.waivers.names(), errors.Unwrap(e.state.waiverErr))
	e.state.loadedAt = e.c.Now().UTC()
	e.current.Store(&next)
	e.c.Log.ErrorContext(ctx, "waivers of the waiver file lapse", "revision", next.revision, "error", e.state.waiverErr)
}

// killOf returns the kill list of f. Where that can't be read whole, nothing that
// was killed comes back to life: the old list and the good lines hold together.
func (e *Engine) killOf(old killList, f files) (killList, error) {
	if f.killErr != nil {
		return old, fmt.Errorf("kill list: %w", f.killErr)
	}
	k, err := parseKillFile(e.c.KillFile, f.kill)
	k = k.merged(e.fixed)
	if err != nil {
		return k.merged(old), fmt.Errorf("kill list: %w", err)
	}
	return k, nil
}

// Status returns what the engine works with now.
func (e *Engine) Status() Status {
	e.mu.Lock()
	state := e.state
	e.mu.Unlock()
	s := e.snapshot()
	st := Status{
		Source: cmp.Or(e.c.Origin, e.c.Bundle, e.c.Dir, "embedded defaults"), Mode: e.modes.standard,
		Revision: s.revision, Bundle: s.program.given, LoadedAt: state.loadedAt,
		Policies: len(s.program.listings), Killed: len(s.kill), Hints: s.program.hints,
		Expired: []string{}, Expiring: []string{},
	}
	exceptions := e.c.Exceptions.Status()
	st.VEX = exceptions.Documents
	var lines []string
	for _, err := range []error{state.err(), e.c.behind()} {
		if err != nil {
			lines = append(lines, err.Error())
		}
	}
	if exceptions.Error != "" {
		lines = append(lines, exceptions.Error)
	}
	st.LastError = strings.Join(lines, "\n")
	now := e.c.Now()
	for i := range s.waivers.all {
		switch w := &s.waivers.all[i]; {
		case !now.Before(w.until):
			st.Expired = append(st.Expired, w.ID)
			continue
		case w.until.Sub(now) < expiringSoon:
			st.Expiring = append(st.Expiring, w.ID)
		}
		st.Waivers++
	}
	return st
}
