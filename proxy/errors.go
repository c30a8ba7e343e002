package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/auth/oidc"
	"github.com/sluicegate/sluice/proxy/upstream"
	"github.com/sluicegate/sluice/scan/layer"
)

// Error codes of the distribution specification ("Error Codes").
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDenied          = "DENIED"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeManifestInvalid = "MANIFEST_INVALID"
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codeRangeInvalid    = "RANGE_INVALID" // not in the list; distribution uses it for 416
	codeTooMany         = "TOOMANYREQUESTS"
	codeUnauthorized    = "UNAUTHORIZED"
	codeUnsupported     = "UNSUPPORTED"
	codeUnavailable     = "UNAVAILABLE" // not in the list; distribution uses it for 5xx too
)

// An Error is an answer to a client in the registry's error JSON. Message is one
// line for people and is what every client prints; Detail is for programs.
type Error struct {
	Status     int
	Code       string
	Message    string
	Detail     any
	RetryAfter time.Duration
	Challenge  string    // WWW-Authenticate, on 401
	cause      error     // logged, never sent
	denied     *standing // of an image that policies deny; nil where it is another error
}

func (e *Error) Error() string {
	if e.cause != nil {
		return fmt.Sprintf("%d %s: %s: %v", e.Status, e.Code, e.Message, e.cause)
	}
	return fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message)
}

func (e *Error) Unwrap() error { return e.cause }

// Write sends e. A HEAD has no body; clients that care repeat it as GET.
func (e *Error) Write(w http.ResponseWriter) {
	type body struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	b, err := json.Marshal(map[string][]body{"errors": {{e.Code, e.Message, e.Detail}}})
	if err != nil { // a Detail that can't be marshalled is our bug; the message still goes out
		b, _ = json.Marshal(map[string][]body{"errors": {{Code: e.Code, Message: e.Message}}})
	}
	h := w.Header()
	for _, k := range []string{"ETag", "Docker-Content-Digest", "Accept-Ranges", "Last-Modified"} {
		h.Del(k)
	}
	if e.Status != http.StatusRequestedRangeNotSatisfiable { // there it tells the size
		h.Del("Content-Range")
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if e.Challenge != "" {
		h.Set("WWW-Authenticate", e.Challenge)
	}
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int((e.RetryAfter+time.Second-1)/time.Second)))
	}
	w.WriteHeader(e.Status)
	w.Write(b)
}

// LogFailed writes that a request failed in the gateway itself; more goes before the error.
// Where the Store is out of reach, full or damaged that is for debugging: cache.Local says
// so once.
func LogFailed(log *slog.Logger, r *http.Request, err error, more ...any) {
	level := slog.LevelError
	if errors.Is(err, cache.ErrDown) || errors.Is(err, cache.ErrFull) || errors.Is(err, cache.ErrDamaged) {
		level = slog.LevelDebug
	}
	log.Log(r.Context(), level, "request failed", append(append([]any{"method", r.Method, "path", r.URL.Path}, more...), "error", err)...)
}

// fromUpstream turns an error of the upstream into the answer that a client can act
// on. unknown is the code for "the upstream has no such thing".
func fromUpstream(err error, what, unknown string) *Error {
	switch {
	case upstream.NotFound(err):
		return &Error{Status: http.StatusNotFound, Code: unknown, Message: what + " is not known to the upstream registry", cause: err}
	case upstream.Denied(err):
		return &Error{Status: http.StatusForbidden, Code: codeDenied, cause: err,
			Message: fmt.Sprintf("the upstream registry refuses %s to this gateway (%s); check its pull token with: sluice connection test", what, upstreamReason(err))}
	}
	if errors.Is(err, upstream.ErrContent) || errors.Is(err, spool.ErrMismatch) {
		return &Error{Status: http.StatusBadGateway, Code: codeUnavailable, cause: err,
			Message: fmt.Sprintf("the upstream registry serves something else than %s (%s); tell whoever runs it", what, contentReason(err))}
	}
	e := &Error{Status: http.StatusBadGateway, Code: codeUnavailable, cause: err,
		Message: fmt.Sprintf("the upstream registry can't be read for %s now (%s); try again, and if that goes on, tell the operator of this gateway", what, upstreamReason(err))}
	var u *upstream.Error
	if errors.As(err, &u) {
		e.RetryAfter = u.RetryAfter
		if u.Status == http.StatusTooManyRequests {
			e.Status, e.Code, e.RetryAfter = http.StatusTooManyRequests, codeTooMany, max(u.RetryAfter, time.Second)
		}
	}
	return e
}

// upstreamReason is what may be told of an upstream error: its status, and the code
// and message that the registry itself gave.
func upstreamReason(err error) string {
	var u *upstream.Error
	if !errors.As(err, &u) || u.Status == 0 {
		return upstream.Silence(err)
	}
	s := "HTTP " + strconv.Itoa(u.Status)
	if u.Code != "" {
		s += " " + u.Code
	}
	if u.Message != "" {
		s += ": " + u.Message
	}
	return s
}

// contentReason is what may be told of content that is not what it should be.
func contentReason(err error) string {
	var u *upstream.Error
	var m *layer.MismatchError
	switch {
	case errors.As(err, &u) && u.Err != nil:
		err = u.Err // without the address
	case errors.As(err, &m):
		err = m
	}
	return printable(strings.TrimPrefix(err.Error(), upstream.ErrContent.Error()+": "), 100)
}

// unauthorized is the answer to a request whose caller isn't known. rt is what was asked
// for, nil for nothing of a registry's.
func (g *Gateway) unauthorized(err error, rt *route) *Error {
	scope := ""
	if rt != nil && rt.repo.Name != "" {
		scope = "repository:" + rt.repo.Name + ":pull"
	}
	var many *auth.TooManyError
	var away *oidc.UnavailableError
	e := &Error{Status: http.StatusUnauthorized, Code: codeUnauthorized, Challenge: g.live().Auth.Challenge(scope), cause: err,
		Message: "this gateway must know who is pulling; log in with: docker login"}
	switch {
	case errors.As(err, &many):
		return &Error{Status: http.StatusTooManyRequests, Code: codeTooMany, RetryAfter: many.RetryAfter, cause: err,
			Message: "too many failed logins from your address; try again later"}
	case errors.As(err, &away):
		return &Error{Status: http.StatusServiceUnavailable, Code: codeUnavailable, RetryAfter: 30 * time.Second, cause: err,
			Message: "this gateway can't check the token now, since its issuer's keys can't be read; try again, and if that goes on, tell its operator"}
	case errors.Is(err, auth.ErrForeign):
		e.Message = auth.ErrForeign.Error()
	}
	return e
}
