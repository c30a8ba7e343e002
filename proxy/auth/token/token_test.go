package token

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at(t *time.Time) func() time.Time { return func() time.Time { return *t } }

func TestLife(t *testing.T) {
	now := time.Date(2026, 3, 1, 23, 58, 0, 0, time.UTC)
	s := &Signer{Key: [32]byte{1}, Now: at(&now)}
	alice := Subject{Name: "alice", Groups: []string{"platform"}, Mark: "m"}
	tok, err := s.Sign(alice, 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		after time.Duration
		want  error
	}{{0, nil}, {4 * time.Minute, nil}, {5 * time.Minute, ErrExpired}, {72 * time.Hour, ErrExpired}} { // the key changes in between
		now = time.Date(2026, 3, 1, 23, 58, 0, 0, time.UTC).Add(test.after)
		got, err := s.Check(tok)
		if !errors.Is(err, test.want) {
			t.Errorf("after %s: %v, want %v", test.after, err, test.want)
		}
		if test.want == nil {
			if d := cmp.Diff(alice, got); d != "" {
				t.Errorf("after %s:\n%s", test.after, d)
			}
		}
	}
}

// TestForged has tokens that this gateway never gave.
func TestForged(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := &Signer{Key: [32]byte{1}, Now: at(&now)}
	good, err := s.Sign(Subject{Name: "alice"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	other, err := (&Signer{Key: [32]byte{2}, Now: at(&now)}).Sign(Subject{Name: "alice"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	for name, tok := range map[string]string{
		"another key":  other,
		"another name": parts[0] + "." + b64([]byte(`{"sub":"root","iss":"sluice","exp":1900000000}`)) + "." + parts[2],
		"no algorithm": b64([]byte(`{"alg":"none","kid":"20833"}`)) + "." + parts[1] + ".",
		"no signature": parts[0] + "." + parts[1] + ".",
		"far key":      b64([]byte(`{"alg":"HS256","kid":"99999999"}`)) + "." + parts[1] + "." + parts[2],
		"not a token":  "abc",
		"empty":        "",
		"endless":      strings.Repeat("a", 1<<20),
	} {
		if got, err := s.Check(tok); err == nil {
			t.Errorf("%s: taken for %q", name, got.Name)
		}
	}
	if _, err := (&Signer{}).Sign(Subject{}, time.Minute); err == nil {
		t.Error("signed without a key")
	}
}
