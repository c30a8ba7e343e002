package auth

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
)

// ErrForeign is the error for the credentials of another registry.
var ErrForeign = errors.New("these are credentials of Chainguard's registry, not of this gateway; if pods send them through a mirror, set auth.foreign_credentials to ignore")

// credentials are what a request says of its caller.
type credentials struct {
	scheme   string // in lower case; "" for none
	name     string // of Basic
	password string // of Basic, or the token of Bearer
}

func credentialsOf(r *http.Request) credentials {
	h := r.Header.Get("Authorization")
	if h == "" {
		return credentials{}
	}
	scheme, rest, _ := strings.Cut(h, " ")
	c := credentials{scheme: strings.ToLower(scheme), password: strings.TrimSpace(rest)}
	if c.scheme == "basic" {
		var ok bool
		if c.name, c.password, ok = r.BasicAuth(); !ok {
			c = credentials{scheme: "unreadable"}
		}
	}
	return c
}

// pullToken is the form of the user name of a Chainguard pull token: the identity's path
// from its organisation on.
var pullToken = regexp.MustCompile(`^[0-9a-f]{40}(/[0-9a-f]{16})+$`)

// foreign reports whether c is plainly for Chainguard's registry.
func (c credentials) foreign() bool {
	return c.scheme == "basic" && len(c.name) <= maxName && (c.name == "_token" || pullToken.MatchString(c.name))
}
