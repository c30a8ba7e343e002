package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Challenge is the WWW-Authenticate header that belongs to a 401.
const Challenge = `Basic realm="sluice"`

// ErrUnauthorized is the error for a request without credentials that are right: 401
// with Challenge. It does not tell a wrong name from a wrong password.
var ErrUnauthorized = errors.New("log in with a name and a password of this gateway: docker login, podman login")

// A TooManyError is the error for a request whose name, or whose address, has failed too
// often: 429 with Retry-After. The password was not looked at.
type TooManyError struct {
	RetryAfter time.Duration
}

func (e *TooManyError) Error() string {
	return fmt.Sprintf("too many failed logins from this address, try again in %s", e.RetryAfter.Round(time.Second))
}

const (
	maxName     = 255  // bytes
	maxPassword = 1024 // bytes; bcrypt itself looks at the first 72
	maxVerified = 4096 // credentials that are remembered
)

// A Caller is who pulls.
type Caller struct {
	Name   string   // "" for an anonymous caller
	Groups []string // those of the groups file that have the name, sorted
	// Address is where the request came from: its IPv4 address, or the first 64 bits of its
	// IPv6 address. It says nothing of who that is, and no policy sees it.
	Address string
}

// Party is who shares a fair part with others: one of a name, or for anonymous callers all of
// one address.
func (c Caller) Party() string {
	if c.Name != "" {
		return "name " + c.Name
	}
	return "address " + c.Address
}

// An Authenticator tells who makes a request. Its exported fields must not change
// after Load. The zero value lets nobody in. All methods may be called concurrently.
type Authenticator struct {
	// Anonymous lets requests without credentials in, as Caller{}. Credentials that
	// are sent all the same must be right where there is an htpasswd file, and are
	// ignored where there is none. A client that is never challenged, such as docker,
	// sends none: beside an htpasswd file this is for clients that send them unasked.
	Anonymous bool

	// Htpasswd is the path of a file of "name:hash" lines with bcrypt hashes; "" for
	// none. It is read again when it changes; a version that can't be read, or has an
	// error in it, leaves the last good one in force and is logged.
	Htpasswd string

	// Groups is the path of a file of "group: name name" lines; "" for none. It is read as
	// Htpasswd is.
	Groups string

	Log *slog.Logger     // nil: slog.Default()
	Now func() time.Time // nil: time.Now

	users  fresh[*users]
	groups fresh[map[string][]string] // of names
	fails  *failures
	slots  chan struct{} // one for each bcrypt that may run at once

	key [sha256.Size]byte // of the HMACs in verified

	mu       sync.Mutex
	verified map[[sha256.Size]byte]struct{} // guarded by mu; at most maxVerified
}

// Load reads the files that are named, and makes a ready for Caller. It
// must be called once, first.
func (a *Authenticator) Load() error {
	rand.Read(a.key[:]) // never fails: it crashes the program instead
	a.verified = map[[sha256.Size]byte]struct{}{}
	a.fails = newFailures()
	a.slots = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
	if a.Htpasswd == "" {
		return nil
	}
	if a.Groups != "" {
		a.groups = fresh[map[string][]string]{
			paths: []string{a.Groups},
			parse: func(files [][]byte) (map[string][]string, error) { return parseGroups(a.Groups, files[0]) },
			log:   a.Log,
			now:   a.Now,
		}
		if err := a.groups.load(); err != nil {
			return err
		}
	}
	a.users = fresh[*users]{
		paths: []string{a.Htpasswd},
		parse: func(files [][]byte) (*users, error) { return parseHtpasswd(a.Htpasswd, files[0]) },
		log:   a.Log,
		now:   a.Now,
	}
	return a.users.load()
}

// Caller returns who makes r. The error is ErrUnauthorized, a *TooManyError, or that
// of r's context.
func (a *Authenticator) Caller(r *http.Request) (Caller, error) {
	from := address(r.RemoteAddr)
	if a.Anonymous && (a.Htpasswd == "" || r.Header.Get("Authorization") == "") {
		return Caller{Address: from}, nil
	}
	name, password, ok := r.BasicAuth()
	if !ok || a.Htpasswd == "" {
		return Caller{}, ErrUnauthorized
	}
	users := a.users.get()
	hash, known := users.hash(name)
	seen := a.mark(name, password, hash)
	if known && a.wasVerified(seen) {
		return a.named(name, from), nil
	}
	if err := a.verify(r.Context(), source{from, name}, seen, hash, password, known); err != nil {
		return Caller{}, err
	}
	return a.named(name, from), nil
}

func (a *Authenticator) named(name, from string) Caller {
	c := Caller{Name: name, Address: from}
	if a.Groups != "" {
		c.Groups = a.groups.get()[name]
	}
	return c
}

// verify checks a password that was not seen before. known is false where hash only
// stands in for a name that does not exist, so that both take the same time.
func (a *Authenticator) verify(ctx context.Context, from source, seen [sha256.Size]byte, hash []byte, password string, known bool) error {
	if err := a.fails.check(from, a.now()); err != nil {
		return err
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	// While this request waited, another may have done its work, or used up its tries.
	if known && a.wasVerified(seen) {
		return nil
	}
	if err := a.fails.check(from, a.now()); err != nil {
		return err
	}
	err := error(bcrypt.ErrMismatchedHashAndPassword)
	if len(password) <= maxPassword {
		err = bcrypt.CompareHashAndPassword(hash, []byte(password))
	}
	if err != nil || !known {
		a.fails.add(from, a.now())
		return ErrUnauthorized
	}
	a.remember(seen)
	return nil
}

// mark is what is remembered of credentials: nothing that they could be read from,
// and different when the hash in the file is.
func (a *Authenticator) mark(name, password string, hash []byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, a.key[:])
	for _, part := range [][]byte{[]byte(name), []byte(password), hash} {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	h.Sum(sum[:0])
	return sum
}

func (a *Authenticator) wasVerified(mark [sha256.Size]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.verified[mark]
	return ok
}

func (a *Authenticator) remember(mark [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for old := range a.verified { // any will do: it costs its owner one bcrypt
		if len(a.verified) < maxVerified {
			break
		}
		delete(a.verified, old)
	}
	a.verified[mark] = struct{}{}
}

func (a *Authenticator) now() time.Time {
	if a.Now == nil {
		return time.Now()
	}
	return a.Now()
}
