package proxy

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/sluicegate/sluice/proxy/auth"
)

// maxForm bounds, in bytes, what is posted to /token.
const maxForm = 64 << 10

// ServeToken answers /token: a caller's name and password, by Basic or in a form, for a
// token that is good for some minutes (distribution, "Token Authentication Specification"
// and "OAuth2 Token Authentication"). A token's scope is of no account: what its caller may
// see is looked at with each request.
func (g *Gateway) ServeToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	grant, err := g.token(w, r)
	var e *Error
	switch {
	case err == nil:
		b, err := json.Marshal(map[string]any{
			"token": grant.Token, "access_token": grant.Token, "token_type": "Bearer",
			"expires_in": int(grant.Life / time.Second), "issued_at": grant.Issued.UTC().Format(time.RFC3339),
		})
		if err == nil {
			w.Header().Set("Content-Type", "application/json")
			w.Write(b)
			return
		}
		e = &Error{Status: http.StatusInternalServerError, Code: codeUnavailable, Message: "the gateway failed; its log says why", cause: err}
	case r.Context().Err() != nil:
		return
	case errors.As(err, &e):
	case errors.Is(err, auth.ErrNoTokens):
		e = &Error{Status: http.StatusNotFound, Code: codeUnsupported, Message: err.Error()}
	default:
		e = g.unauthorized(err, nil)
		if e.Challenge != "" {
			e.Challenge = `Basic realm="` + auth.Service + `"`
		}
	}
	g.Log.Debug("no token", "status", e.Status, "error", e)
	e.Write(w)
}

func (g *Gateway) token(w http.ResponseWriter, r *http.Request) (auth.Grant, error) {
	a := g.live().Auth
	leave, err := g.enter(r.Context(), auth.Caller{Address: auth.Address(r.RemoteAddr)})
	if err != nil {
		return auth.Grant{}, err
	}
	defer leave()
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return a.Grant(r)
	case http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		return auth.Grant{}, &Error{Status: http.StatusMethodNotAllowed, Code: codeUnsupported, Message: "ask for a token by GET or POST"}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return auth.Grant{}, &Error{Status: http.StatusBadRequest, Code: codeUnsupported, Message: "the form can't be read; send name and password as application/x-www-form-urlencoded"}
	}
	return formGrant(a, r, r.PostForm)
}

// formGrant answers a posted form. Of RFC 6749's grants there is that by name and password:
// a token that lives for minutes needs no refreshing.
func formGrant(a *auth.Authenticator, r *http.Request, form url.Values) (auth.Grant, error) {
	switch t := form.Get("grant_type"); {
	case t == "password" && form.Get("username") != "":
		return a.GrantTo(r, form.Get("username"), form.Get("password"))
	case t == "" || t == "password":
		return a.Grant(r)
	default:
		return auth.Grant{}, &Error{Status: http.StatusBadRequest, Code: codeUnsupported, Message: "grant_type must be password; " + printable(t, 60) + " is not served"}
	}
}
