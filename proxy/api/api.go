// Package api is the programs' way to ask the gateway: /api/v1.
//
//	GET /api/v1/verdict?image=REF[&platform=linux/amd64][&wait=30s]
//
// answers with a policy.Answer: what is in the image, and whether the caller may pull
// it. An image that was never pulled is fetched and scanned; where that takes longer
// than wait, scan.state is "pending" and the same call asks again.
//
//	GET /api/v1/explain?image=REF[&platform=linux/amd64][&wait=30s]
//
// answers with a policy.Explanation: the same, with what each rule says or why it says
// nothing, and what would change the outcome.
//
//	POST /api/v1/check
//	{"image": REF} or {"images": [REF, …]} and, if need be, "platform", "namespace",
//	"action" (check, pull or admission; check unless said) and "wait"
//
// answers about an image before anybody pulls it, with a policy.Answer, or about up to 100
// with {"allow", "answers": [{"image", "answer" or "error"}]}: allow is true where all of
// them may be run. It asks for application/json, so that no page in a browser can ask.
//
//	GET /api/v1/events[?since=2026-01-31T00:00:00Z][&format=cloudevents]
//
// tells of images that were allowed and are denied by a new vulnerability database, or the
// other way around; of first verdicts and pulls that were denied; and of waivers, pull
// tokens and databases that end: a list of proxy.Event, or with Accept: text/event-stream a
// stream that goes on behind Last-Event-ID. With format=cloudevents each is a
// proxy.CloudEvent, and the list a batch of them. Whoever may pull may read them, the names
// of those who pulled included.
//
//	GET /api/v1/policies
//
// lists the sets of policies that decide: whence they are, which upstreams' images they
// decide about, and what is wrong with the newest, where an older one counts.
//
//	GET /api/v1/waivers
//
// lists the waivers that decide, those that have ended included. They are changed where
// Waivers is mounted.
//
// # Why
//
// An answer here and a pull go through the same code and the same policies, so that
// they can't disagree. Errors have the shape of the registry's, so that there is one
// to parse.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
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
	Check(ctx context.Context, caller auth.Caller, q proxy.Question, deadline time.Time) (policy.Answer, error)
	Explain(ctx context.Context, caller auth.Caller, ref, platform string, deadline time.Time) (policy.Explanation, error)
}

// Handler serves /api/v1.
type Handler struct {
	Gateway  Gateway
	Events   EventLog
	Waivers  func() []policy.WaiverStatus // those that decide; nil: none
	Policies func() []PolicySet           // those that decide; nil: none
	// Admit returns who makes a request, and takes a place for it until leave is called.
	Admit func(*http.Request) (caller auth.Caller, leave func(), err error)
	// May reports whether a caller may see a repository, written as cgr.dev/acme/web; nil:
	// every one.
	May func(caller auth.Caller, repository string) bool
	Log *slog.Logger

	// Stopping reports whether the gateway is to stop, which ends the streams of events.
	// nil: never.
	Stopping func() bool

	streams atomic.Int64 // of events, open
}

// ServeHTTP answers the request, and logs what failed in the gateway itself.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := h.serve(w, r)
	if err == nil || r.Context().Err() != nil {
		return
	}
	var e *proxy.Error
	if !errors.As(err, &e) {
		proxy.LogFailed(h.Log, r, err)
		e = &proxy.Error{Status: http.StatusInternalServerError, Code: "UNAVAILABLE", Message: "the gateway failed; its log says why"}
	}
	e.Write(w)
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	caller, leave, err := h.Admit(r)
	if err != nil {
		return err
	}
	defer leave()
	if r.URL.Path == "/api/v1/waivers" || strings.HasPrefix(r.URL.Path, "/api/v1/waivers/") {
		return h.waivers(w, r)
	}
	if r.URL.Path == "/api/v1/check" {
		return h.check(w, r, caller)
	}
	if r.URL.Path == "/api/v1/policies/what-if" {
		return &proxy.Error{Status: http.StatusForbidden, Code: "DENIED", Message: "what-if names who pulls what, and is asked by `sluice policy what-if` on the gateway's machine"}
	}
	if r.Method != http.MethodGet {
		return &proxy.Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "only GET is served here"}
	}
	switch r.URL.Path {
	case "/api/v1/verdict", "/api/v1/explain":
		answer, err := h.verdict(r, caller)
		if err != nil {
			return err
		}
		return writeJSON(w, answer)
	case "/api/v1/events":
		return h.events(w, r, caller)
	case "/api/v1/policies":
		return h.policies(w)
	}
	return &proxy.Error{Status: http.StatusNotFound, Code: "UNSUPPORTED", Message: "no such path; there are /api/v1/verdict?image=REF, /api/v1/explain?image=REF, /api/v1/check, /api/v1/events, /api/v1/policies and /api/v1/waivers"}
}

func (h *Handler) verdict(r *http.Request, caller auth.Caller) (any, error) {
	q := r.URL.Query()
	wait, err := waitOf(q.Get("wait"))
	if err != nil {
		return nil, err
	}
	platform := cmp.Or(q.Get("platform"), "linux/"+runtime.GOARCH)
	image, deadline := q.Get("image"), time.Now().Add(wait)
	if r.URL.Path == "/api/v1/explain" {
		return h.Gateway.Explain(r.Context(), caller, image, platform, deadline)
	}
	return h.Gateway.Answer(r.Context(), caller, image, platform, deadline)
}

func waitOf(s string) (time.Duration, error) {
	if s == "" {
		return defaultWait, nil
	}
	wait, err := time.ParseDuration(s)
	if err != nil || wait < 0 || wait > maxWait {
		return 0, refused("wait must be a duration from 0s to 5m, such as 30s")
	}
	return wait, nil
}

// refused is the error of a request that asks for what there isn't.
func refused(message string) error {
	return &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: message}
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
