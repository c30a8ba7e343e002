package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluicegate/sluice/policy"
)

// adminHandler serves operators, from the moment on that the process lives.
func (h *house) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(h.metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", h.ready)
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// A check is one reason to be ready or not.
type check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// ready answers 200 when an unknown image can be pulled, fetched, scanned and decided
// now, and otherwise 503 with the reasons. Until the house is built, what it waits for is
// the only one.
func (h *house) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	checks := []check{{Name: "serving", Detail: *h.building.Load()}}
	if checks[0].Detail == "" {
		checks = h.checks(ctx)
	}
	ok := true
	for _, c := range checks {
		ok = ok && c.OK
	}
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(map[string]any{"ready": ok, "checks": checks})
}

func (h *house) checks(ctx context.Context) []check {
	db := h.databases.Status(ctx)
	database := check{Name: "database", OK: db.Error == "", Detail: db.Error}
	if database.OK {
		database.Detail = "built " + db.Built.UTC().Format(time.RFC3339)
	}
	if db.LastError != "" {
		database.Detail += fmt.Sprintf("; %s for a newer one in a row failed, the last at %s: %s", plural(db.Failures, "check"), db.LastCheck.UTC().Format(time.RFC3339), db.LastError)
	}
	if h.fleet != nil && h.fleet.Lacks() != "" {
		database.OK = false
		database.Detail += "; other gateways decide by a newer one, " + h.fleet.Lacks() + ", which is not here yet"
	}
	checks := []check{h.storeCheck(ctx), database, reevaluationCheck(h.gateway.Reevaluation())}
	if h.objects != nil {
		checks = append(checks, h.objectsCheck(ctx))
	}
	for _, dir := range h.policyDirs() {
		checks = append(checks, policiesCheck(h.policies[dir].Status()))
	}
	for _, u := range h.current().Upstreams {
		if c, worth := h.tokenCheck(ctx, u.Name); worth {
			checks = append(checks, c)
		}
	}
	if h.load != nil {
		checks = append(checks, h.reloaded.check())
	}
	checks = append(checks, h.workerCheck())
	if h.stopping.Load() {
		checks = append(checks, check{"serving", false, "stopping; only pulls in flight are to finish here"})
	}
	return checks
}

// policiesCheck says which policies decide. There always are some: where the newest are
// bad, the last good ones do.
func policiesCheck(p policy.Status) check {
	c := check{Name: "policy", OK: true, Detail: p.Source + ", revision " + p.Revision}
	if n := len(p.Expiring); n > 0 {
		c.Detail += "; " + plural(n, "waiver") + " of " + strconv.Itoa(p.Waivers) + " in force will end within 7 days"
	}
	if p.LastError != "" {
		c.Detail += "; the newest could not be loaded: " + p.LastError
	}
	return c
}
