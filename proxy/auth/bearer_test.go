package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/sluicegate/sluice/proxy/auth/oidc"
	"github.com/sluicegate/sluice/proxy/auth/token"
)

// withTokens has a gate give tokens.
func withTokens(a *Authenticator) {
	a.Tokens = &token.Signer{Key: [32]byte{1}, Now: a.Now}
	a.TokenLife = 5 * time.Minute
}

func bearer(from, tok string) *http.Request {
	r := request(from, "", "")
	r.Header.Set("Authorization", "Bearer "+tok)
	return r
}

// TestToken follows a token through its life: it names its caller, and no longer once its
// line is changed or gone, or its time is over.
func TestToken(t *testing.T) {
	a, c := gate(t, withTokens)
	g, err := a.Grant(request("192.0.2.1", "alice", "open sesame"))
	if err != nil || g.Life != 5*time.Minute {
		t.Fatalf("%v, %v", g.Life, err)
	}
	may := func() bool {
		c.add(checkEvery)
		who, err := a.Caller(bearer("192.0.2.1", g.Token))
		return err == nil && who.Name == "alice"
	}
	if !may() {
		t.Error("refused")
	}
	if _, err := a.Grant(bearer("192.0.2.1", g.Token)); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a token for a token: %v", err)
	}
	old, err := os.ReadFile(a.Htpasswd)
	if err != nil {
		t.Fatal(err)
	}
	write(t, a.Htpasswd, "alice:"+hashOf(t, "new")+"\n")
	if may() {
		t.Error("a token of an old password is taken")
	}
	write(t, a.Htpasswd, string(old))
	if !may() {
		t.Error("refused after the line was back")
	}
	write(t, a.Htpasswd, "bob:"+hashOf(t, "new")+"\n")
	if may() {
		t.Error("a token of one who is gone is taken")
	}
	write(t, a.Htpasswd, string(old))
	c.add(5 * time.Minute)
	if may() {
		t.Error("a token is taken after its end")
	}
	for _, wrong := range []*http.Request{request("192.0.2.1", "", ""), request("192.0.2.1", "alice", "wrong"), bearer("192.0.2.1", "abc")} {
		if _, err := a.Grant(wrong); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("a token for %q: %v", wrong.Header, err)
		}
	}
}

// TestForgedTokensAreLimited: who tries tokens is stopped, who has one that is over is not.
func TestForgedTokensAreLimited(t *testing.T) {
	a, c := gate(t, withTokens)
	g, err := a.Grant(request("192.0.2.1", "alice", "open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	c.add(time.Hour)
	var many *TooManyError
	for range 2 * wider * burst {
		if _, err := a.Caller(bearer("192.0.2.1", g.Token)); errors.As(err, &many) {
			t.Fatal("a client with a token that is over was locked out")
		}
	}
	tries := 0
	for ; tries < 2*burst; tries++ {
		if _, err := a.Caller(bearer("192.0.2.1", "guess")); errors.As(err, &many) {
			break
		}
	}
	if tries != burst {
		t.Errorf("%d tries, want %d", tries, burst)
	}
	if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame")); err != nil {
		t.Errorf("who logs in beside a guesser of tokens: %v", err)
	}
	if g, err = a.Grant(request("192.0.2.1", "alice", "open sesame")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Caller(bearer("192.0.2.1", g.Token)); err != nil {
		t.Errorf("who has a good token beside a guesser: %v", err)
	}
}

func TestChallenge(t *testing.T) {
	a, _ := gate(t, withTokens)
	if got := a.Challenge("repository:acme/web:pull"); got != `Basic realm="sluice"` {
		t.Error(got)
	}
	a.Realm = "https://sluice.example.com/token"
	if got, want := a.Challenge("repository:acme/web:pull"), `Bearer realm="https://sluice.example.com/token",service="sluice",scope="repository:acme/web:pull"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := a.Challenge(""), `Bearer realm="https://sluice.example.com/token",service="sluice"`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestForeign has what a pod's secret for cgr.dev sends come by.
func TestForeign(t *testing.T) {
	uidp := "bd3c9ec494caca60225319fd4053abe067c169ec/5037f83cdd0fbdcd"
	for _, name := range []string{uidp, "_token"} {
		a, _ := gate(t, nil)
		for range 2 * wider * burst { // which locks nobody out
			if _, err := a.Caller(request("192.0.2.1", name, "eyJhbGciOiJSUzI1NiJ9.e30.AA")); !errors.Is(err, ErrForeign) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if _, err := a.Caller(request("192.0.2.1", "alice", "open sesame")); err != nil {
			t.Errorf("alice was locked out: %v", err)
		}
		a.IgnoreForeign = true
		if _, err := a.Caller(request("192.0.2.1", name, "x")); !errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrForeign) {
			t.Errorf("ignored, and nobody: %v", err)
		}
		a.Anonymous = true
		if who, err := a.Caller(request("192.0.2.1", name, "x")); err != nil || who.Name != "" {
			t.Errorf("ignored, and anonymous: %q, %v", who.Name, err)
		}
	}
}

// TestIssuedToken has an issuer's token come as Bearer and as a password, and be exchanged
// for one of the gateway's that ends no later.
func TestIssuedToken(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k := jose.JSONWebKey{Key: key, KeyID: "1", Algorithm: "ES256"}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{k.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	write(t, file, string(keys))
	a, c := gate(t, func(a *Authenticator) {
		withTokens(a)
		a.Issuers = []*oidc.Issuer{{Name: "k8s", URL: "https://kubernetes.default.svc", Audience: "sluice", KeysFile: file, Now: a.Now}}
	})
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k}, nil)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(audience string, life time.Duration) string {
		tok, err := jwt.Signed(s).Claims(map[string]any{"iss": "https://kubernetes.default.svc", "aud": audience, "sub": "system:serviceaccount:prod:web", "exp": c.now().Add(life).Unix()}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	good := issue("sluice", 2*time.Minute)
	want := "k8s:system:serviceaccount:prod:web"
	for how, r := range map[string]*http.Request{"bearer": bearer("192.0.2.1", good), "password": request("192.0.2.1", "anything", good)} {
		if who, err := a.Caller(r); err != nil || who.Name != want || !slices.Contains(who.Groups, "k8s:system:serviceaccounts:prod") {
			t.Errorf("%s: %+v, %v", how, who, err)
		}
	}
	g, err := a.GrantTo(request("192.0.2.1", "", ""), "anything", good)
	if err != nil || g.Life > 2*time.Minute {
		t.Fatalf("exchanged for one of %s: %v", g.Life, err)
	}
	if who, err := a.Caller(bearer("192.0.2.1", g.Token)); err != nil || who.Name != want || !slices.Contains(who.Groups, "k8s:system:serviceaccounts") {
		t.Errorf("exchanged: %+v, %v", who, err)
	}
	a.Issuers[0] = &oidc.Issuer{Name: "k8s", URL: "https://kubernetes.default.svc", Audience: "other", KeysFile: file, Now: a.Now}
	if _, err := a.Caller(bearer("192.0.2.1", g.Token)); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a token that was given for an issuer's, as it was: %v", err)
	}
	if _, err := a.Caller(bearer("192.0.2.1", issue("vault", time.Minute))); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a token for somebody else: %v", err)
	}
}

// authority is a certificate authority for clients.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, path string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := authority{&x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "clients"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}, key}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return a
}

func (a authority) client(t *testing.T, name pkix.Name) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestClientCertificate has callers known by certificates, while those without one log in,
// and an authority be replaced in between.
func TestClientCertificate(t *testing.T) {
	dir := t.TempDir()
	clock := &clock{t: time.Now()}
	c := &Certificate{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), ClientCA: filepath.Join(dir, "ca.crt"), Now: clock.now}
	issue(t, c.CertFile, c.KeyFile, 1)
	ours := newAuthority(t, c.ClientCA)
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	a, _ := gate(t, func(a *Authenticator) { a.ClientCA, a.Now = c.ClientCA, clock.now })
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := a.Caller(r)
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write([]byte(who.Name + " " + strings.Join(who.Groups, ",")))
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server.Listener = tls.NewListener(l, c.TLS())
	server.Start()
	defer server.Close()
	ask := func(cert *tls.Certificate, password string) string {
		clock.add(checkEvery)
		config := &tls.Config{InsecureSkipVerify: true}
		if cert != nil {
			config.Certificates = []tls.Certificate{*cert}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		r, err := http.NewRequest(http.MethodGet, "https://"+l.Addr().String()+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			r.SetBasicAuth("alice", password)
		}
		resp, err := client.Do(r)
		if err != nil {
			return "handshake"
		}
		defer resp.Body.Close()
		b := make([]byte, 100)
		n, _ := resp.Body.Read(b)
		return resp.Status[:3] + " " + string(b[:n])
	}
	node := ours.client(t, pkix.Name{CommonName: "node-1", Organization: []string{"nodes"}})
	stranger := newAuthority(t, filepath.Join(dir, "other.crt")).client(t, pkix.Name{CommonName: "node-1"})
	nameless := ours.client(t, pkix.Name{Organization: []string{"nodes"}})
	for _, test := range []struct {
		name     string
		cert     *tls.Certificate
		password string
		want     string
	}{
		{"a certificate", &node, "", "200 cert:node-1 cert:nodes"},
		{"none", nil, "", "401 "},
		{"none, and a password", nil, "open sesame", "200 alice "},
		{"both: what is said counts", &node, "open sesame", "200 alice "},
		{"a certificate, and a wrong password", &node, "wrong", "401 "},
		{"of another authority", &stranger, "", "handshake"},
		{"without a name", &nameless, "", "401 "},
	} {
		if got := ask(test.cert, test.password); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
	open := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{node}}}}
	defer open.CloseIdleConnections()
	status := func() int {
		clock.add(checkEvery)
		resp, err := open.Get("https://" + l.Addr().String() + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	if got := status(); got != 200 {
		t.Errorf("on a connection that stays open: %d", got)
	}
	newAuthority(t, c.ClientCA)
	if got := ask(&node, ""); got != "handshake" {
		t.Errorf("after its authority is gone: %q", got)
	}
	if got := status(); got != 401 {
		t.Errorf("on a connection that was open before its authority was gone: %d", got)
	}
}
