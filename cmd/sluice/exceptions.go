package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/policy"
)

// openExceptions opens waivers of the store and VEX documents, which all policies decide
// by. They are opened before the policies.
func (h *house) openExceptions(ctx context.Context) error {
	c := h.config.Policy
	h.exceptions = &policy.Exceptions{
		Store: h.store, VEX: c.VEX, Attested: c.VEXAttestations, MaxLife: c.WaiverMax, Log: h.log, Audit: h.audit,
		Filed: func() ([]policy.Waiver, error) { return h.policies[c.Dir].FileWaivers(), nil },
		Warn:  h.strayWaiver,
	}
	if h.forgetful {
		g := running(h.config)
		if g == nil {
			return errors.New("a gateway that starts or stops has the store with the waivers open; try again in a moment")
		}
		ws, err := controlWaivers{g}.List(ctx)
		if err != nil {
			return err
		}
		if err := policy.CopyWaivers(ctx, h.store, ws); err != nil {
			return err
		}
	}
	return h.exceptions.Open(ctx)
}

// remindEvery is how often it is looked for waivers to tell of: they are to be told of on
// the day, whatever the minute.
const remindEvery = time.Minute

// followExceptions follows changes of waivers and VEX, and tells of waivers that end.
func (h *house) followExceptions(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() {
		var reminders policy.Reminders
		strays := map[string]bool{}
		tick := time.NewTicker(remindEvery)
		defer tick.Stop()
		for {
			h.remind(ctx, &reminders)
			strays = h.tellStrays(ctx, strays)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	defer wg.Wait()
	return h.exceptions.Run(ctx)
}

func (h *house) remind(ctx context.Context, r *policy.Reminders) {
	for _, w := range r.Due(h.waivers(), time.Now()) {
		message := "a waiver ends within 7 days: mend what it is for, or add another"
		if w.State == policy.WaiverExpired {
			message = "a waiver has ended: what it was for is denied again"
		}
		h.log.WarnContext(ctx, message, "waiver", w.ID, "ends", w.Ends.Format(time.RFC3339), "owner", w.Owner, "ticket", w.Ticket, "scope", w.Scope.String(), "from", w.Source)
	}
}

// strayWaiver says where a waiver is for a policy that is not loaded. That is no error: it
// may be loaded later.
func (h *house) strayWaiver(w *policy.Waiver) string {
	if w.Scope.Policy == "" {
		return ""
	}
	var loaded []string
	for _, dir := range h.policyDirs() {
		e := h.policies[dir]
		if e == nil || e.Names(w.Scope.Policy) {
			return ""
		}
		for _, l := range e.Policies() {
			loaded = append(loaded, l.Package)
		}
	}
	slices.Sort(loaded)
	return fmt.Sprintf("no policy %s is loaded; loaded are %s", w.Scope.Policy, strings.Join(slices.Compact(loaded), ", "))
}

// tellStrays logs, once for each, waivers for policies that are not loaded, and returns which
// these are. told are those of the time before.
func (h *house) tellStrays(ctx context.Context, told map[string]bool) map[string]bool {
	strays := map[string]bool{}
	for _, w := range h.waivers() {
		if w.Warning == "" || w.State == policy.WaiverExpired {
			continue
		}
		id := w.Source + " " + w.ID
		if strays[id] = true; !told[id] {
			h.log.WarnContext(ctx, "a waiver sets nothing aside", "waiver", w.ID, "reason", w.Warning, "owner", w.Owner, "from", w.Source)
		}
	}
	return strays
}

// waivers returns all waivers that decide here.
func (h *house) waivers() []policy.WaiverStatus {
	ws := h.policies[h.config.Policy.Dir].Waivers()
	for i := range ws {
		ws[i].Warning = h.strayWaiver(&ws[i].Waiver)
	}
	return ws
}

// measureExceptions counts waivers by how they stand, and VEX documents.
func (h *house) measureExceptions() []prometheus.Collector {
	all := []prometheus.Collector{
		gauge("sluice_vex_documents", "VEX documents of files that decide.", nil, func() float64 { return float64(h.exceptions.Status().Documents) }),
		gauge("sluice_exceptions_failed", "1 while waivers of the store or VEX documents can't be read as they are now.", nil, func() float64 { return oneIf(h.exceptions.Status().Error != "") }),
	}
	for _, state := range []string{policy.WaiverActive, policy.WaiverExpiring, policy.WaiverExpired} {
		all = append(all, gauge("sluice_waivers", "Waivers of file and store; those that end within 7 days are expiring.", prometheus.Labels{"state": state}, func() float64 {
			n := 0
			for _, w := range h.waivers() {
				if w.State == state {
					n++
				}
			}
			return float64(n)
		}))
	}
	return all
}
