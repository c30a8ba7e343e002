// Package token signs and checks the bearer tokens that the gateway gives its callers at
// /token, in place of a password with each request.
//
//	sealing key ── HKDF, the day ──▶ key of that day ── HS256 ──▶ JSON Web Token
//
// # Why
//
// Only gateways read these tokens, so a key that signs and checks is enough. It is derived
// from the sealing key and the day: it changes by itself, gateways that share a sealing key
// take each other's tokens without asking a store that may be away, and nothing has to be
// kept. Who gets hold of one day's key has no other day's.
//
// A token says who somebody is, not what he may see: that is looked up at each request, so
// that a changed rule holds at once for tokens that are out.
package token

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// rotation is how long one key signs. The one before it, and for clocks that differ the
	// one after it, are accepted too; tokens live far shorter.
	rotation = 24 * time.Hour
	issuer   = "sluice"
	// maxToken bounds, in bytes, what is looked at.
	maxToken = 16 << 10
)

// ErrExpired is the error for a token that was good.
var ErrExpired = errors.New("the token has expired")

// A Subject is whom a token names.
type Subject struct {
	Name   string   `json:"sub,omitempty"` // "": an anonymous caller
	Groups []string `json:"groups,omitempty"`
	// Mark, if not empty, is of what the subject was known by; who checks the token
	// compares it with what is so now.
	Mark string `json:"mark,omitempty"`
}

// A Signer makes tokens and checks them. It may be used concurrently.
type Signer struct {
	Key [32]byte         // must not be zero
	Now func() time.Time // nil: time.Now
}

type claims struct {
	Subject
	Issuer  string           `json:"iss"`
	Issued  *jwt.NumericDate `json:"iat"`
	Expires *jwt.NumericDate `json:"exp"`
}

// Sign returns a token for s that ends with its life, to the second.
func (s *Signer) Sign(sub Subject, life time.Duration) (string, error) {
	now := s.now()
	day := now.UnixNano() / int64(rotation)
	key, err := s.key(day)
	if err != nil {
		return "", err
	}
	header := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", strconv.FormatInt(day, 10))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, header)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims{sub, issuer, jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(life))}).Serialize()
}

// Check returns whom a token names. The error is ErrExpired for one that was good once.
func (s *Signer) Check(token string) (Subject, error) {
	if len(token) > maxToken {
		return Subject{}, errors.New("the token is too long to be one of this gateway's")
	}
	t, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.HS256})
	if err != nil {
		return Subject{}, errors.New("not a token of this gateway")
	}
	now := s.now()
	today := now.UnixNano() / int64(rotation)
	day, err := strconv.ParseInt(t.Headers[0].KeyID, 10, 64)
	if err != nil || day > today+1 {
		return Subject{}, errors.New("not a token of this gateway")
	}
	if day < today-1 {
		return Subject{}, ErrExpired // whether it was good can't be told without its key, and is not asked
	}
	key, err := s.key(day)
	if err != nil {
		return Subject{}, err
	}
	var c claims
	if err := t.Claims(key, &c); err != nil || c.Issuer != issuer || c.Expires == nil {
		return Subject{}, errors.New("not a token of this gateway")
	}
	if !now.Before(c.Expires.Time()) {
		return Subject{}, ErrExpired
	}
	return c.Subject, nil
}

func (s *Signer) key(day int64) ([]byte, error) {
	if s.Key == [32]byte{} {
		return nil, errors.New("there is no key to sign tokens with")
	}
	return hkdf.Key(sha256.New, s.Key[:], nil, fmt.Sprintf("sluice token %d", day), sha256.Size)
}

func (s *Signer) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}
