package connection

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// tokenUntil is a JWT that says when it ends.
func tokenUntil(end time.Time) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"RS256"}`) + "." + part(fmt.Sprintf(`{"exp":%d}`, end.Unix())) + "." + part("x")
}

// TestRotationUnderLoad revokes the current token while images are read: the next takes its
// place, and no read fails. Then both are bad: they don't take turns, and the registry is
// left alone.
func TestRotationUnderLoad(t *testing.T) {
	origin, err := proxytest.Start(proxytest.Origin{Username: "old", Password: "old-secret", TokenTTL: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer origin.Close()
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := origin.PushImage("acme/web", "1", img); err != nil {
		t.Fatal(err)
	}
	f := newVault(t)
	f.Now = time.Now
	f.Upstreams = []string{"cgr.dev"}
	ctx := t.Context()
	if err := errors.Join(f.Set(ctx, "cgr.dev", upstream.Credentials{Username: "old", Password: "old-secret"}),
		f.SetNext(ctx, "cgr.dev", upstream.Credentials{Username: "new", Password: "new-secret"})); err != nil {
		t.Fatal(err)
	}
	r := &upstream.Registry{Name: "cgr.dev", URL: origin.URL(), Credentials: f.For("cgr.dev"),
		Refused: func(ctx context.Context, c upstream.Credentials, unauthorized bool, try func(context.Context, upstream.Credentials) error) bool {
			return f.Refused(ctx, "cgr.dev", c, unauthorized, try)
		}}
	read := func() error { _, err := r.Resolve(ctx, "acme/web", "1"); return err }

	var wg sync.WaitGroup
	var reads, failed atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				reads.Add(1)
				if err := read(); err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	origin.SetCredentials(map[string]string{"new": "new-secret"})
	origin.RevokeTokens()
	time.Sleep(500 * time.Millisecond)
	close(stop)
	wg.Wait()
	if reads.Load() < 50 || failed.Load() > 0 {
		t.Errorf("%d of %d reads failed", failed.Load(), reads.Load())
	}
	if err := f.SetNext(ctx, "cgr.dev", upstream.Credentials{Username: "old", Password: "old-secret"}); err != nil {
		t.Fatal(err)
	}
	if f.Refused(ctx, "cgr.dev", upstream.Credentials{Username: "new", Password: "new-secret"}, true, func(context.Context, upstream.Credentials) error { return errors.New("HTTP 401") }) {
		t.Error("a token that is no good took the place of one that was refused for one repository")
	}
	info, err := f.Info(ctx, "cgr.dev")
	if err != nil || info.Username != "new" || info.Next == nil || info.Next.Username != "old" {
		t.Errorf("after the rotation: %+v, %v", info, err)
	}

	origin.SetCredentials(map[string]string{"third": "x"})
	origin.RevokeTokens()
	origin.ResetCounts()
	for range 50 {
		if err := read(); err == nil || !upstream.Denied(err) {
			t.Fatalf("with a bad token: %v", err)
		}
	}
	if n := tokenRequests(origin); n > 3 {
		t.Errorf("the token endpoint was asked %d times for 50 reads", n)
	}
	creds, _ := f.Credentials(ctx, "cgr.dev")
	if until, err := r.Refusal(creds); err == nil || !until.After(time.Now()) {
		t.Errorf("refusal until %s, %v", until, err)
	}
	if err := f.Set(ctx, "cgr.dev", upstream.Credentials{Username: "third", Password: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil {
		t.Errorf("with a new token: %v", err)
	}
	if log := f.log.String(); strings.Contains(log, "secret") {
		t.Error("a password stands in the log")
	}
}

func tokenRequests(origin *proxytest.Server) (n int) {
	for _, r := range origin.Requests() {
		if strings.Contains(fmt.Sprintf("%+v", r), "/token") {
			n++
		}
	}
	return n
}

// TestNextWhenEnded: a token that says that it has ended makes room for the next before the
// registry is asked with it.
func TestNextWhenEnded(t *testing.T) {
	f := newVault(t)
	end := f.clock.Now().Add(time.Hour)
	old := upstream.Credentials{Username: "old", Password: tokenUntil(end)}
	next := upstream.Credentials{Username: "next", Password: tokenUntil(end.Add(24 * time.Hour))}
	if err := errors.Join(f.Set(t.Context(), "cgr.dev", old), f.SetNext(t.Context(), "cgr.dev", next)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{0, "old"}, {time.Hour, "next"}, {48 * time.Hour, "next"}} { // in the end both have ended
		f.clock.advance(step.after)
		if c, err := f.Credentials(t.Context(), "cgr.dev"); err != nil || c.Username != step.want {
			t.Errorf("%s later: %s, %v, want %s", step.after, c, err, step.want)
		}
	}
	infos, err := f.List(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Next == nil {
		t.Errorf("listed %+v, %v", infos, err)
	}
}

func TestPromote(t *testing.T) {
	f := newVault(t)
	if err := f.Promote(t.Context(), "cgr.dev"); !errors.Is(err, ErrNoNext) {
		t.Errorf("without a next one: %v", err)
	}
	if err := f.SetNext(t.Context(), "cgr.dev", upstream.Credentials{Username: "next", Password: marker}); err != nil {
		t.Fatal(err)
	}
	if c, err := f.Credentials(t.Context(), "cgr.dev"); err != nil || !c.Anonymous() {
		t.Errorf("the next is in force: %s, %v", c, err)
	}
	if err := f.Promote(t.Context(), "cgr.dev"); err != nil {
		t.Fatal(err)
	}
	if c, err := f.Credentials(t.Context(), "cgr.dev"); err != nil || c.Username != "next" {
		t.Errorf("%s, %v", c, err)
	}
	if err := f.Promote(t.Context(), "cgr.dev"); !errors.Is(err, ErrNoNext) {
		t.Errorf("there was no current one to keep: %v", err)
	}
	if err := errors.Join(f.SetNext(t.Context(), "cgr.dev", upstream.Credentials{Username: "a", Password: marker}), f.Remove(t.Context(), "cgr.dev")); err != nil {
		t.Fatal(err)
	}
	if fields, err := f.Store.Fields(t.Context(), storeKey()); err != nil || len(fields) != 0 {
		t.Errorf("removed, and %d fields are left, %v", len(fields), err)
	}
}

// TestExchange has a platform's token exchanged for the registry's: once for its life, again
// when it nears its end, and the old one used while the issuer is away and it is good.
func TestExchange(t *testing.T) {
	f := newVault(t)
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("platform-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	var down atomic.Bool
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if q := r.URL.Query(); r.URL.Path != "/sts/exchange" || q.Get("aud") != "cgr.dev" || q.Get("identity") != "org/id" || r.Header.Get("Authorization") != "Bearer platform-token" {
			t.Errorf("asked %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"token": tokenUntil(f.clock.Now().Add(time.Hour))})
	}))
	defer issuer.Close()
	f.Exchanges = map[string]*Exchange{"cgr.dev": {TokenFile: path, Identity: "org/id", Issuer: issuer.URL, Audience: "cgr.dev"}}
	use := func() (upstream.Credentials, error) {
		f.clock.advance(2 * time.Second)
		return f.Credentials(t.Context(), "cgr.dev")
	}
	first, err := use()
	if err != nil || first.Username != "_token" {
		t.Fatalf("%s, %v", first, err)
	}
	for range 5 {
		if c, err := use(); err != nil || c != first {
			t.Errorf("%s, %v", c, err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the issuer was asked %d times, want once", asked.Load())
	}
	down.Store(true)
	f.clock.advance(50 * time.Minute)
	if c, err := use(); err != nil || c != first {
		t.Errorf("while the issuer is away: %s, %v", c, err)
	}
	f.clock.advance(15 * time.Minute)
	if _, err := use(); err == nil && f.Vault.known["cgr.dev"].err == nil {
		t.Error("a token that has ended is used")
	}
	tries := asked.Load()
	for range 5 {
		_, _ = use()
	}
	if n := asked.Load() - tries; n > 1 {
		t.Errorf("an issuer that is away was asked %d times in 10 s", n)
	}
	down.Store(false)
	f.clock.advance(exchangeRest)
	if c, err := use(); err != nil || c == first {
		t.Errorf("once it is back: %s, %v", c, err)
	}
	before := asked.Load()
	now, _ := use()
	f.clock.advance(exchangeAgain)
	if !f.Refused(t.Context(), "cgr.dev", now, true, nil) && asked.Load() == before {
		t.Error("a refused token is not exchanged anew")
	}
	if strings.Contains(f.log.String(), "platform-token") {
		t.Error("a token stands in the log")
	}
	if i, err := f.Info(t.Context(), "cgr.dev"); err != nil || i.Source != SourceOIDC {
		t.Errorf("%+v, %v", i, err)
	}
}

// TestHelper runs programs as docker does.
func TestHelper(t *testing.T) {
	dir := t.TempDir()
	program := func(name, script string) {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("SLUICE_KEY", "own secret")
	program("good", `read server; [ "$1" = get ] && [ "$server" = cgr.dev ] && [ -z "$SLUICE_KEY" ] || exit 1; echo run >>`+dir+`/runs; echo '{"ServerURL":"cgr.dev","Username":"puller","Secret":"`+marker+`"}'`)
	program("empty", `echo "credentials not found in native keychain"; exit 1`)
	program("angry", `echo `+marker+` >&2; echo `+marker+`; exit 7`)
	program("token", `echo '{"Username":"<token>","Secret":"`+marker+`"}'`)
	program("endless", `yes`)
	program("text", `echo `+marker)
	for _, test := range []struct {
		config string
		may    bool
		want   string // the user's name, or the error's text
	}{
		{`{"credsStore":"good"}`, true, "puller"},
		{`{"credHelpers":{"cgr.dev":"good"},"credsStore":"angry"}`, true, "puller"},
		{`{"credsStore":"good"}`, false, "credential_helpers"},
		{`{"credsStore":"empty"}`, true, "has no credentials for this registry"},
		{`{"credsStore":"angry"}`, true, "fails: exit status 7"},
		{`{"credsStore":"token"}`, true, "identity token"},
		{`{"credsStore":"endless"}`, true, "more than 64 KiB"},
		{`{"credsStore":"text"}`, true, "something else than JSON"},
		{`{"credsStore":"../../bin/sh"}`, true, "no name of a credential helper"},
		{`{"credsStore":"none"}`, true, "not in PATH"},
	} {
		f := newVault(t)
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, []byte(test.config), 0o600); err != nil {
			t.Fatal(err)
		}
		f.Files, f.Helpers = map[string]string{"cgr.dev": path}, map[string]bool{"cgr.dev": test.may}
		c, err := f.Credentials(t.Context(), "cgr.dev")
		if err == nil && (c.Username != test.want || c.Password != marker) || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %s, %v, want %s", test.config, c, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), marker) || strings.Contains(f.log.String(), marker) {
			t.Errorf("%s: what the helper said is repeated: %v", test.config, err)
		}
		for range 5 {
			f.clock.advance(2 * time.Second)
			_, _ = f.Credentials(t.Context(), "cgr.dev")
		}
	}
	runs, err := os.ReadFile(filepath.Join(dir, "runs"))
	if err != nil || strings.Count(string(runs), "run") != 2 {
		t.Errorf("the good helper was run %d times for two vaults, want twice: %v", strings.Count(string(runs), "run"), err)
	}
}
