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
	"maps"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/sluicegate/sluice/proxy/auth/oidc"
	"github.com/sluicegate/sluice/proxy/auth/token"
)

// ErrUnauthorized is the error for a request without credentials that are right: 401
// with a challenge. It does not tell a wrong name from a wrong password.
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
	maxWaiting  = 1024 // logins that wait for a processor
)

// A Caller is who pulls.
type Caller struct {
	Name   string   // "" for an anonymous caller
	Groups []string // those of the groups file that have the name, and of his token or certificate; sorted
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

	// Issuers are those whose tokens are taken, as Bearer or in place of a password.
	Issuers []*oidc.Issuer

	// ClientCA is Certificate.ClientCA: callers are known by the client certificates that TLS
	// has verified. "": they are not.
	ClientCA string

	// Tokens signs the tokens that /token gives, nil for none. They live for TokenLife at
	// most.
	Tokens    *token.Signer
	TokenLife time.Duration
	// Realm is the URL of /token as callers reach it. Where it is set, callers are sent
	// there for a token; else they are asked for name and password with each request.
	Realm string

	// IgnoreForeign has what is plainly the pull token of a Chainguard organisation, as a
	// pod's imagePullSecret for cgr.dev sends it to a mirror, count as no credentials. Else
	// it is refused, and not counted as a failed login. It is never looked at further.
	IgnoreForeign bool

	Log *slog.Logger     // nil: slog.Default()
	Now func() time.Time // nil: time.Now

	users   fresh[*users]
	groups  fresh[map[string][]string] // of names
	clients fresh[authorities]
	waiting atomic.Int64 // for a slot
	fails   *failures
	slots   chan struct{} // one for each bcrypt that may run at once

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
	if a.ClientCA != "" {
		a.clients = fresh[authorities]{
			paths: []string{a.ClientCA},
			parse: func(files [][]byte) (authorities, error) { return parseAuthorities(a.ClientCA, files[0]) },
			log:   a.Log,
			now:   a.Now,
		}
		if err := a.clients.load(); err != nil {
			return err
		}
	}
	if a.Htpasswd == "" {
		return nil
	}
	a.users = fresh[*users]{
		paths: []string{a.Htpasswd},
		parse: func(files [][]byte) (*users, error) { return parseHtpasswd(a.Htpasswd, files[0]) },
		log:   a.Log,
		now:   a.Now,
	}
	return a.users.load()
}

// TakeOver has a, which is to take old's place and was loaded, go on with what old has
// learned: failed logins, and credentials that were right.
func (a *Authenticator) TakeOver(old *Authenticator) {
	old.mu.Lock()
	defer old.mu.Unlock()
	a.fails, a.key, a.verified = old.fails, old.key, maps.Clone(old.verified)
}

// Caller returns who makes r. The error is ErrUnauthorized, ErrForeign, a *TooManyError, an
// *oidc.UnavailableError, or that of r's context.
func (a *Authenticator) Caller(r *http.Request) (Caller, error) {
	k, err := a.known(r.Context(), credentialsOf(r), r)
	return k.Caller, err
}

// known is a caller, and what a token for him has to say.
type known struct {
	Caller
	mark    string    // of the line in the htpasswd file, the issuer or the authorities; "" for an anonymous caller
	expires time.Time // of the token that he came with; zero: never
}

// known returns who sends c with r.
func (a *Authenticator) known(ctx context.Context, c credentials, r *http.Request) (known, error) {
	from := address(r.RemoteAddr)
	switch {
	case c.scheme == "" || !a.looks():
		return a.unnamed(r, from)
	case c.scheme == "bearer":
		return a.bearer(ctx, c.password, from)
	case c.scheme != "basic":
		return known{}, ErrUnauthorized
	}
	i := a.issuer(c.password)
	switch {
	case i != nil:
		return a.issued(ctx, i, c.password, from)
	case c.foreign() && a.IgnoreForeign:
		return a.unnamed(r, from)
	case c.foreign():
		return known{}, ErrForeign
	}
	if a.Htpasswd == "" {
		return a.unnamed(r, from)
	}
	return a.password(ctx, c, from)
}

// looks reports whether there is anything that credentials could be right by. Where there
// isn't, who may come without any may come with some.
func (a *Authenticator) looks() bool {
	return a.Htpasswd != "" || len(a.Issuers) > 0 || a.ClientCA != "" || !a.Anonymous
}

// unnamed returns who sends no credentials.
func (a *Authenticator) unnamed(r *http.Request, from string) (known, error) {
	if name, groups := a.peer(r); name != "" {
		return known{Caller: a.named(name, from, groups), mark: a.clientsMark()}, nil
	}
	if a.Anonymous {
		return known{Caller: Caller{Address: from}}, nil
	}
	return known{}, ErrUnauthorized
}

// password returns whom a name and a password are of.
func (a *Authenticator) password(ctx context.Context, c credentials, from string) (known, error) {
	users := a.users.get()
	hash, there := users.hash(c.name)
	seen := a.mark(c.name, c.password, hash)
	if !there || !a.wasVerified(seen) {
		if err := a.verify(ctx, source{from, c.name}, seen, hash, c.password, there); err != nil {
			return known{}, err
		}
	}
	return known{Caller: a.named(c.name, from, nil), mark: lineMark(hash)}, nil
}

// named returns the caller of that name, with the groups that he brings and those of the
// groups file.
func (a *Authenticator) named(name, from string, groups []string) Caller {
	if a.Groups != "" {
		groups = slices.Concat(groups, a.groups.get()[name])
		slices.Sort(groups)
		groups = slices.Compact(groups)
	}
	return Caller{Name: name, Groups: groups, Address: from}
}

// verify checks a password that was not seen before. known is false where hash only
// stands in for a name that does not exist, so that both take the same time.
func (a *Authenticator) verify(ctx context.Context, from source, seen [sha256.Size]byte, hash []byte, password string, known bool) error {
	if err := a.fails.check(from, a.now()); err != nil {
		return err
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > maxWaiting {
		return &TooManyError{RetryAfter: time.Second}
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
