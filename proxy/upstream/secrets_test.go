package upstream

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// TestSecretsNeverShow runs every way to fail that there is and looks for the pull
// token, the bearer tokens and the signatures of redirects in all errors and logs.
func TestSecretsNeverShow(t *testing.T) {
	const signature = "marker-of-a-signature"
	echo := func(w http.ResponseWriter, q *http.Request, _ http.Handler) { // a registry that repeats what it got
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, pass, _ := q.BasicAuth()
		json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]string{
			"code": "E" + pass, "message": q.Header.Get("Authorization") + " " + pass + " https://u:" + pass + "@x.example/a?sig=" + signature}}})
	}
	signed := func(w http.ResponseWriter, q *http.Request, next http.Handler) {
		proxytest.Redirect("http://localhost:1/blob?X-Amz-Signature="+signature)(w, q, next)
	}
	malformed := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 307 x\r\nLocation localhost/?sig=%s\r\n\r\n", signature)
	}
	storageSays := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"errors":[{"code":"X","message":"%s"}]}`, signature)
	}
	any := func(proxytest.Request) bool { return true }
	kind := func(k string) func(proxytest.Request) bool { return proxytest.Request{Kind: k}.Matches }
	cases := []struct {
		what  string
		match func(proxytest.Request) bool
		fault proxytest.Fault
	}{
		{"nothing", any, func(w http.ResponseWriter, q *http.Request, next http.Handler) { next.ServeHTTP(w, q) }},
		{"an echo everywhere", any, echo},
		{"an echo of the token endpoint", kind(proxytest.KindToken), echo},
		{"an echo of the manifest", kind(proxytest.KindManifest), func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			if q.Header.Get("Authorization") == "" {
				next.ServeHTTP(w, q)
				return
			}
			echo(w, q, next)
		}},
		{"redirect to a dead host", kind(proxytest.KindBlob), signed},
		{"redirects of all", any, signed},
		{"redirect to no URL", kind(proxytest.KindBlob), func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Location", "http://[::1/?sig="+signature)
			w.WriteHeader(http.StatusFound)
		}},
		{"malformed header", kind(proxytest.KindBlob), malformed},
		{"storage that quotes", kind(proxytest.KindStorage), storageSays},
		{"storage that cuts", kind(proxytest.KindStorage), proxytest.Truncate(5)},
		{"storage that corrupts", kind(proxytest.KindStorage), proxytest.Corrupt(5)},
		{"refusal", kind(proxytest.KindToken), proxytest.Status(401, "UNAUTHORIZED")},
		{"no token", kind(proxytest.KindToken), proxytest.Body("application/json", []byte(`{"token":""}`))},
		{"realm with a password", kind(proxytest.KindManifest), proxytest.Challenge("http://u:" + pullToken.Password + "@localhost:1/token?sig=" + signature)},
		{"realm that is dead", kind(proxytest.KindManifest), proxytest.Challenge("http://localhost:1/token?sig=" + signature)},
		{"a cut everywhere", any, proxytest.Truncate(3)},
		{"503 everywhere", any, proxytest.Status(503, "UNAVAILABLE")},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			s, r := start(t, guarded)
			var logged bytes.Buffer
			r.Log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			desc := putBlob(s, content(1000))
			m := s.PutManifest(repo, "latest", "", []byte(plainManifest))
			s.Inject(0, c.match, c.fault)
			var errs []error
			_, err := r.Resolve(t.Context(), repo, "latest")
			errs = append(errs, err)
			_, err = r.Manifest(t.Context(), repo, "latest")
			errs = append(errs, err)
			_, err = readBlob(t.Context(), r, desc)
			errs = append(errs, err)
			_, err = r.Tags(t.Context(), repo, 10, "")
			errs = append(errs, err)
			_, err = r.Referrers(t.Context(), repo, m, "")
			errs = append(errs, err)
			_, err = r.Identify(t.Context(), repo)
			errs = append(errs, err)
			_, err = r.BlobHost(t.Context(), repo, desc)
			errs = append(errs, err, r.Ping(t.Context()))

			said := logged.String()
			for _, err := range errs {
				for ; err != nil; err = errors.Unwrap(err) {
					said += fmt.Sprintf("%v\n%+v\n", err, err)
				}
			}
			secrets := []string{pullToken.Password, signature, strings.TrimPrefix(pullToken.basic(), "Basic "), base64.StdEncoding.EncodeToString([]byte(pullToken.Password))}
			for _, tok := range r.tokens.kept {
				if tok.value != "" {
					secrets = append(secrets, tok.value)
				}
			}
			for _, secret := range secrets {
				if strings.Contains(said, secret) {
					t.Errorf("%q shows in:\n%s", secret, said)
				}
			}
			if c.what != "nothing" && strings.Count(said, "\n") == 0 {
				t.Error("nothing failed")
			}
		})
	}
}

func TestProxyPasswordNeverShows(t *testing.T) {
	r := &Registry{Name: "x", URL: "http://x.example", Backoff: time.Millisecond, Transport: &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) {
			return nil, errors.New(`invalid proxy address "user:marker-password@proxy:80": parse "http://user:marker-password@proxy:80": x`)
		}}}
	_, err := r.Resolve(t.Context(), repo, "latest")
	if err == nil || strings.Contains(err.Error(), "marker-password") {
		t.Errorf("got %v", err)
	}
}

func TestCredentialsNeverShow(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logged, nil))
	type holder struct{ C Credentials }
	log.Info("x", "c", pullToken, "p", &pullToken, "in", holder{pullToken})
	j, err := json.Marshal(holder{pullToken})
	if err != nil {
		t.Fatal(err)
	}
	said := logged.String() + string(j) + fmt.Sprint(pullToken, &pullToken, holder{pullToken})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		said += fmt.Sprintf(verb+verb, pullToken, holder{pullToken})
	}
	if strings.Contains(said, pullToken.Password) || strings.Contains(said, fmt.Sprintf("%x", pullToken.Password)) {
		t.Errorf("the password shows in %s", said)
	}
	if !strings.Contains(said, pullToken.Username) || Credentials.String(Credentials{}) != "anonymous" {
		t.Errorf("the user name doesn't show in %s", said)
	}
}

func TestGenerations(t *testing.T) {
	a, b := Credentials{"ab", "c"}, Credentials{"a", "bc"}
	if a.generation() == b.generation() || a.generation() != (Credentials{"ab", "c"}).generation() {
		t.Error("generations don't tell credentials apart")
	}
}

func TestTokensAreBounded(t *testing.T) {
	var kept tokens
	now := time.Now()
	for i := range 3 * maxTokens {
		kept.put(tokenKey{scope: fmt.Sprint(i)}, token{value: "x", fetched: now, renew: now.Add(time.Minute)})
	}
	if len(kept.kept) > maxTokens {
		t.Errorf("%d tokens are kept", len(kept.kept))
	}
	kept.put(tokenKey{scope: "later"}, token{value: "x", fetched: now.Add(time.Hour), renew: now.Add(2 * time.Hour)})
	if len(kept.kept) != 1 {
		t.Errorf("%d tokens are kept after the others ended", len(kept.kept))
	}
}

// A manifest that never ends, and one that comes in drops, are both bounded.
func TestBodiesAreBounded(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	d := s.PutManifest(repo, "latest", "", []byte(plainManifest))
	s.Inject(0, nil, func(w http.ResponseWriter, q *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		for q.Context().Err() == nil {
			if _, err := io.WriteString(w, strings.Repeat(" ", 1<<16)); err != nil {
				return
			}
		}
	})
	if _, err := r.Manifest(t.Context(), repo, "latest"); !errors.Is(err, ErrContent) {
		t.Errorf("manifest: %v", err)
	}
	if _, err := r.Tags(t.Context(), repo, 0, ""); !errors.Is(err, ErrContent) {
		t.Errorf("tags: %v", err)
	}
	if _, err := r.Referrers(t.Context(), repo, d, ""); !errors.Is(err, ErrContent) {
		t.Errorf("referrers: %v", err)
	}
}
