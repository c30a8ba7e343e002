package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
)

// provider is an issuer of tokens, with its discovery document and its keys.
type provider struct {
	*httptest.Server
	keys  atomic.Pointer[jose.JSONWebKeySet]
	asked atomic.Int64 // for the keys
	down  atomic.Bool
	says  string // its name in the discovery document, "" for the right one
	extra string // a key of a kind that nobody knows, beside the others
}

func newProvider(t *testing.T, keys ...jose.JSONWebKey) *provider {
	t.Helper()
	p := &provider{}
	p.publish(keys...)
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		name := p.URL
		if p.says != "" {
			name = p.says
		}
		json.NewEncoder(w).Encode(map[string]string{"issuer": name, "jwks_uri": p.URL + "/keys"})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		if p.down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		b, _ := json.Marshal(p.keys.Load())
		if p.extra != "" {
			b = []byte(strings.Replace(string(b), `{"keys":[`, `{"keys":[`+p.extra+`,`, 1))
		}
		w.Write(b)
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// TestEmail: an address that nobody has verified is anybody's.
func TestEmail(t *testing.T) {
	key := ecKey(t, "1")
	p := newProvider(t, key)
	c := &clock{}
	c.t.Store(time.Now().Unix())
	for verified, want := range map[any]bool{true: true, false: false, "true": false, nil: false} {
		i := &Issuer{Name: "sso", URL: p.URL, Audience: "sluice", NameClaim: "email", Now: c.now, Log: slog.New(slog.DiscardHandler)}
		id, err := i.Verify(t.Context(), sign(t, key, c.claims(p, map[string]any{"email": "anna@example.com", "email_verified": verified})))
		if (err == nil) != want || want && id.Name != "sso:anna@example.com" {
			t.Errorf("email_verified %v: %q, %v", verified, id.Name, err)
		}
	}
}

func (p *provider) publish(keys ...jose.JSONWebKey) {
	set := &jose.JSONWebKeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, k.Public())
	}
	p.keys.Store(set)
}

func rsaKey(t *testing.T, id string) jose.JSONWebKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: k, KeyID: id, Algorithm: "RS256", Use: "sig"}
}

func ecKey(t *testing.T, id string) jose.JSONWebKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return jose.JSONWebKey{Key: k, KeyID: id, Algorithm: "ES256"}
}

func sign(t *testing.T, k jose.JSONWebKey, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(k.Algorithm), Key: k}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

type clock struct{ t atomic.Int64 }

func (c *clock) now() time.Time      { return time.Unix(c.t.Load(), 0) }
func (c *clock) add(d time.Duration) { c.t.Add(int64(d / time.Second)) }

// claims of a good token, with changes; nil takes one away.
func (c *clock) claims(p *provider, change map[string]any) map[string]any {
	m := map[string]any{"iss": p.URL, "aud": "sluice", "sub": "repo:acme/web", "exp": c.now().Add(5 * time.Minute).Unix(), "groups": []string{"platform", "dev"}}
	for k, v := range change {
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	return m
}

func TestVerify(t *testing.T) {
	key, other, ec := rsaKey(t, "1"), rsaKey(t, "1"), ecKey(t, "2")
	p := newProvider(t, key, ec)
	p.extra = `{"kty":"XYZ","kid":"9"}`
	c := &clock{}
	c.t.Store(1_800_000_000)
	hmac := jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "1", Algorithm: "HS256"}
	for _, test := range []struct {
		name   string
		key    jose.JSONWebKey
		change map[string]any
		want   string // name, or the error's text
		groups []string
	}{
		{"good", key, nil, "ci:repo:acme/web", []string{"ci:dev", "ci:platform"}},
		{"elliptic curve", ec, nil, "ci:repo:acme/web", []string{"ci:dev", "ci:platform"}},
		{"several audiences", key, map[string]any{"aud": []string{"x", "sluice"}, "groups": "one"}, "ci:repo:acme/web", []string{"ci:one"}},
		{"service account", key, map[string]any{"sub": "system:serviceaccount:prod:web", "groups": nil}, "ci:system:serviceaccount:prod:web",
			[]string{"ci:system:serviceaccounts", "ci:system:serviceaccounts:prod"}},
		{"for somebody else", key, map[string]any{"aud": "vault"}, "audience sluice", nil},
		{"for nobody", key, map[string]any{"aud": nil}, "audience sluice", nil},
		{"over", key, map[string]any{"exp": c.now().Add(-2 * time.Minute).Unix()}, "expired", nil},
		{"without an end", key, map[string]any{"exp": nil}, "never expires", nil},
		{"not yet", key, map[string]any{"nbf": c.now().Add(time.Hour).Unix()}, "not valid yet", nil},
		{"of somebody else", key, map[string]any{"iss": "https://example.com"}, "issuer is not", nil},
		{"nobody", key, map[string]any{"sub": ""}, "no name", nil},
		{"a name with a line break", key, map[string]any{"sub": "a\nb"}, "no name", nil},
		{"a name that is a list", key, map[string]any{"sub": []string{"a"}}, "can't be read", nil},
		{"a key that is not the issuer's", other, nil, "signature is wrong", nil},
		{"a shared secret", hmac, nil, "not a signed JSON Web Token", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			i := &Issuer{Name: "ci", URL: p.URL, Audience: "sluice", GroupsClaim: "groups", Now: c.now, Log: slog.New(slog.DiscardHandler)}
			id, err := i.Verify(t.Context(), sign(t, test.key, c.claims(p, test.change)))
			if err != nil {
				if test.groups != nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("error %v, want %s", err, test.want)
				}
				return
			}
			if d := cmp.Diff(Identity{Name: test.want, Groups: test.groups, Expires: id.Expires}, id); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestKeyChange follows an issuer through a new key, an outage and a flood of tokens that
// name keys which nobody has.
func TestKeyChange(t *testing.T) {
	first, second := rsaKey(t, "1"), rsaKey(t, "2")
	p := newProvider(t, first)
	c := &clock{}
	c.t.Store(1_800_000_000)
	i := &Issuer{Name: "ci", URL: p.URL, Audience: "sluice", Now: c.now, Log: slog.New(slog.DiscardHandler)}
	verify := func(k jose.JSONWebKey) error {
		_, err := i.Verify(t.Context(), sign(t, k, c.claims(p, nil)))
		return err
	}
	if err := verify(first); err != nil {
		t.Fatal(err)
	}
	p.publish(first, second)
	c.add(keysAgain)
	if err := verify(second); err != nil {
		t.Errorf("a new key isn't taken: %v", err)
	}
	asked := p.asked.Load()
	for range 20 {
		if err := verify(rsaKey(t, "unknown")); err == nil {
			t.Error("an unknown key was taken")
		}
		c.add(time.Second)
	}
	if n := p.asked.Load() - asked; n > 1 {
		t.Errorf("the issuer was asked %d times in 20 s for a key that it doesn't have", n)
	}
	p.down.Store(true)
	c.add(2 * keysFor)
	if err := verify(first); err != nil {
		t.Errorf("while the issuer is away: %v", err)
	}
	c.add(keysStale)
	var away *UnavailableError
	if err := verify(first); !errors.As(err, &away) {
		t.Errorf("after a day without the issuer: %v", err)
	}
	p.down.Store(false)
	p.publish(second)
	c.add(keysAgain)
	if err := verify(first); err == nil || errors.As(err, &away) {
		t.Errorf("a key that is gone: %v", err)
	}
}

func TestDiscoveryOfAnother(t *testing.T) {
	p := newProvider(t, rsaKey(t, "1"))
	p.says = "https://example.com"
	i := &Issuer{Name: "ci", URL: p.URL, Audience: "sluice", Log: slog.New(slog.DiscardHandler)}
	if err := func() error {
		_, err := i.Verify(t.Context(), sign(t, rsaKey(t, "1"), map[string]any{"iss": p.URL}))
		return err
	}(); err == nil || !strings.Contains(err.Error(), "another issuer") {
		t.Errorf("%v", err)
	}
}

func TestKeysFile(t *testing.T) {
	key := ecKey(t, "k")
	p := newProvider(t, key)
	b, err := json.Marshal(p.keys.Load())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &clock{}
	c.t.Store(time.Now().Unix())
	i := &Issuer{Name: "k8s", URL: "https://kubernetes.default.svc", Audience: "sluice", KeysFile: path, Now: c.now}
	if _, err := i.Verify(t.Context(), sign(t, key, c.claims(p, map[string]any{"iss": i.URL}))); err != nil {
		t.Error(err)
	}
	if p.asked.Load() != 0 {
		t.Error("the issuer was asked")
	}
}

// TestTokenFile has the keys asked for with a token, which goes to the hosts of the
// configuration alone.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("own token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	key := rsaKey(t, "1")
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	var elsewhere, own atomic.Pointer[string]
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Get("Authorization")
		elsewhere.Store(&h)
		w.Write(keys)
	}))
	defer other.Close()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := r.Header.Get("Authorization")
		own.Store(&h)
		json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "jwks_uri": other.URL})
	}))
	defer server.Close()
	i := &Issuer{Name: "k8s", URL: server.URL, Audience: "sluice", TokenFile: path}
	claims := map[string]any{"iss": server.URL, "aud": "sluice", "sub": "a", "exp": time.Now().Add(time.Minute).Unix()}
	if _, err := i.Verify(t.Context(), sign(t, key, claims)); err != nil {
		t.Fatal(err)
	}
	if h := own.Load(); h == nil || *h != "Bearer own token" {
		t.Errorf("the issuer got %v", h)
	}
	if h := elsewhere.Load(); h == nil || *h != "" {
		t.Errorf("another host got %v", h)
	}
}

func FuzzIssuerOf(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.AAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) { IssuerOf(token) })
}
