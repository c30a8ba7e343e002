package connection

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
)

const marker = "marker-of-a-password"

// A clock is moved by hand.
type clock struct {
	mu  sync.Mutex // guards now
	now time.Time
}

func (c *clock) Now() time.Time          { c.mu.Lock(); defer c.mu.Unlock(); return c.now }
func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

// A flaky Store counts reads, and fails while down is set.
type flaky struct {
	cache.Store
	mu    sync.Mutex // guards what follows
	down  error
	reads int
}

func (f *flaky) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	if f.down != nil {
		return nil, f.down
	}
	return f.Store.Fields(ctx, k)
}

func (f *flaky) set(down error) { f.mu.Lock(); defer f.mu.Unlock(); f.down = down }

type fixture struct {
	*Vault
	clock *clock
	store *flaky
	env   map[string]string
	log   *bytes.Buffer
}

func newVault(t *testing.T) *fixture {
	f := &fixture{
		clock: &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, store: &flaky{Store: &cache.Memory{}},
		env: map[string]string{}, log: &bytes.Buffer{},
	}
	f.Vault = &Vault{
		Store: f.store, Key: Key{1, 2, 3}, Upstreams: []string{"cgr.dev"}, Files: map[string]string{},
		Getenv: func(k string) string { return f.env[k] }, Now: f.clock.Now, Log: slog.New(slog.NewTextHandler(f.log, nil)),
	}
	return f
}

// other is another process with the same Store.
func (f *fixture) other() *Vault {
	return &Vault{Store: f.store, Key: f.Key, Getenv: f.Getenv, Now: f.Now}
}

func (f *fixture) want(t *testing.T, name string, want upstream.Credentials) {
	t.Helper()
	got, err := f.Credentials(t.Context(), name)
	if err != nil || got != want {
		t.Errorf("credentials for %s are %v with %q, want %v with %q; error %v", name, got, got.Password, want, want.Password, err)
	}
}

func TestVault(t *testing.T) {
	f := newVault(t)
	f.want(t, "cgr.dev", upstream.Credentials{})
	first, second := upstream.Credentials{Username: "a", Password: marker + "1"}, upstream.Credentials{Username: "b", Password: marker + "2"}
	other := f.other()

	// What this process sets is in force at once, in another one a second later.
	if err := f.Set(t.Context(), "cgr.dev", first); err != nil {
		t.Fatal(err)
	}
	f.want(t, "cgr.dev", first)
	f.want(t, "ghcr.io", upstream.Credentials{})
	if got, err := other.Credentials(t.Context(), "cgr.dev"); err != nil || got != first {
		t.Errorf("another process has %v, %v", got, err)
	}
	if err := f.Set(t.Context(), "cgr.dev", second); err != nil {
		t.Fatal(err)
	}
	f.want(t, "cgr.dev", second)
	f.clock.advance(time.Second)
	if got, err := other.Credentials(t.Context(), "cgr.dev"); err != nil || got != second {
		t.Errorf("another process has %v after a second, %v", got, err)
	}

	// The file comes before the Store, the environment before both.
	dir := t.TempDir()
	f.Files["cgr.dev"] = dir
	write(t, dir, "username", "file-user\n")
	write(t, dir, "password", marker+"3\n")
	f.clock.advance(time.Second)
	f.want(t, "cgr.dev", upstream.Credentials{Username: "file-user", Password: marker + "3"})
	write(t, dir, "password", marker+"4")
	f.clock.advance(time.Second)
	f.want(t, "cgr.dev", upstream.Credentials{Username: "file-user", Password: marker + "4"})
	f.env["SLUICE_CGR_DEV_USERNAME"], f.env["SLUICE_CGR_DEV_PASSWORD"] = "env-user", marker+"5"
	f.clock.advance(time.Second)
	f.want(t, "cgr.dev", upstream.Credentials{Username: "env-user", Password: marker + "5"})

	clear(f.env)
	delete(f.Files, "cgr.dev")
	if err := f.Remove(t.Context(), "cgr.dev"); err != nil {
		t.Fatal(err)
	}
	f.want(t, "cgr.dev", upstream.Credentials{})
	if err := f.Remove(t.Context(), "cgr.dev"); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
	if s := f.log.String(); strings.Contains(s, marker) || !strings.Contains(s, "credentials changed") {
		t.Errorf("the log is %s", s)
	}
	raw, err := f.store.Store.Fields(t.Context(), storeKey())
	if err != nil || len(raw) != 0 {
		t.Errorf("the Store still has %v, %v", raw, err)
	}
}

func TestVaultReadsTheStoreSeldom(t *testing.T) {
	f := newVault(t)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() { f.Credentials(t.Context(), "cgr.dev") })
	}
	wg.Wait()
	if f.store.reads != 1 {
		t.Errorf("the Store was read %d times in one second", f.store.reads)
	}
}

func TestVaultOutage(t *testing.T) {
	f := newVault(t)
	c := upstream.Credentials{Username: "a", Password: marker}
	down := errors.New("connection refused")
	f.store.set(down)
	if _, err := f.Credentials(t.Context(), "cgr.dev"); !errors.Is(err, down) {
		t.Errorf("a Store that was never there: %v", err)
	}
	f.store.set(nil)
	if err := f.Set(t.Context(), "cgr.dev", c); err != nil {
		t.Fatal(err)
	}
	f.want(t, "cgr.dev", c)
	f.store.set(down)
	for range 4 {
		f.clock.advance(time.Minute)
		f.want(t, "cgr.dev", c)
	}
	f.clock.advance(2 * time.Minute)
	if got, err := f.Credentials(t.Context(), "cgr.dev"); !errors.Is(err, down) || !got.Anonymous() {
		t.Errorf("after six minutes of outage: %v, %v", got, err)
	}
	f.store.set(nil)
	f.clock.advance(time.Second)
	f.want(t, "cgr.dev", c)
	if n := strings.Count(f.log.String(), "can't be read"); n != 2 {
		t.Errorf("two outages were logged %d times", n)
	}
}

func TestVaultReadingOvertakenByAWrite(t *testing.T) {
	f := newVault(t)
	before := &slow{Store: f.store, reached: make(chan struct{}), goOn: make(chan struct{})}
	f.Store = before
	done := make(chan struct{})
	go func() { f.Credentials(t.Context(), "cgr.dev"); close(done) }()
	<-before.reached // it has read that there is nothing
	c := upstream.Credentials{Username: "a", Password: marker}
	if err := f.Set(t.Context(), "cgr.dev", c); err != nil {
		t.Fatal(err)
	}
	close(before.goOn)
	<-done
	f.want(t, "cgr.dev", c)
}

// A slow Store holds the first read back, after it was made.
type slow struct {
	cache.Store
	once          sync.Once
	reached, goOn chan struct{}
}

func (s *slow) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	m, err := s.Store.Fields(ctx, k)
	s.once.Do(func() { close(s.reached); <-s.goOn })
	return m, err
}

func TestVaultSetChecks(t *testing.T) {
	f := newVault(t)
	for _, c := range []upstream.Credentials{
		{}, {Username: "a"}, {Password: marker}, {Username: "a:b", Password: marker}, {Username: "a", Password: marker + "\nx"},
		{Username: "a", Password: strings.Repeat(marker, 10000)},
	} {
		if err := f.Set(t.Context(), "cgr.dev", c); err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := f.Set(t.Context(), "", upstream.Credentials{Username: "a", Password: marker}); err == nil {
		t.Error("an upstream without a name was accepted")
	}
	f.Key = Key{}
	if err := f.Set(t.Context(), "cgr.dev", upstream.Credentials{Username: "a", Password: marker}); err == nil {
		t.Error("sealed without a key")
	}
}

func TestList(t *testing.T) {
	f := newVault(t)
	expires := f.clock.Now().Add(100*24*time.Hour + time.Hour)
	user, pass := proxytest.PullToken(expires)
	if err := f.Set(t.Context(), "cgr.dev", upstream.Credentials{Username: user, Password: pass}); err != nil {
		t.Fatal(err)
	}
	elsewhere := &Vault{Store: f.store, Key: Key{9}, Now: f.Now}
	if err := elsewhere.Set(t.Context(), "ghcr.io", upstream.Credentials{Username: "x", Password: marker}); err != nil {
		t.Fatal(err)
	}
	f.env["SLUICE_QUAY_IO_USERNAME"], f.env["SLUICE_QUAY_IO_PASSWORD"] = "robot", marker
	f.Upstreams = []string{"cgr.dev", "quay.io", "docker.io"}
	list, err := f.List(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	cgr, docker, ghcr, quay := list[0], list[1], list[2], list[3]
	days := 100
	issued := cgr.Issued
	want := Info{Upstream: "cgr.dev", Source: SourceStore, Username: user, Form: FormPullToken, Organisation: user[:40],
		Issued: issued, Expires: expires.Truncate(time.Second), DaysLeft: &days, Set: f.clock.Now()}
	if diff := cmp.Diff(want, cgr); diff != "" || issued.IsZero() {
		t.Error(diff)
	}
	if diff := cmp.Diff(Info{Upstream: "docker.io", Source: SourceNone, Form: FormNone}, docker); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Info{Upstream: "quay.io", Source: SourceEnvironment, Username: "robot", Form: FormOther}, quay); diff != "" {
		t.Error(diff)
	}
	if ghcr.Source != SourceStore || !strings.Contains(ghcr.Problem, ErrWrongKey.Error()) {
		t.Errorf("sealed with another key: %+v", ghcr)
	}
	b, err := json.Marshal(list)
	if err != nil || strings.Contains(string(b), marker) || strings.Contains(string(b), pass) {
		t.Errorf("the list shows a password: %s, %v", b, err)
	}
}

func TestSeal(t *testing.T) {
	k := Key{1}
	sealed, err := k.seal("cgr.dev", []byte(marker))
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.seal("cgr.dev", []byte(marker))
	if err != nil || bytes.Equal(sealed, again) || bytes.Contains(sealed, []byte(marker)) {
		t.Errorf("sealed twice alike, or in the clear; %v", err)
	}
	if plain, err := k.unseal("cgr.dev", sealed); err != nil || string(plain) != marker {
		t.Errorf("%q, %v", plain, err)
	}
	if _, err := k.unseal("ghcr.io", sealed); err == nil {
		t.Error("a record opened under another name")
	}
	if _, err := (Key{2}).unseal("cgr.dev", sealed); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := k.unseal("cgr.dev", damaged); err == nil {
			t.Errorf("a record with byte %d turned opened", i)
		}
		if _, err := k.unseal("cgr.dev", sealed[:i]); err == nil {
			t.Errorf("a record of %d bytes opened", i)
		}
	}
}

func FuzzUnseal(f *testing.F) {
	k := Key{1}
	sealed, err := k.seal("x", []byte("y"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Fuzz(func(t *testing.T, b []byte) {
		if plain, err := k.unseal("x", b); err == nil && string(plain) != "y" {
			t.Errorf("%x opens to %x", b, plain)
		}
	})
}

func TestLoadKey(t *testing.T) {
	none := func(string) string { return "" }
	path := filepath.Join(t.TempDir(), "state", "seal.key")
	var wg sync.WaitGroup
	keys := make([]Key, 20)
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = LoadKey(path, true, none); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k != keys[0] || k == (Key{}) {
			t.Fatal("processes that start together got different keys")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("files left over: %v, %v", left, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadKey("/nowhere/at/all", false, func(k string) string { return map[string]string{EnvKey: string(b)}[k] })
	if err != nil || got != keys[0] {
		t.Errorf("the environment's key: %v", err)
	}
	if k, err := ParseKey(strings.Repeat("ab", 32)); err != nil || k[0] != 0xab {
		t.Errorf("hexadecimal: %v", err)
	}
	write(t, filepath.Dir(path), "bad", marker)
	for _, get := range []func() (Key, error){
		func() (Key, error) { return LoadKey(filepath.Join(filepath.Dir(path), "bad"), true, none) },
		func() (Key, error) { return LoadKey(path, true, func(string) string { return marker }) },
		func() (Key, error) { return LoadKey(filepath.Join(path, "x"), true, none) },
		func() (Key, error) { return LoadKey(filepath.Join(filepath.Dir(path), "none"), false, none) },
	} {
		if _, err := get(); err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("got %v", err)
		}
	}
	said := fmt.Sprintf("%v %+v %#v %s %x %d", keys[0], keys[0], keys[0], keys[0], keys[0], keys[0])
	if strings.Contains(said, fmt.Sprintf("%x", [32]byte(keys[0]))) {
		t.Errorf("the key shows itself: %s", said)
	}
}

func write(t *testing.T, dir, name, s string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
}
