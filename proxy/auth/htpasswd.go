package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

const (
	maxUsers = 10_000
	// maxCost bounds bcrypt's work factor. At 14 one login takes about a second of a
	// processor, and every step doubles it.
	maxCost        = 14
	maxLineErrors  = 5 // lines that one error names
	shownNameBytes = 60
)

// users is what an htpasswd file says. It is never changed.
type users struct {
	hashes map[string][]byte
	decoy  []byte // a hash that no password is known for, as costly as the costliest
}

// hash returns the hash to compare a password of name with. Where there is no such
// name it returns a hash that nothing matches, and false.
func (u *users) hash(name string) ([]byte, bool) {
	if h, ok := u.hashes[name]; ok {
		return h, true
	}
	return u.decoy, false
}

// parseHtpasswd reads "name:hash" lines. Blank lines and those that begin with # are
// skipped. Any bad line refuses the whole file: half of the callers would be a riddle
// to the other half.
func parseHtpasswd(path string, b []byte) (*users, error) {
	u := &users{hashes: map[string][]byte{}}
	highest := bcrypt.MinCost
	var problems []error
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimRight(line, "\r \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, cost, err := parseLine(line)
		if _, twice := u.hashes[name]; err == nil && twice {
			err = fmt.Errorf("%s stands here for the second time", name)
		}
		if err == nil && len(u.hashes) == maxUsers {
			return nil, fmt.Errorf("%s:%d: more than %d names", path, i+1, maxUsers)
		}
		if err != nil {
			if problems = append(problems, fmt.Errorf("%s:%d: %w", path, i+1, err)); len(problems) == maxLineErrors {
				break
			}
			continue
		}
		u.hashes[name] = hash
		highest = max(highest, cost)
	}
	if problems != nil {
		return nil, errors.Join(problems...)
	}
	var err error
	u.decoy, err = bcrypt.GenerateFromPassword([]byte(rand.Text()), highest)
	return u, err
}

// parseLine's errors never hold the line's hash.
func parseLine(line string) (name string, hash []byte, cost int, err error) {
	name, text, ok := strings.Cut(line, ":")
	switch {
	case !ok:
		return "", nil, 0, errors.New(`is no "name:hash"`)
	case name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return "", nil, 0, fmt.Errorf("the name must be 1 to %d bytes of UTF-8 without control characters", maxName)
	}
	if text, ok = bcryptHash(text); !ok {
		return "", nil, 0, fmt.Errorf("the hash of %.*s is %s, only bcrypt is read: htpasswd -B FILE NAME", shownNameBytes, name, scheme(text))
	}
	cost, err = bcrypt.Cost([]byte(text))
	if err != nil || cost > maxCost {
		return "", nil, 0, fmt.Errorf("the hash of %.*s has no cost from %d to %d: htpasswd -B -C 10 FILE NAME", shownNameBytes, name, bcrypt.MinCost, maxCost)
	}
	return name, []byte(text), cost, nil
}

// bcryptHash reports whether s looks like a bcrypt hash of a version without known
// faults ($2x$ is one with them). Anything behind another colon is not the hash.
func bcryptHash(s string) (string, bool) {
	s, _, _ = strings.Cut(s, ":")
	for _, version := range []string{"$2a$", "$2b$", "$2y$"} {
		if strings.HasPrefix(s, version) {
			return s, len(s) == 60
		}
	}
	return s, false
}

// scheme names what a hash that is not bcrypt seems to be.
func scheme(s string) string {
	for _, known := range []struct{ prefix, name string }{
		{"$2", "a damaged or outdated bcrypt hash"},
		{"{SHA}", "SHA-1"},
		{"{SSHA}", "salted SHA-1"},
		{"$apr1$", "MD5"},
		{"$1$", "MD5"},
		{"$5$", "SHA-256 crypt"},
		{"$6$", "SHA-512 crypt"},
		{"$argon2", "Argon2"},
	} {
		if strings.HasPrefix(s, known.prefix) {
			return known.name
		}
	}
	if s == "" {
		return "missing"
	}
	return "crypt or plain text"
}
