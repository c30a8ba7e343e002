package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sluicegate/sluice/proxy/auth/oidc"
	"github.com/sluicegate/sluice/proxy/auth/token"
)

// Service is what the gateway calls itself in a challenge.
const Service = "sluice"

// maxScope bounds, in bytes, a scope that is repeated in a challenge.
const maxScope = 512

// Challenge returns the WWW-Authenticate header of a 401 to a request for scope, such as
// "repository:acme/web:pull", or "" for none.
func (a *Authenticator) Challenge(scope string) string {
	if a == nil || a.Realm == "" || a.Tokens == nil {
		return fmt.Sprintf(`Basic realm=%q`, Service)
	}
	c := fmt.Sprintf(`Bearer realm=%q,service=%q`, a.Realm, Service)
	if scope != "" && len(scope) <= maxScope {
		c += fmt.Sprintf(`,scope=%q`, scope)
	}
	return c
}

// A Grant is a token for a caller.
type Grant struct {
	Token  string
	Issued time.Time
	Life   time.Duration
}

// ErrNoTokens is the error of a gateway that gives none.
var ErrNoTokens = errors.New("this gateway gives no tokens; send name and password with each request")

// Grant returns a token for who makes r. Its errors are those of Caller, and ErrNoTokens.
func (a *Authenticator) Grant(r *http.Request) (Grant, error) {
	return a.grant(r, credentialsOf(r))
}

// GrantTo returns a token for whom a name and a password are of, which r brings in its body.
func (a *Authenticator) GrantTo(r *http.Request, name, password string) (Grant, error) {
	return a.grant(r, credentials{scheme: "basic", name: name, password: password})
}

func (a *Authenticator) grant(r *http.Request, c credentials) (Grant, error) {
	if a.Tokens == nil {
		return Grant{}, ErrNoTokens
	}
	if c.scheme == "bearer" && a.issuer(c.password) == nil {
		return Grant{}, ErrUnauthorized // a token for a token would never end
	}
	k, err := a.known(r.Context(), c, r)
	if err != nil {
		return Grant{}, err
	}
	now := a.now()
	life := a.TokenLife
	if !k.expires.IsZero() {
		life = min(life, k.expires.Sub(now))
	}
	if life = life.Truncate(time.Second); life <= 0 {
		return Grant{}, ErrUnauthorized
	}
	t, err := a.Tokens.Sign(token.Subject{Name: k.Name, Groups: k.Groups, Mark: k.mark}, life)
	return Grant{t, now, life}, err
}

// bearer returns whom a token names: one of this gateway's, or of an issuer's.
func (a *Authenticator) bearer(ctx context.Context, raw, from string) (known, error) {
	if i := a.issuer(raw); i != nil {
		return a.issued(ctx, i, raw, from)
	}
	if a.Tokens == nil {
		return known{}, ErrUnauthorized
	}
	if err := a.fails.check(source{address: from}, a.now()); err != nil {
		return known{}, err
	}
	s, err := a.Tokens.Check(raw)
	if err != nil {
		if !errors.Is(err, token.ErrExpired) {
			a.fails.add(source{address: from}, a.now())
		}
		return known{}, ErrUnauthorized
	}
	return a.stillIs(s, from)
}

// stillIs returns the caller whom a token names, by what is known of him now: one whose
// line was changed or removed is nobody any more, and groups are those of today.
func (a *Authenticator) stillIs(s token.Subject, from string) (known, error) {
	if s.Name == "" {
		if !a.Anonymous {
			return known{}, ErrUnauthorized
		}
		return known{Caller: Caller{Address: from}}, nil
	}
	if s.Mark == "" {
		return known{Caller: a.named(s.Name, from, s.Groups)}, nil
	}
	if a.Htpasswd == "" {
		return known{}, ErrUnauthorized
	}
	hash, there := a.users.get().hash(s.Name)
	if !there || lineMark(hash) != s.Mark {
		return known{}, ErrUnauthorized
	}
	return known{Caller: a.named(s.Name, from, nil), mark: s.Mark}, nil
}

// lineMark stands for a line of the htpasswd file in a token.
func lineMark(hash []byte) string {
	sum := sha256.Sum256(append([]byte("sluice line "), hash...))
	return hex.EncodeToString(sum[:8])
}

// issuer returns who says that a token is his, nil for nobody who is known.
func (a *Authenticator) issuer(raw string) *oidc.Issuer {
	if len(a.Issuers) == 0 {
		return nil
	}
	url := oidc.IssuerOf(raw)
	for _, i := range a.Issuers {
		if url != "" && i.URL == url {
			return i
		}
	}
	return nil
}

// issued returns whom an issuer's token names.
func (a *Authenticator) issued(ctx context.Context, i *oidc.Issuer, raw, from string) (known, error) {
	at := source{address: from, name: i.Name + ":"}
	if err := a.fails.check(at, a.now()); err != nil {
		return known{}, err
	}
	id, err := i.Verify(ctx, raw)
	var away *oidc.UnavailableError
	switch {
	case err == nil:
		return known{Caller: a.named(id.Name, from, id.Groups), expires: id.Expires}, nil
	case ctx.Err() != nil:
		return known{}, ctx.Err()
	case errors.As(err, &away):
		return known{}, err
	case !errors.Is(err, oidc.ErrExpired): // which is what becomes of every good one
		a.fails.add(at, a.now())
	}
	return known{}, fmt.Errorf("%w: %w", ErrUnauthorized, err)
}

// peer returns who a verified client certificate names: by its common name, or where it has
// none by its first URI or DNS name. His groups are its organisations.
func peer(r *http.Request) (name string, groups []string) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", nil
	}
	c := r.TLS.VerifiedChains[0][0]
	switch {
	case c.Subject.CommonName != "":
		name = c.Subject.CommonName
	case len(c.URIs) > 0:
		name = c.URIs[0].String()
	case len(c.DNSNames) > 0:
		name = c.DNSNames[0]
	}
	if name == "" || len(name) > maxName {
		return "", nil
	}
	for _, o := range c.Subject.Organization {
		groups = append(groups, peerPrefix+o)
	}
	return peerPrefix + name, groups
}

// peerPrefix stands before what a client certificate says, so that it is nobody's of the
// htpasswd file, whose names have no colon.
const peerPrefix = "cert:"
