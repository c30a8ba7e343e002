package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

// packed is a tar.gz of files.
func packed(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// bundled are the files of a small bundle.
func bundled() map[string]string {
	return map[string]string{
		"policies/limit.rego":             limit,
		"parameters/limit/data.json":      `{"packages": 100}`,
		".manifest":                       `{"revision": "2026-11-01", "roots": ["sluice", "parameters"]}`,
		"policies/limit_more_test.rego":   "package sluice.policies.limit_test\nimport rego.v1\nimport data.sluice.policies.limit\ntest_it if count(limit.violations) == 1 with input as {\"scan\": {\"packages\": 101}}\n",
		"documentation/what-it-is-for.md": "Nothing that is read.",
	}
}

// signed has OPA itself write a bundle of files, signed by a key with claims.
func signed(t testing.TB, files map[string]string, key crypto.Signer, algorithm string, claims map[string]any) []byte {
	t.Helper()
	b, err := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(packed(t, files)), "")).
		WithRegoVersion(ast.RegoV1).WithSkipBundleVerification(true).Read()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	name := ""
	if claims != nil {
		j, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		name = write(t, t.TempDir(), "claims.json", string(j))
	}
	if err := b.GenerateSignature(bundle.NewSigningConfig(string(text), algorithm, name), "", false); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := bundle.NewWriter(&out).Write(b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// public writes the public half of a key.
func public(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return write(t, t.TempDir(), "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
}

// certified writes a certificate for a key that is valid until a time.
func certified(t testing.TB, key crypto.Signer, until time.Time) string {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "policies"}, NotBefore: until.AddDate(-1, 0, 0), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, t.TempDir(), "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

func newEC(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestBundle is the life of a bundle's file: read, changed, broken.
func TestBundle(t *testing.T) {
	root := t.TempDir()
	file := write(t, root, "b.tar.gz", string(packed(t, bundled())))
	e, h := follow(t, Config{Bundle: file, Origin: "https://policies.example/b.tar.gz"})
	if st := e.Status(); st.Source != "https://policies.example/b.tar.gz" || st.Bundle != "2026-11-01" || st.Policies != 2 || st.LastError != "" {
		t.Errorf("%+v", st)
	}
	in := clean()
	in.Scan.Packages = 101
	if allows(e, in) {
		t.Error("allowed")
	}
	files := bundled()
	files["parameters/limit/data.json"] = `{"packages": 101}`
	write(t, root, "b.tar.gz", string(packed(t, files)))
	if text := h.next(t, refused); !strings.Contains(text, "limit_more_test.rego:4") || allows(e, in) {
		t.Errorf("a bundle whose test fails: %s", text)
	}
	delete(files, "policies/limit_more_test.rego")
	write(t, root, "b.tar.gz", string(packed(t, files)))
	h.next(t, changed)
	if !allows(e, in) {
		t.Error("denied by a parameter of before")
	}
	if l := e.Policies(); len(l) != 2 || l[0].File != "https:/policies.example/b.tar.gz/policies/limit.rego" {
		t.Errorf("%+v", l)
	}
}

// TestSignedBundles: where keys are given, a bundle counts by a signature of one of them
// over each of its files.
func TestSignedBundles(t *testing.T) {
	ec, other := newEC(t), newEC(t)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	of := func(k crypto.Signer) []BundleKey { return []BundleKey{{Name: "release", File: public(t, k)}} }
	forged := map[string]string{"policies/limit.rego": strings.Replace(limit, "packages >", "packages > 100000 +", 1)}
	for name, tt := range map[string]struct {
		bundle []byte
		keys   []BundleKey
		want   string // in the error; "" for none
	}{
		"ECDSA":              {signed(t, bundled(), ec, "ES256", nil), of(ec), ""},
		"RSA":                {signed(t, bundled(), rs, "RS256", nil), of(rs), ""},
		"RSA-PSS":            {signed(t, bundled(), rs, "PS384", nil), []BundleKey{{Name: "release", File: public(t, rs), Algorithm: "PS384"}}, ""},
		"Ed25519":            {signed(t, bundled(), ed, "EdDSA", nil), of(ed), ""},
		"a certificate":      {signed(t, bundled(), ec, "ES256", nil), []BundleKey{{Name: "release", File: certified(t, ec, now.AddDate(0, 1, 0))}}, ""},
		"one of two keys":    {signed(t, bundled(), ec, "ES256", map[string]any{"keyid": "old"}), []BundleKey{{Name: "new", File: public(t, other)}, {Name: "old", File: public(t, ec)}}, ""},
		"not signed":         {packed(t, bundled()), of(ec), "must be signed"},
		"another key":        {signed(t, bundled(), other, "ES256", nil), of(ec), "verify"},
		"another key named":  {signed(t, bundled(), other, "ES256", map[string]any{"keyid": "old"}), []BundleKey{{Name: "new", File: public(t, other)}, {Name: "old", File: public(t, ec)}}, "verify"},
		"no key named":       {signed(t, bundled(), ec, "ES256", nil), []BundleKey{{Name: "new", File: public(t, other)}, {Name: "old", File: public(t, ec)}}, "new, old"},
		"changed since":      {replaced(t, signed(t, bundled(), ec, "ES256", nil), forged), of(ec), "policies/limit.rego"},
		"a file too many":    {replaced(t, signed(t, bundled(), ec, "ES256", nil), map[string]string{"x.rego": tame}), of(ec), "x.rego"},
		"over":               {signed(t, bundled(), ec, "ES256", map[string]any{"exp": now.Add(-time.Hour).Unix()}), of(ec), "sign it again"},
		"not yet":            {signed(t, bundled(), ec, "ES256", map[string]any{"nbf": now.Add(time.Hour).Unix()}), of(ec), "clock"},
		"not over":           {signed(t, bundled(), ec, "ES256", map[string]any{"exp": now.Add(time.Hour).Unix()}), of(ec), ""},
		"an old certificate": {signed(t, bundled(), ec, "ES256", nil), []BundleKey{{Name: "release", File: certified(t, ec, now.AddDate(0, -1, 0))}}, "the certificate is valid from"},
		"no key":             {signed(t, bundled(), ec, "ES256", nil), []BundleKey{{Name: "release", File: write(t, t.TempDir(), "x", "hello")}}, "no PEM"},
		"no file":            {signed(t, bundled(), ec, "ES256", nil), []BundleKey{{Name: "release", File: "/nowhere/key.pem"}}, "/nowhere/key.pem"},
		"an odd algorithm":   {signed(t, bundled(), ec, "ES256", nil), []BundleKey{{Name: "release", File: public(t, ec), Algorithm: "HS256"}}, "ES256"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, t.TempDir(), "b.tar.gz", string(tt.bundle))
			_, err := Open(context.Background(), Config{Bundle: file, BundleKeys: tt.keys})
			check := CheckBundle(t.Context(), file, tt.bundle, tt.keys)
			switch {
			case tt.want == "" && (err != nil || check != nil):
				t.Errorf("%v, %v", err, check)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || check == nil):
				t.Errorf("%v, %v, want %q", err, check, tt.want)
			}
		})
	}
}

// replaced puts files into a bundle, in place of those of their names.
func replaced(t testing.TB, b []byte, files map[string]string) []byte {
	t.Helper()
	all := map[string]string{}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		var text bytes.Buffer
		if _, err := text.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(h.Name, "/")] = text.String()
	}
	maps.Copy(all, files)
	return packed(t, all)
}

// TestBadBundles: what is no bundle, or would hurt, is refused, and says why.
func TestBadBundles(t *testing.T) {
	with := func(name, text string) []byte {
		files := bundled()
		files[name] = text
		return packed(t, files)
	}
	many := map[string]string{}
	for i := range 5 {
		many[filepath.Join("d", strings.Repeat("x", i+1), "data.json")] = `{"a": "` + strings.Repeat("0", 15<<20) + `"}`
	}
	for name, tt := range map[string]struct {
		bundle []byte
		want   string
	}{
		"text":           {[]byte("package sluice"), "not a tar.gz"},
		"nothing":        {nil, "not a tar.gz"},
		"half":           {packed(t, bundled())[:300], "not a whole tar.gz"},
		"no policy":      {packed(t, map[string]string{"a/data.json": "{}"}), "no policies"},
		"syntax":         {with("policies/x.rego", "package sluice.policies.x\nviolations contains {"), "policies/x.rego:2"},
		"a type error":   {with("policies/x.rego", "package sluice.policies.x\nviolations contains {\"policy\": \"x\", \"message\": \"m\"} if input.scan.stat == 1"), "policies/x.rego:2"},
		"bad data":       {with("x/data.json", "{"), "x/data.json"},
		"outside a root": {with("other/data.json", `{"a": 1}`), "roots"},
		"delta":          {packed(t, map[string]string{"patch.json": `{"data": [{"op": "upsert", "path": "/a", "value": 1}]}`}), "delta"},
		"WebAssembly":    {with("policy.wasm", "x"), "WebAssembly"},
		"a bomb":         {packed(t, many), "holds more than 64 MiB"},
		"a way out":      {with("../../../etc/x.rego", "package sluice.policies.x\nviolations contains {"), "x.rego:2"},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, t.TempDir(), "b.tar.gz", string(tt.bundle))
			_, err := Open(context.Background(), Config{Bundle: file})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) && !strings.Contains(tt.want, ":") && name != "no policy" {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "b.tar.gz")
		if err := os.WriteFile(file, make([]byte, MaxBundle+1), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(context.Background(), Config{Bundle: file}); err == nil || !strings.Contains(err.Error(), "larger than 16 MiB") {
			t.Error(err)
		}
	})
}
