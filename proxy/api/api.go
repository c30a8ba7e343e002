// Package api is the programs' way to ask the gateway: /api/v1.
//
//	GET /api/v1/verdict?image=REF[&platform=linux/amd64][&wait=30s]
//
// answers with a policy.Answer: what is in the image, and whether the caller may pull
// it. An image that was never pulled is fetched and scanned; where that takes longer
// than wait, scan.state is "pending" and the same call asks again.
//
// # Why
//
// An answer here and a pull go through the same code and the same policies, so that
// they can't disagree. Errors have the shape of the registry's, so that there is one
// to parse.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
)

// Bounds on how long a verdict is waited for.
const (
	defaultWait = 10 * time.Second
	maxWait     = 5 * time.Minute
)

// A Gateway answers questions about images.
type Gateway interface {
	Answer(ctx context.Context, caller auth.Caller, ref, platform string, deadline time.Time) (policy.Answer, error)
}

// Handler serves /api/v1.
type Handler struct {
	Gateway Gateway
	Auth    *auth.Authenticator
	Log     *slog.Logger
}

// ServeHTTP answers the request, and logs what failed in the gateway itself.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := h.serve(r)
	if err == nil {
		err = writeJSON(w, answer)
	}
	if err == nil || r.Context().Err() != nil {
		return
	}
	var e *proxy.Error
	if !errors.As(err, &e) {
		h.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = &proxy.Error{Status: http.StatusInternalServerError, Code: "UNAVAILABLE", Message: "the gateway failed; its log says why"}
	}
	e.Write(w)
}

func (h *Handler) serve(r *http.Request) (any, error) {
	caller, err := h.Auth.Caller(r)
	if err != nil {
		return nil, proxy.Unauthorized(err)
	}
	if r.Method != http.MethodGet {
		return nil, &proxy.Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "only GET is served here"}
	}
	if r.URL.Path != "/api/v1/verdict" {
		return nil, &proxy.Error{Status: http.StatusNotFound, Code: "UNSUPPORTED", Message: "no such path; there is /api/v1/verdict?image=REF"}
	}
	return h.verdict(r, caller)
}

func (h *Handler) verdict(r *http.Request, caller auth.Caller) (any, error) {
	q := r.URL.Query()
	wait := defaultWait
	if s := q.Get("wait"); s != "" {
		var err error
		if wait, err = time.ParseDuration(s); err != nil || wait < 0 || wait > maxWait {
			return nil, &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "wait must be a duration from 0s to 5m, such as wait=30s"}
		}
	}
	platform := q.Get("platform")
	if platform == "" {
		platform = "linux/" + runtime.GOARCH
	}
	return h.Gateway.Answer(r.Context(), caller, q.Get("image"), platform, time.Now().Add(wait))
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(b, '\n'))
	return err
}
