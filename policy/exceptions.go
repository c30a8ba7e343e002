package policy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/policy/vex"
)

const (
	// lookEvery is how often the Store and the VEX files are looked at for changes: what
	// one replica changes the others decide by within a second.
	lookEvery = 500 * time.Millisecond
	// rereadEvery is how often waivers are read whole, whatever their revision says: the
	// process that changed them can have died before it said so.
	rereadEvery = 30 * time.Second
	// lookTimeout bounds one look at a Store that doesn't answer.
	lookTimeout = 5 * time.Second
	// lapseAfter is for how long waivers of a Store that can't be read still hold: one may
	// have been removed meanwhile.
	lapseAfter = 5 * time.Minute
)

// Exceptions are the waivers that are kept in a Store and the VEX documents in files. Any
// number of Engines decides by them, beside its own waiver file. Set the fields, then call
// Open once; all other methods may be called concurrently.
type Exceptions struct {
	Store cache.Store // nil: no waivers but those of files
	VEX   []string    // files with documents, and folders with *.json files
	// Attested has the OpenVEX of attestations count too, where their signature was
	// verified.
	Attested bool
	// Filed returns the waivers of the waiver file, whose IDs are taken. nil: none.
	Filed func() ([]Waiver, error)
	// Warn returns why a waiver sets nothing aside now, "" where it may. nil: nobody knows.
	Warn func(*Waiver) string
	// MaxLife is how long a waiver that is added may last; 0 is no limit.
	MaxLife time.Duration
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: none
	Audit   *audit.Log       // keeps who added and removed what; nil: nothing does

	current atomic.Pointer[exceptionSet]

	mu       sync.Mutex // serialises changes and looks; guards all below
	waivers  []Waiver   // as last read
	revision string     // of the Store's waivers, when they were last read whole
	readAt   time.Time
	contact  time.Time  // when the Store last answered
	files    []vex.File // that docs are of, or loadErr is about
	next     []vex.File // seen once, and loaded when they are seen so again
	docs     []*vex.Document

	storeErr, damaged, listErr, loadErr error
}

// An exceptionSet is what holds at one moment. It is never changed.
type exceptionSet struct {
	waivers  []Waiver
	vex      *vex.Set
	attested bool
	revision string // "" where there is nothing
	status   ExceptionStatus
}

// ExceptionStatus is what Exceptions work with.
type ExceptionStatus struct {
	Documents int    // VEX
	Error     string // why what was changed last does not hold
}

// Open reads everything for the first time. A VEX document that is no good is an error; a
// Store that can't be read is logged, and its waivers don't hold until it can.
func (x *Exceptions) Open(ctx context.Context) error {
	if x.Now == nil {
		x.Now = time.Now
	}
	if x.Log == nil {
		x.Log = slog.New(slog.DiscardHandler)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	files, err := vex.Files(x.VEX)
	if err == nil {
		x.files = files
		x.docs, err = vex.Load(files)
	}
	if err != nil {
		return fmt.Errorf("vex: %w", err)
	}
	x.next = files
	x.look(ctx, true)
	x.publish()
	return nil
}

// Run follows changes until ctx ends, and then returns nil. Bad VEX files leave the last
// good ones in place; waivers of a Store that can't be read lapse after 5 minutes. Both are
// logged once.
func (x *Exceptions) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		x.mu.Lock()
		x.look(ctx, false)
		x.lookAtFiles(ctx)
		x.publish()
		x.mu.Unlock()
	}
}

// look reads the Store's waivers where they changed, or where whole says so. It is called
// with mu held.
func (x *Exceptions) look(ctx context.Context, whole bool) {
	if x.Store == nil {
		return
	}
	lctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	now := x.Now()
	revision, err := storedRevision(lctx, x.Store)
	if err == nil && !whole && revision == x.revision && now.Sub(x.readAt) < rereadEvery {
		x.contact, x.storeErr = now, nil
		return
	}
	var waivers []Waiver
	var damaged error
	if err == nil {
		waivers, damaged, err = storedWaivers(lctx, x.Store)
	}
	switch {
	case ctx.Err() != nil:
		return
	case err == nil:
		x.waivers, x.revision, x.readAt, x.contact = waivers, revision, now, now
		if damaged != nil && errText(damaged) != errText(x.damaged) {
			x.Log.ErrorContext(ctx, "a waiver in the store can't be read; the others hold", "error", damaged)
		}
		x.damaged = damaged
	case now.Sub(x.contact) >= lapseAfter && len(x.waivers) > 0:
		x.Log.ErrorContext(ctx, "waivers of the store lapse: it could not be read for 5 minutes", "waivers", len(x.waivers), "error", err)
		x.waivers, x.revision = nil, ""
	}
	if err != nil && errText(err) != errText(x.storeErr) {
		x.Log.ErrorContext(ctx, "waivers can't be read from the store", "error", err)
	}
	x.storeErr = err
}

// lookAtFiles reads the VEX files where they changed and have stayed the same for a
// second: half of a document can be valid. It is called with mu held.
func (x *Exceptions) lookAtFiles(ctx context.Context) {
	if len(x.VEX) == 0 {
		return
	}
	const bad = "VEX documents have errors; what was good before stays"
	files, err := vex.Files(x.VEX)
	if err != nil && errText(err) != errText(x.listErr) {
		x.Log.ErrorContext(ctx, bad, "error", err)
	}
	x.listErr = err
	settled := slices.Equal(files, x.next)
	x.next = files
	if err != nil || !settled || slices.Equal(files, x.files) {
		return
	}
	x.files = files
	docs, err := vex.Load(files)
	if x.loadErr = err; err != nil {
		x.Log.ErrorContext(ctx, bad, "error", err)
		return
	}
	x.docs = docs
	x.Log.InfoContext(ctx, "VEX documents changed", "documents", len(docs))
}

// publish has decisions made by what is known now. It is called with mu held.
func (x *Exceptions) publish() {
	h := sha256.New()
	for _, w := range x.waivers {
		fmt.Fprintf(h, "%q", []string{w.ID, w.Owner, w.Reason, w.Ticket, w.Expires,
			w.Scope.Advisory, w.Scope.Package, w.Scope.Repository, w.Scope.Digest, w.Scope.Namespace, w.Scope.Policy})
	}
	for _, d := range x.docs {
		fmt.Fprintf(h, " %s", d.Revision)
	}
	revision := ""
	if len(x.waivers)+len(x.docs) > 0 || x.Attested {
		fmt.Fprint(h, x.Attested)
		revision = hex.EncodeToString(h.Sum(nil))[:12]
	}
	status := ExceptionStatus{len(x.docs), errText(errors.Join(x.storeErr, x.damaged, x.listErr, x.loadErr))}
	if old := x.current.Load(); old != nil && old.revision == revision && old.status == status {
		return
	}
	x.current.Store(&exceptionSet{slices.Clone(x.waivers), vex.NewSet(x.docs), x.Attested, revision, status})
}

// load returns what holds now, nil where there is nothing.
func (x *Exceptions) load() *exceptionSet {
	if x == nil {
		return nil
	}
	return x.current.Load()
}

// Status returns what is in force.
func (x *Exceptions) Status() ExceptionStatus {
	if s := x.load(); s != nil {
		return s.status
	}
	return ExceptionStatus{}
}

// snapshot returns what decides at this moment: policies, waivers of the file and of the
// Store, VEX.
func (e *Engine) snapshot() *snapshot {
	base, set := e.current.Load(), e.c.Exceptions.load()
	if set == nil || set.revision == "" {
		return base
	}
	if c := e.combined.Load(); c != nil && c.base == base && c.set == set {
		return &c.snapshot
	}
	c := &combination{base: base, set: set, snapshot: *base}
	c.waivers = &waiverSet{all: slices.Concat(base.waivers.all, set.waivers), revision: base.waivers.revision}
	c.vex, c.attested = set.vex, set.attested
	c.revision = strings.TrimPrefix(base.revision+"-"+set.revision, "-")
	e.combined.Store(c)
	return &c.snapshot
}

// A combination is a snapshot with what stands in an exceptionSet.
type combination struct {
	base *snapshot
	set  *exceptionSet
	snapshot
}
