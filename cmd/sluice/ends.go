package main

import (
	"context"
	"errors"
	"time"

	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/scan"
)

// lookAtEnds is how often it is looked for what ends.
const lookAtEnds = time.Minute

// followEnds raises events for waivers, pull tokens and databases that end, once for all
// gateways that share a store.
func (h *house) followEnds(ctx context.Context) error {
	told, failed := map[string]bool{}, false
	tick := time.NewTicker(lookAtEnds)
	defer tick.Stop()
	for {
		err := h.tellEnds(ctx, told, time.Now())
		if err != nil && !failed && ctx.Err() == nil {
			h.log.Warn("not all events of what ends are raised yet; it is tried again", "error", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// An end is what ends, and how soon that is.
type end struct {
	kind    string
	about   []string // what makes it one event, beside its kind
	details proxy.Details
}

// tellEnds raises an event for each end. told are those that need not be told again, by
// this process.
func (h *house) tellEnds(ctx context.Context, told map[string]bool, now time.Time) error {
	var errs []error
	seen := map[string]bool{}
	for _, e := range append(append(h.waiverEnds(now), h.tokenEnds(ctx, now)...), h.databaseEnds(ctx)...) {
		id := e.kind
		for _, a := range e.about {
			id += "\x00" + a
		}
		if seen[id] = true; told[id] {
			continue
		}
		if _, err := h.gateway.Tell(ctx, e.kind, e.details, e.about...); err != nil {
			errs = append(errs, err)
			continue
		}
		told[id] = true
	}
	for id := range told {
		if !seen[id] {
			delete(told, id)
		}
	}
	return errors.Join(errs...)
}

const day = 24 * time.Hour

// waiverEnds are waivers that end within 7 days, and again within 1.
func (h *house) waiverEnds(now time.Time) (all []end) {
	for _, w := range h.waivers() {
		left, within := w.Ends.Sub(now), ""
		switch {
		case left <= 0 || left >= 7*day:
			continue
		case left < day:
			within = "1d"
		default:
			within = "7d"
		}
		all = append(all, end{proxy.WaiverExpiring, []string{w.Source, w.ID, w.Ends.UTC().Format(time.RFC3339), within}, proxy.Details{
			Message: "a waiver ends: mend what it is for, or add another", Name: w.ID, Within: within, Ends: w.Ends.UTC(),
			Owner: w.Owner, Ticket: w.Ticket, Scope: &w.Scope, Source: w.Source,
		}})
	}
	return all
}

// tokenEnds are pull tokens that end within 14 days, again within 3, and that have ended.
func (h *house) tokenEnds(ctx context.Context, now time.Time) (all []end) {
	for _, u := range h.current().Upstreams {
		creds, err := h.connections.Credentials(ctx, u.Name) // logs what it can't read
		if err != nil {
			continue
		}
		i := connection.Describe(u.Name, creds, now)
		within, message := "", "a pull token ends: set a new one"
		switch i.Urgency(now) {
		case connection.Soon:
			within = "14d"
		case connection.Urgent:
			within = "3d"
		case connection.Ended:
			within, message = "ended", "a pull token has ended: set a new one, or pulls will be refused by the registry"
		default:
			continue
		}
		all = append(all, end{proxy.CredentialExpiring, []string{u.Name, i.Expires.UTC().Format(time.RFC3339), within},
			proxy.Details{Message: message, Name: u.Name, Within: within, Ends: i.Expires.UTC()}})
	}
	return all
}

// databaseEnds is the vulnerability database where the one to decide by is too old.
func (h *house) databaseEnds(ctx context.Context) []end {
	_, err := h.scanner.Database(ctx)
	if !errors.Is(err, scan.ErrDatabaseStale) {
		return nil
	}
	s := h.databases.Status(ctx)
	if s.Checksum == "" {
		return nil
	}
	return []end{{proxy.DatabaseStale, []string{s.Checksum}, proxy.Details{
		Message: "the vulnerability database is too old, and unknown images are denied: `sluice db update` or `sluice db import` brings a newer one",
		Ends:    s.Built.Add(time.Duration(s.MaxAge) * time.Second).UTC(), Database: &scan.Database{Built: s.Built, Checksum: s.Checksum},
	}}}
}
