package upstream

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"
)

// Claims are what a JSON Web Token says of itself. Nothing of it is verified: it is
// for display and for deciding when to renew.
type Claims struct {
	Issuer   string
	Subject  string
	IssuedAt time.Time // zero where it doesn't say
	Expires  time.Time // zero where it doesn't say
}

// maxJWT bounds, in bytes, what is taken for a JWT.
const maxJWT = 64 << 10

var errNoJWT = errors.New("not a JSON Web Token")

// ReadClaims reads the claims of a JWT without verifying its signature. The error
// does not quote it.
func ReadClaims(jwt string) (Claims, error) {
	parts := strings.Split(jwt, ".")
	if len(jwt) > maxJWT || len(parts) != 3 {
		return Claims{}, errNoJWT
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return Claims{}, errNoJWT
	}
	var doc struct {
		Issuer   any `json:"iss"`
		Subject  any `json:"sub"`
		IssuedAt any `json:"iat"`
		Expires  any `json:"exp"`
	}
	if json.Unmarshal(payload, &doc) != nil {
		return Claims{}, errNoJWT
	}
	c := Claims{IssuedAt: numericDate(doc.IssuedAt), Expires: numericDate(doc.Expires)}
	c.Issuer, _ = doc.Issuer.(string)
	c.Subject, _ = doc.Subject.(string)
	c.Issuer, c.Subject = clean(c.Issuer, 200, nil), clean(c.Subject, 200, nil)
	return c, nil
}

// numericDate reads a NumericDate of RFC 7519: seconds since 1970, fractions allowed.
// What can't be a date of this or the next centuries is none.
func numericDate(v any) time.Time {
	f, ok := v.(float64)
	if !ok || math.IsNaN(f) || f <= 0 || f > 1e11 {
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}
