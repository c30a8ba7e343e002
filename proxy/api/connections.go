package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// maxConnection bounds the body that sets a connection, in bytes: a pull token is
// about one KiB.
const maxConnection = 64 << 10

// A Vault keeps pull tokens.
type Vault interface {
	Set(ctx context.Context, name string, c upstream.Credentials) error
	SetNext(ctx context.Context, name string, c upstream.Credentials) error
	Promote(ctx context.Context, name string) error
	Remove(ctx context.Context, name string) error
	List(ctx context.Context) ([]connection.Info, error)
}

// Connections serves /api/v1/connections. It knows no callers: mount it only where
// whoever reaches it may set pull tokens, such as a socket that the file system
// protects.
//
//	GET    /api/v1/connections                         every connection, never a password
//	PUT    /api/v1/connections/{upstream}[?slot=next]  {"username": …, "password": …}
//	POST   /api/v1/connections/{upstream}/promote      the next token takes the current one's place
//	DELETE /api/v1/connections/{upstream}
//	POST   /api/v1/connections/{upstream}/test?repository=…
type Connections struct {
	Vault    Vault
	Registry func(name string) *upstream.Registry // nil where there is no such upstream
	Log      *slog.Logger
}

// Handler returns the routes.
func (c *Connections) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/connections", c.answer(func(r *http.Request, _ *upstream.Registry) (any, error) {
		infos, err := c.Vault.List(r.Context())
		for i := range infos {
			c.noteRefusal(r.Context(), &infos[i])
		}
		return infos, err
	}))
	mux.HandleFunc("PUT /api/v1/connections/{upstream}", c.answer(c.set))
	mux.HandleFunc("DELETE /api/v1/connections/{upstream}", c.answer(func(r *http.Request, _ *upstream.Registry) (any, error) {
		return struct{}{}, c.Vault.Remove(r.Context(), r.PathValue("upstream"))
	}))
	mux.HandleFunc("POST /api/v1/connections/{upstream}/test", c.answer(c.test))
	mux.HandleFunc("POST /api/v1/connections/{upstream}/promote", c.answer(func(r *http.Request, _ *upstream.Registry) (any, error) {
		err := c.Vault.Promote(r.Context(), r.PathValue("upstream"))
		if errors.Is(err, connection.ErrNoNext) {
			err = &proxy.Error{Status: http.StatusNotFound, Code: "UNSUPPORTED", Message: connection.ErrNoNext.Error()}
		}
		return struct{}{}, err
	}))
	return mux
}

// noteRefusal says of a connection that the registry refuses it, while it does.
func (c *Connections) noteRefusal(ctx context.Context, i *connection.Info) {
	registry := c.Registry(i.Upstream)
	if registry == nil || registry.Credentials == nil {
		return
	}
	creds, err := registry.Credentials(ctx)
	if err != nil {
		return
	}
	if until, err := registry.Refusal(creds); err != nil {
		i.Refused = err.Error() + "; tried again at " + until.UTC().Format(time.RFC3339)
	}
}

func (c *Connections) answer(do func(*http.Request, *upstream.Registry) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := c.do(r, do)
		if err == nil {
			err = writeJSON(w, v)
		}
		if err == nil || r.Context().Err() != nil {
			return
		}
		var e *proxy.Error
		if !errors.As(err, &e) {
			proxy.LogFailed(c.Log, r, err)
			e = &proxy.Error{Status: http.StatusInternalServerError, Code: "UNAVAILABLE", Message: err.Error()}
		}
		e.Write(w)
	}
}

func (c *Connections) do(r *http.Request, do func(*http.Request, *upstream.Registry) (any, error)) (any, error) {
	name := r.PathValue("upstream")
	if name == "" {
		return do(r, nil)
	}
	registry := c.Registry(name)
	if registry == nil && r.Method != http.MethodDelete { // one that is no longer configured can still be removed
		return nil, &proxy.Error{Status: http.StatusNotFound, Code: "NAME_UNKNOWN", Message: "this gateway has no upstream of that name"}
	}
	return do(r, registry)
}

func (c *Connections) set(r *http.Request, registry *upstream.Registry) (any, error) {
	var in struct{ Username, Password string }
	b, err := io.ReadAll(io.LimitReader(r.Body, maxConnection))
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(b, &in) != nil || in.Username == "" || in.Password == "" { // its error would quote the password
		return nil, &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "want a JSON object with username and password"}
	}
	switch r.URL.Query().Get("slot") {
	case "", "current":
		return struct{}{}, c.Vault.Set(r.Context(), registry.Name, upstream.Credentials(in))
	case "next":
		return struct{}{}, c.Vault.SetNext(r.Context(), registry.Name, upstream.Credentials(in))
	}
	return nil, &proxy.Error{Status: http.StatusBadRequest, Code: "UNSUPPORTED", Message: "slot must be current or next"}
}

func (c *Connections) test(r *http.Request, registry *upstream.Registry) (any, error) {
	var creds upstream.Credentials
	if registry.Credentials != nil {
		var err error
		if creds, err = registry.Credentials(r.Context()); err != nil {
			return nil, err
		}
	}
	return connection.Test(r.Context(), registry, creds, r.URL.Query().Get("repository"), nil), nil
}
