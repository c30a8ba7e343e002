package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/bcrypt"
)

func hashOf(t *testing.T, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// clock is a time that only moves when it is told to.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// gate returns an Authenticator for alice, whose password is "open sesame".
func gate(t *testing.T, change func(*Authenticator)) (*Authenticator, *clock) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "htpasswd")
	write(t, path, "# who may pull\n\nalice:"+hashOf(t, "open sesame")+"\r\n")
	c := &clock{t: time.Now()}
	a := &Authenticator{Htpasswd: path, Now: c.now, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(a)
	}
	if err := a.Load(); err != nil {
		t.Fatal(err)
	}
	return a, c
}

func request(from, name, password string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v2/", nil)
	r.RemoteAddr = from + ":4711"
	if name != "" || password != "" {
		r.SetBasicAuth(name, password)
	}
	return r
}

func TestCaller(t *testing.T) {
	withHeader := func(h string) *http.Request {
		r := request("192.0.2.1", "", "")
		r.Header.Set("Authorization", h)
		return r
	}
	noFile := func(a *Authenticator) { a.Htpasswd = "" }
	open := func(a *Authenticator) { a.Htpasswd, a.Anonymous = "", true }
	both := func(a *Authenticator) { a.Anonymous = true }
	right, wrong := request("192.0.2.1", "alice", "open sesame"), request("192.0.2.1", "alice", "wrong")
	for _, test := range []struct {
		name   string
		change func(*Authenticator)
		r      *http.Request
		want   string // caller's name
		err    error
	}{
		{"right", nil, right, "alice", nil},
		{"wrong password", nil, wrong, "", ErrUnauthorized},
		{"empty password", nil, request("192.0.2.1", "alice", ""), "", ErrUnauthorized},
		{"other case", nil, request("192.0.2.1", "Alice", "open sesame"), "", ErrUnauthorized},
		{"unknown name", nil, request("192.0.2.1", "bob", "open sesame"), "", ErrUnauthorized},
		{"endless password", nil, request("192.0.2.1", "alice", strings.Repeat("x", 1<<20)), "", ErrUnauthorized},
		{"no credentials", nil, request("192.0.2.1", "", ""), "", ErrUnauthorized},
		{"bearer", nil, withHeader("Bearer abc"), "", ErrUnauthorized},
		{"broken base64", nil, withHeader("Basic %%%"), "", ErrUnauthorized},
		{"zero value", noFile, right, "", ErrUnauthorized},
		{"zero value, no credentials", noFile, request("192.0.2.1", "", ""), "", ErrUnauthorized},
		{"anonymous", open, request("192.0.2.1", "", ""), "", nil},
		{"anonymous with another registry's password", open, wrong, "", nil},
		{"anonymous with another registry's token", open, withHeader("Bearer abc"), "", nil},
		{"both, none sent", both, request("192.0.2.1", "", ""), "", nil},
		{"both, right", both, right, "alice", nil},
		{"both, wrong", both, wrong, "", ErrUnauthorized},
		{"both, bearer", both, withHeader("Bearer abc"), "", ErrUnauthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, _ := gate(t, test.change)
			for try := range 2 { // remembered or not, the answer is the same
				got, err := a.Caller(test.r)
				if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
					t.Fatalf("try %d: error %v, want %v", try, err, test.err)
				}
				if diff := cmp.Diff(test.want, got.Name); diff != "" {
					t.Errorf("try %d: (-want +got):\n%s", try, diff)
				}
			}
		})
	}
}

// TestLogin is what docker login does: ask, be challenged, ask again with a password.
func TestLogin(t *testing.T) {
	a, _ := gate(t, nil)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := a.Caller(r); err != nil {
			w.Header().Set("WWW-Authenticate", a.Challenge(""))
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	get := func(password string) *http.Response {
		r, err := http.NewRequest(http.MethodGet, server.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			r.SetBasicAuth("alice", password)
		}
		resp, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if r := get(""); r.StatusCode != 401 || r.Header.Get("WWW-Authenticate") != `Basic realm="sluice"` {
		t.Errorf("no challenge: %s, %q", r.Status, r.Header)
	}
	if r := get("open sesame"); r.StatusCode != 200 {
		t.Errorf("right password: %s", r.Status)
	}
	if r := get("wrong"); r.StatusCode != 401 {
		t.Errorf("wrong password: %s", r.Status)
	}
}

func TestTooManyFailures(t *testing.T) {
	a, c := gate(t, nil)
	guess := func(from string) error {
		_, err := a.Caller(request(from, "alice", "guess"))
		return err
	}
	if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame")); err != nil {
		t.Fatal(err)
	}
	for i := range burst {
		if err := guess("192.0.2.1"); !errors.Is(err, ErrUnauthorized) {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	var many *TooManyError
	if err := guess("192.0.2.1"); !errors.As(err, &many) || many.RetryAfter <= 0 || many.RetryAfter > every {
		t.Fatalf("one guess more: %v", err)
	}

	if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame")); err != nil {
		t.Errorf("a caller at work was locked out: %v", err)
	}
	if err := guess("192.0.2.2"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("another address was locked out: %v", err)
	}

	c.add(many.RetryAfter)
	if err := guess("192.0.2.1"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("no new try after RetryAfter: %v", err)
	}
	if err := guess("192.0.2.1"); !errors.As(err, &many) {
		t.Errorf("more than one new try: %v", err)
	}
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:1":              "192.0.2.1",
		"[::ffff:192.0.2.1]:1":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:1": "2001:db8:1:2::/64",
		"[2001:db8:1:2::9]:2":      "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1":         "fe80::/64",
		"@":                        "@",
	} {
		if got := address(remote); got != want {
			t.Errorf("%s counts as %s, want %s", remote, got, want)
		}
	}
}

// TestFailuresAreBounded floods the tables with addresses and names: they stay bounded,
// still limit the newcomers, and recover.
func TestFailuresAreBounded(t *testing.T) {
	f := newFailures()
	now := time.Unix(0, 0)
	for i := range maxBuckets + wider*burst {
		f.add(source{fmt.Sprint(i), "alice"}, now)
	}
	newcomer := source{"newcomer", strings.Repeat("x", 1<<20)}
	if len(f.addresses.by) != maxBuckets || len(f.names.by) != maxBuckets {
		t.Errorf("%d addresses and %d names are kept, want %d", len(f.addresses.by), len(f.names.by), maxBuckets)
	}
	if err := f.check(newcomer, now); err == nil {
		t.Error("a newcomer is not limited while the table is full")
	}
	now = now.Add(burst * every)
	if err := f.check(newcomer, now); err != nil {
		t.Errorf("a newcomer is limited after a quiet minute: %v", err)
	}
	f.add(newcomer, now)
	if len(f.addresses.by) != 1 || len(f.names.by) != 1 || len(newcomer.key()) > 100 {
		t.Errorf("%d addresses and %d names are kept after a quiet minute, want 1", len(f.addresses.by), len(f.names.by))
	}
}

// TestOneGuesserAmongMany: behind one address a guesser locks out the name that it
// guesses for, whether there is such a one or not, and nobody else; and it can't try
// every name for that.
func TestOneGuesserAmongMany(t *testing.T) {
	for _, name := range []string{"mallory", "root"} {
		a, _ := gate(t, nil)
		var many *TooManyError
		for range burst {
			if _, err := a.Caller(request("192.0.2.1", name, "guess")); !errors.Is(err, ErrUnauthorized) {
				t.Fatal(err)
			}
		}
		if _, err := a.Caller(request("192.0.2.1", name, "guess")); !errors.As(err, &many) {
			t.Errorf("%s may go on guessing: %v", name, err)
		}
		if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame")); err != nil {
			t.Errorf("alice was locked out by another: %v", err)
		}
	}
	a, _ := gate(t, nil)
	tries := 0
	for ; tries < 2*wider*burst; tries++ {
		var many *TooManyError
		if _, err := a.Caller(request("192.0.2.1", fmt.Sprint("user", tries), "Winter2026")); errors.As(err, &many) {
			break
		}
	}
	if tries != wider*burst {
		t.Errorf("one password was tried on %d names, want %d", tries, wider*burst)
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	a, _ := gate(t, nil)
	for i := range maxVerified + 100 {
		a.remember(a.mark(fmt.Sprint(i), "", nil))
	}
	if len(a.verified) != maxVerified {
		t.Errorf("%d credentials are remembered, want %d", len(a.verified), maxVerified)
	}
}

// TestMark holds what is remembered to depend on each part, and on where one ends.
func TestMark(t *testing.T) {
	a, _ := gate(t, nil)
	b, _ := gate(t, nil)
	marks := map[[32]byte]string{}
	for _, m := range []struct {
		of   *Authenticator
		n, p string
		h    string
	}{{a, "ab", "c", "h"}, {a, "a", "bc", "h"}, {a, "ab", "c", "i"}, {a, "ab", "d", "h"}, {b, "ab", "c", "h"}} {
		mark := m.of.mark(m.n, m.p, []byte(m.h))
		if other, twice := marks[mark]; twice {
			t.Errorf("%s/%s/%s has the mark of %s", m.n, m.p, m.h, other)
		}
		marks[mark] = m.n + "/" + m.p + "/" + m.h
	}
}

// TestFileChanges follows the file through a new password, a removed line, an error
// and its end, while alice's password is remembered.
func TestFileChanges(t *testing.T) {
	var log logBuffer
	a, c := gate(t, func(a *Authenticator) { a.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	may := func(password string) bool {
		c.add(checkEvery)
		_, err := a.Caller(request("192.0.2.1", "alice", password))
		return err == nil
	}
	for range 2 {
		if !may("open sesame") {
			t.Fatal("refused")
		}
	}
	write(t, a.Htpasswd, "alice:"+hashOf(t, "new")+"\n")
	if may("open sesame") || !may("new") {
		t.Error("the new password is not in force")
	}
	write(t, a.Htpasswd, "alice:new\n")
	for range 2 {
		if !may("new") {
			t.Error("a file with an error put the last good one out of force")
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "htpasswd:1") {
		t.Errorf("the error was logged %d times, want once with its line:\n%s", n, &log)
	}
	if err := os.Remove(a.Htpasswd); err != nil {
		t.Fatal(err)
	}
	if !may("new") {
		t.Error("a missing file put the last good one out of force")
	}
	write(t, a.Htpasswd, "bob:"+hashOf(t, "new")+"\n")
	if may("new") {
		t.Error("alice is still let in after her line was removed")
	}
	if !strings.Contains(log.String(), "can be used again") {
		t.Errorf("the end of the error was not logged:\n%s", &log)
	}
	if strings.Contains(log.String(), "$2a$") {
		t.Errorf("the log shows a hash:\n%s", &log)
	}
}

func TestLoadRefuses(t *testing.T) {
	a := &Authenticator{Htpasswd: filepath.Join(t.TempDir(), "none")}
	if err := a.Load(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), a.Htpasswd) {
		t.Errorf("missing file: %v", err)
	}
	write(t, a.Htpasswd, strings.Repeat("#", maxFile+1))
	if err := a.Load(); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("huge file: %v", err)
	}
}

// TestManyAtOnce has fifty requests with one password arrive together: each is let
// in, and a hang-up in the queue harms only itself.
func TestManyAtOnce(t *testing.T) {
	a, _ := gate(t, nil)
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	for range cap(a.slots) { // all places are taken when the fifty come
		a.slots <- struct{}{}
	}
	if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame").WithContext(gone)); !errors.Is(err, context.Canceled) {
		t.Errorf("hung up in the queue: %v", err)
	}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame")); err != nil {
				t.Error(err)
			}
		})
	}
	for range cap(a.slots) {
		<-a.slots
	}
	wg.Wait()
}
