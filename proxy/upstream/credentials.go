package upstream

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
)

// Credentials identify the gateway to a registry. The zero value is anonymous. They
// never show the password, however they are printed, logged or marshalled.
type Credentials struct {
	Username string
	Password string
}

// Anonymous reports whether c is the zero value.
func (c Credentials) Anonymous() bool { return c == Credentials{} }

// String returns the username with the password left out.
func (c Credentials) String() string {
	if c.Anonymous() {
		return "anonymous"
	}
	return c.Username + ":…"
}

// Format makes every fmt verb print String.
func (c Credentials) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// LogValue makes slog log String.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText makes encoding/json and its like write String.
func (c Credentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// A generation tells credentials apart without holding them.
type generation [sha256.Size]byte

func (c Credentials) generation() generation {
	return sha256.Sum256(fmt.Appendf(nil, "%d %s%s", len(c.Username), c.Username, c.Password))
}

// basic returns the value of an Authorization header.
func (c Credentials) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}
