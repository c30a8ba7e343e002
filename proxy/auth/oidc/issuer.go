package oidc

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	maxToken  = 16 << 10 // bytes
	maxName   = 255      // bytes
	maxGroups = 100      // of one token
	leeway    = time.Minute
)

// algorithms are the signatures that are taken.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// ErrExpired is wrapped by the error for a token that was good.
var ErrExpired = errors.New("the token has expired")

// An UnavailableError says that an issuer's keys can't be had, so that nothing is known of
// a token: neither that it is good nor that it is bad.
type UnavailableError struct{ err error }

func (e *UnavailableError) Error() string { return e.err.Error() }
func (e *UnavailableError) Unwrap() error { return e.err }

// An Issuer is somebody whose tokens are taken. The exported fields must not change once a
// method was called; all methods may be called concurrently.
type Issuer struct {
	// Name stands before the names and groups of its callers: "github" makes
	// "github:repo:acme/web:ref:refs/heads/main". Required, without a colon.
	Name string
	// URL is what its tokens say in iss, to the letter. Required.
	URL string
	// Audience is what its tokens must say in aud, among others. Required: without one, a
	// token that was meant for somebody else could be used here.
	Audience string
	// KeysURL is where its keys are. "": what URL/.well-known/openid-configuration says.
	KeysURL string
	// KeysFile is a file with its keys, a JSON Web Key Set, in place of KeysURL; read again
	// every minute.
	KeysFile string
	// TokenFile is a file with a bearer token to ask for the keys with, as Kubernetes wants
	// one. It is sent to the hosts of URL and KeysURL only. "": none.
	TokenFile string
	// RootCAs are the authorities of its certificate; nil for the system's.
	RootCAs *x509.CertPool
	// NameClaim is the claim that has the caller's name; "" for sub.
	NameClaim string
	// GroupsClaim is the claim that has groups, a list or one; "" for none. Kubernetes
	// service accounts have the groups that Kubernetes gives them without it.
	GroupsClaim string

	Log *slog.Logger     // nil: slog.Default()
	Now func() time.Time // nil: time.Now

	keys keys
}

// An Identity is whom a token names.
type Identity struct {
	Name    string
	Groups  []string // sorted
	Expires time.Time
}

// IssuerOf returns what a token says of who issued it, "" for what is no such token. Nothing
// of it is verified.
func IssuerOf(token string) string {
	t, err := parse(token)
	if err != nil {
		return ""
	}
	var c jwt.Claims
	if t.UnsafeClaimsWithoutVerification(&c) != nil {
		return ""
	}
	return c.Issuer
}

func parse(token string) (*jwt.JSONWebToken, error) {
	if len(token) > maxToken {
		return nil, fmt.Errorf("the token is longer than %d KiB", maxToken>>10)
	}
	t, err := jwt.ParseSigned(token, algorithms)
	if err != nil || len(t.Headers) != 1 {
		return nil, errors.New("not a signed JSON Web Token")
	}
	return t, nil
}

// Verify returns whom a token names. The error wraps ErrExpired for one that was good once,
// and is an *UnavailableError where the keys can't be had.
func (i *Issuer) Verify(ctx context.Context, token string) (Identity, error) {
	t, err := parse(token)
	if err != nil {
		return Identity{}, err
	}
	key, err := i.key(ctx, t.Headers[0].KeyID, t.Headers[0].Algorithm)
	if err != nil {
		return Identity{}, err
	}
	var c jwt.Claims
	var all map[string]any
	switch err := t.Claims(key, &c, &all); {
	case errors.Is(err, jose.ErrCryptoFailure):
		return Identity{}, errors.New("the token's signature is wrong")
	case err != nil:
		return Identity{}, errors.New("the token's claims can't be read")
	}
	if err := i.check(c); err != nil {
		return Identity{}, err
	}
	return i.identity(c, all)
}

// check looks at the claims of a token whose signature is right.
func (i *Issuer) check(c jwt.Claims) error {
	now := i.now()
	switch {
	case c.Issuer != i.URL:
		return fmt.Errorf("the token's issuer is not %s", i.URL)
	case !slices.Contains(c.Audience, i.Audience):
		return fmt.Errorf("the token is not for this gateway: ask for one with the audience %s", i.Audience)
	case c.Expiry == nil:
		return errors.New("the token never expires, and is refused")
	case now.After(c.Expiry.Time().Add(leeway)):
		return ErrExpired
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time()):
		return errors.New("the token is not valid yet")
	}
	return nil
}

func (i *Issuer) identity(c jwt.Claims, all map[string]any) (Identity, error) {
	claim := i.NameClaim
	if claim == "" {
		claim = "sub"
	}
	name, _ := all[claim].(string)
	if verified, _ := all["email_verified"].(bool); claim == "email" && !verified {
		return Identity{}, errors.New("the token's email is not verified by its issuer")
	}
	if !usable(name) {
		return Identity{}, fmt.Errorf("the token's claim %s is no name of 1 to %d bytes", claim, maxName)
	}
	id := Identity{Name: i.Name + ":" + name, Expires: c.Expiry.Time()}
	for _, g := range append(i.groups(all), accountGroups(c.Subject)...) {
		if usable(g) && len(id.Groups) < maxGroups {
			id.Groups = append(id.Groups, i.Name+":"+g)
		}
	}
	slices.Sort(id.Groups)
	id.Groups = slices.Compact(id.Groups)
	return id, nil
}

func (i *Issuer) groups(all map[string]any) (groups []string) {
	if i.GroupsClaim == "" {
		return nil
	}
	switch v := all[i.GroupsClaim].(type) {
	case string:
		groups = []string{v}
	case []any:
		for _, g := range v {
			if s, ok := g.(string); ok {
				groups = append(groups, s)
			}
		}
	}
	return groups
}

// accountGroups returns the groups that Kubernetes gives a service account: see
// "Authenticating", Service account tokens, in its documentation.
func accountGroups(subject string) []string {
	rest, ok := strings.CutPrefix(subject, "system:serviceaccount:")
	namespace, _, two := strings.Cut(rest, ":")
	if !ok || !two {
		return nil
	}
	return []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace}
}

func usable(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, unicode.IsControl)
}

func (i *Issuer) now() time.Time {
	if i.Now == nil {
		return time.Now()
	}
	return i.Now()
}

func (i *Issuer) log() *slog.Logger {
	if i.Log == nil {
		return slog.Default()
	}
	return i.Log
}
