package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
)

// maxWaiver bounds the body that adds a waiver, in bytes: its fields are bounded to 500
// bytes each.
const maxWaiver = 64 << 10

// A WaiverBook keeps waivers. Where a waiver is to blame its errors are *policy.WaiverError.
type WaiverBook interface {
	List(ctx context.Context) ([]policy.WaiverStatus, error)
	Add(ctx context.Context, w policy.Waiver) (policy.WaiverStatus, error)
	Remove(ctx context.Context, id string) error
}

// Waivers serves changes of waivers. It knows no callers: mount it only where whoever
// reaches it may let images through, such as a socket that the file system protects.
//
//	GET    /api/v1/waivers         every waiver, of the file too, those that end first in front
//	POST   /api/v1/waivers         {"owner", "reason", "scope", "expires"} and, if need be, "id", "ticket"
//	DELETE /api/v1/waivers/{id}
type Waivers struct {
	Book WaiverBook
	Log  *slog.Logger
}

// Handler returns the routes.
func (h *Waivers) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/waivers", h.answer(func(r *http.Request) (any, error) { return h.Book.List(r.Context()) }))
	mux.HandleFunc("POST /api/v1/waivers", h.answer(h.add))
	mux.HandleFunc("DELETE /api/v1/waivers/{id}", h.answer(func(r *http.Request) (any, error) {
		id := r.PathValue("id")
		err := h.Book.Remove(r.Context(), id)
		if err == nil {
			h.Log.Info("waiver removed", "waiver", id)
		}
		return struct{}{}, err
	}))
	return mux
}

func (h *Waivers) add(r *http.Request) (any, error) {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxWaiver+1))
	if err != nil {
		return nil, err
	}
	var w policy.Waiver
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&w); err != nil || len(b) > maxWaiver || dec.More() {
		return nil, &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "want a JSON object with owner, reason, scope and expires, and, if need be, id and ticket" + detail(err)}
	}
	added, err := h.Book.Add(r.Context(), w)
	if err == nil {
		h.Log.Info("waiver added", "waiver", added.ID, "owner", added.Owner, "scope", added.Scope, "ends", added.Ends, "reason", added.Reason)
	}
	return added, err
}

func detail(err error) string {
	if err == nil {
		return ""
	}
	return ": " + err.Error()
}

var waiverStatus = map[policy.WaiverErrorKind]int{
	policy.WaiverInvalid: http.StatusBadRequest,
	policy.WaiverTaken:   http.StatusConflict,
	policy.WaiverUnknown: http.StatusNotFound,
}

func (h *Waivers) answer(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := do(r)
		if err == nil {
			err = writeJSON(w, v)
		}
		if err == nil || r.Context().Err() != nil {
			return
		}
		var e *proxy.Error
		var blame *policy.WaiverError
		switch {
		case errors.As(err, &e):
		case errors.As(err, &blame):
			e = &proxy.Error{Status: waiverStatus[blame.Kind], Code: "UNSUPPORTED", Message: blame.Message}
		default:
			proxy.LogFailed(h.Log, r, err)
			e = &proxy.Error{Status: http.StatusInternalServerError, Code: "UNAVAILABLE", Message: err.Error()}
		}
		e.Write(w)
	}
}

// waivers lists the waivers for whoever may ask. To change them takes more than being
// allowed to pull.
func (h *Handler) waivers(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet || r.URL.Path != "/api/v1/waivers" {
		return &proxy.Error{Status: http.StatusMethodNotAllowed, Code: "UNSUPPORTED", Message: "only GET /api/v1/waivers is served here; waivers are changed by `sluice waiver` on the gateway's machine"}
	}
	list := []policy.WaiverStatus{}
	if h.Waivers != nil {
		list = h.Waivers()
	}
	return writeJSON(w, list)
}
