package auth

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
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
	s, err := a.Tokens.Check(raw)
	switch {
	case err == nil:
		return a.stillIs(s, from)
	case errors.Is(err, token.ErrExpired):
		return known{}, ErrUnauthorized
	}
	return known{}, a.forged(source{address: from}, ErrUnauthorized)
}

// forged counts a token that never was good. A good one is not kept out by those that its
// address has sent: to look at one costs little, and none can be guessed.
func (a *Authenticator) forged(from source, err error) error {
	if many := a.fails.check(from, a.now()); many != nil {
		return many
	}
	a.fails.add(from, a.now())
	return err
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
	if s.Mark != "" && (s.Mark == a.clientsMark() || slices.ContainsFunc(a.Issuers, func(i *oidc.Issuer) bool { return issuerMark(i) == s.Mark })) {
		return known{Caller: a.named(s.Name, from, s.Groups), mark: s.Mark}, nil
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
func lineMark(hash []byte) string { return markOf("line", string(hash)) }

// issuerMark stands for an issuer, as it is configured, in a token.
func issuerMark(i *oidc.Issuer) string {
	return markOf("issuer", i.Name, i.URL, i.Audience, i.NameClaim, i.GroupsClaim)
}

// clientsMark stands for the authorities of client certificates in a token.
func (a *Authenticator) clientsMark() string {
	if a.ClientCA == "" {
		return ""
	}
	return a.clients.get().mark
}

// markOf is what a token has of what its caller was known by: when that changes, the token
// is worth nothing.
func markOf(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
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
	id, err := i.Verify(ctx, raw)
	var away *oidc.UnavailableError
	switch {
	case err == nil:
		return known{Caller: a.named(id.Name, from, id.Groups), mark: issuerMark(i), expires: id.Expires}, nil
	case ctx.Err() != nil:
		return known{}, ctx.Err()
	case errors.As(err, &away):
		return known{}, err
	}
	refused := fmt.Errorf("%w: %w", ErrUnauthorized, err)
	if errors.Is(err, oidc.ErrExpired) { // which is what becomes of every good one
		return known{}, refused
	}
	return known{}, a.forged(source{address: from, name: i.Name + ":"}, refused)
}

// peer returns who a verified client certificate names: by its common name, or where it has
// none by its first URI or DNS name. His groups are its organisations. A connection outlives
// what it was begun with, so that the certificate is held against today's time and
// authorities.
func (a *Authenticator) peer(r *http.Request) (name string, groups []string) {
	if a.ClientCA == "" || r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return "", nil
	}
	c := r.TLS.VerifiedChains[0][0]
	if a.now().After(c.NotAfter) || !a.vouchedFor(c, r.TLS.PeerCertificates[1:]) {
		return "", nil
	}
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

// vouchedFor reports whether today's authorities know a certificate, with those that came
// with it.
func (a *Authenticator) vouchedFor(c *x509.Certificate, with []*x509.Certificate) bool {
	clients := a.clients.get()
	seen := a.mark("", string(c.Raw), []byte(clients.mark))
	if a.wasVerified(seen) {
		return true
	}
	between := x509.NewCertPool()
	for _, w := range with {
		between.AddCert(w)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: clients.pool, Intermediates: between, CurrentTime: a.now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil {
		a.remember(seen)
	}
	return err == nil
}

// peerPrefix stands before what a client certificate says, so that it is nobody's of the
// htpasswd file, whose names have no colon.
const peerPrefix = "cert:"
