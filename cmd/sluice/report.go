package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/vuln"
)

// report logs at the start what will go wrong later, and nobody would notice before.
func (h *house) report(ctx context.Context) {
	if h.databases.Offline {
		if _, err := h.databases.Current(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("unknown images are denied: there is no usable vulnerability database, and update_every 0s downloads none", "error", err)
		}
	}
	told := map[string]connection.Urgency{}
	tick := time.NewTicker(lookAtTokens)
	defer tick.Stop()
	for {
		h.tellTokens(ctx, told)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// lookAtTokens is how often the ends of pull tokens are looked at.
const lookAtTokens = time.Minute

// tellTokens logs which pull tokens end soon, each when that begins, becomes urgent, or is
// over. told is what was logged last.
func (h *house) tellTokens(ctx context.Context, told map[string]connection.Urgency) {
	for _, u := range h.current().Upstreams {
		creds, err := h.connections.Credentials(ctx, u.Name) // logs what it can't read
		if err != nil {
			continue
		}
		i := connection.Describe(u.Name, creds, time.Now())
		urgency := i.Urgency(time.Now())
		if told[u.Name] == urgency {
			continue
		}
		told[u.Name] = urgency
		level, text := slog.LevelInfo, "a pull token lasts again"
		switch urgency {
		case connection.Soon:
			level, text = slog.LevelWarn, "a pull token ends within 14 days: set a new one"
		case connection.Urgent:
			level, text = slog.LevelError, "a pull token ends within 3 days: set a new one"
		case connection.Ended:
			level, text = slog.LevelError, "a pull token has ended: set a new one, or pulls will be refused by the registry"
		}
		h.log.Log(ctx, level, text, "upstream", u.Name, "expires", i.Expires.UTC().Format(time.RFC3339))
	}
}

// tokenCheck says how long the pull token of an upstream lasts. A gateway without a good one
// still serves what is known, and no other would have a better one.
func (h *house) tokenCheck(ctx context.Context, name string) (c check, worth bool) {
	c = check{Name: "pull token " + name, OK: true}
	creds, err := h.connections.Credentials(ctx, name)
	if err != nil {
		c.Detail = err.Error()
		return c, true
	}
	i := connection.Describe(name, creds, time.Now())
	if c.Detail = h.refusal(name, creds); c.Detail != "" {
		return c, true
	}
	switch i.Urgency(time.Now()) {
	case connection.Soon, connection.Urgent:
		c.Detail = "ends " + i.Expires.UTC().Format(time.RFC3339) + ": set a new one"
	case connection.Ended:
		c.Detail = "ended " + i.Expires.UTC().Format(time.RFC3339) + ": set a new one"
	default:
		return c, false
	}
	return c, true
}

// tokenMetrics measures the pull tokens of the upstreams that there are now.
type tokenMetrics struct{ h *house }

var (
	tokenExpiry   = prometheus.NewDesc("sluice_pull_token_expiry_timestamp_seconds", "When the pull token in force ends, 0 where it doesn't say.", []string{"upstream"}, nil)
	tokenReadable = prometheus.NewDesc("sluice_pull_token_readable", "1 while the source of the pull token can be read.", []string{"upstream"}, nil)
	tokenRefused  = prometheus.NewDesc("sluice_pull_token_refused", "1 while the registry isn't asked with the pull token in force, since it has refused it.", []string{"upstream"}, nil)
)

// Describe implements prometheus.Collector.
func (m tokenMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- tokenExpiry
	to <- tokenReadable
	to <- tokenRefused
}

// Collect implements prometheus.Collector.
func (m tokenMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
	defer cancel()
	for _, u := range m.h.current().Upstreams {
		expires := 0.0
		creds, err := m.h.connections.Credentials(ctx, u.Name)
		if i := connection.Describe(u.Name, creds, time.Now()); err == nil && !i.Expires.IsZero() {
			expires = float64(i.Expires.Unix())
		}
		info, problem := m.h.connections.Info(ctx, u.Name)
		for desc, v := range map[*prometheus.Desc]float64{
			tokenExpiry: expires, tokenReadable: oneIf(problem == nil && info.Problem == ""), tokenRefused: oneIf(m.h.refusal(u.Name, creds) != ""),
		} {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, u.Name)
		}
	}
}

// refusal says why an upstream's registry is not asked with a token, "" where it is.
func (h *house) refusal(name string, creds upstream.Credentials) string {
	for _, u := range h.gateway.Settings().Upstreams {
		if until, err := u.Registry.Refusal(creds); u.Name == name && err != nil {
			return fmt.Sprintf("the registry refuses it (%v); it is tried again at %s, or with another one", err, until.UTC().Format(time.RFC3339))
		}
	}
	return ""
}

// A gauge is one measurement, taken when it is asked for.
func gauge(name, help string, labels prometheus.Labels, f func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f)
}

func oneIf(ok bool) float64 {
	if ok {
		return 1
	}
	return 0
}

// measureTimeout bounds what a measurement waits for: a scraper gives up after 10 s.
const measureTimeout = 2 * time.Second

// measureChecks measures how the checks for a newer database go.
func measureChecks(d *vuln.Databases) []prometheus.Collector {
	last := func(f func(vuln.Check) float64) func() float64 {
		return func() float64 { return f(d.LastCheck()) }
	}
	counter := func(name, help string, labels prometheus.Labels, f func(vuln.Counts) int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(f(d.Counts())) })
	}
	all := []prometheus.Collector{
		gauge("sluice_database_last_check_timestamp_seconds", "When a newer vulnerability database was last looked for, 0 if never.", nil, last(func(c vuln.Check) float64 { return unix(c.Time) })),
		gauge("sluice_database_last_success_timestamp_seconds", "When a newer vulnerability database was last looked for without a failure, 0 if never.", nil, last(func(c vuln.Check) float64 { return unix(c.Success) })),
		counter("sluice_database_updates_total", "Vulnerability databases downloaded and taken into use.", nil, func(c vuln.Counts) int64 { return c.Updates }),
		counter("sluice_database_downloaded_bytes_total", "Bytes of vulnerability databases downloaded, also of those that were no good.", nil, func(c vuln.Counts) int64 { return c.Bytes }),
	}
	for _, r := range vuln.Reasons() {
		all = append(all,
			gauge("sluice_database_last_check_failed", "1 while the last look for a newer vulnerability database failed for this reason.", prometheus.Labels{"reason": string(r)}, last(func(c vuln.Check) float64 { return oneIf(c.Reason == r) })),
			counter("sluice_database_update_failures_total", "Looks for a newer vulnerability database that failed.", prometheus.Labels{"reason": string(r)}, func(c vuln.Counts) int64 { return c.Failures[r] }))
	}
	return all
}

// unix is a time as a measurement.
func unix(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.Unix())
}

// measure adds what the gateway itself doesn't know of: database, store, policies, pull
// tokens and layers. Their labels come from the configuration alone.
func (h *house) measure() {
	within := func(f func(context.Context) float64) func() float64 {
		return func() float64 {
			ctx, cancel := context.WithTimeout(context.Background(), measureTimeout)
			defer cancel()
			return f(ctx)
		}
	}
	layers := func(f func(spool.Usage) int64) func() float64 {
		return func() float64 { return float64(f(h.layers.Usage())) }
	}
	h.metrics.MustRegister(
		gauge("sluice_database_built_timestamp_seconds", "When the vulnerability database in use was built, 0 where there is none.", nil, within(func(ctx context.Context) float64 {
			if db, err := h.databases.Current(ctx); err == nil || errors.Is(err, scan.ErrDatabaseStale) && !db.Built.IsZero() {
				return float64(db.Built.Unix())
			}
			return 0
		})),
		gauge("sluice_database_usable", "1 while there is a vulnerability database that is not too old.", nil, within(func(ctx context.Context) float64 {
			_, err := h.databases.Current(ctx)
			return oneIf(err == nil)
		})),
		gauge("sluice_database_max_age_seconds", "How old the vulnerability database may be before pulls are denied.", nil, func() float64 {
			return float64(h.databases.MaxAge / time.Second)
		}),
		gauge("sluice_store_up", "1 while the store can be read and written.", nil, within(func(ctx context.Context) float64 {
			return oneIf(h.store.Ping(ctx) == nil)
		})),
		gauge("sluice_layers_used_bytes", "Bytes of uncompressed layers on disk.", nil, layers(func(u spool.Usage) int64 { return u.Committed })),
		gauge("sluice_layers_reserved_bytes", "Bytes of disk set aside for uncompressed layers on their way.", nil, layers(func(u spool.Usage) int64 { return u.Reserved })),
		gauge("sluice_layers_quota_bytes", "Bytes that uncompressed layers may take on disk.", nil, layers(func(u spool.Usage) int64 { return u.Quota })),
	)
	h.metrics.MustRegister(measureChecks(h.databases)...)
	h.metrics.MustRegister(measureReevaluation(h.gateway)...)
	h.metrics.MustRegister(h.measureExceptions()...)
	h.metrics.MustRegister(h.measureStore()...)
	h.metrics.MustRegister(measureWorkers(h.workers)...)
	h.metrics.MustRegister(measureDecisions(h.decisions)...)
	for _, dir := range h.policyDirs() {
		h.metrics.MustRegister(gauge("sluice_policy_load_failed", "1 while the newest policies, waivers or kill list can't be loaded, and the last good ones decide.",
			prometheus.Labels{"policies": h.policyName(dir)}, func() float64 { return oneIf(h.policies[dir].Status().LastError != "") }))
	}
	h.metrics.MustRegister(tokenMetrics{h})
}
