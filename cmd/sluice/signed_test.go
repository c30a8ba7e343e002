package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/proxytest/sample"
)

const signedRego = `package sluice.policies.signed
violations contains {"policy": "signed", "message": "nobody whom we trust has signed it"} if not signed
signed if {
	some s in input.image.signatures
	s.verified
	s.key == "release"
}
`

// sign pushes a signature of d to the scene's registry, as cosign did before its version 3.
func (s *scene) sign(t *testing.T, key crypto.Signer, repo string, d digest.Digest) {
	t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, d)
	sum := sha256.Sum256(payload)
	sig, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	s.origin.PutBlob(repo, payload)
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: s.origin.PutBlob(repo, []byte("{}")), Size: 2},
		Layers: []ocispec.Descriptor{{
			MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: digest.FromBytes(payload), Size: int64(len(payload)),
			Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.origin.PutManifest(repo, d.Algorithm().String()+"-"+d.Encoded()+".sig", ocispec.MediaTypeImageManifest, b)
}

// TestScanSigned: a scan without a gateway asks the registry who signed the image, or the
// index that it was named by, where a policy wants to know.
func TestScanSigned(t *testing.T) {
	s := newScene(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"policies/signed.rego": signedRego, "key.pub": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	user, password := connection.EnvNames("cgr.dev")
	t.Setenv(user, s.user)
	t.Setenv(password, s.password)
	c := configs.Default()
	c.StateDir, c.Database.URL = t.TempDir(), s.mirror
	c.Upstreams = []configs.Upstream{{Name: "cgr.dev", URL: s.origin.URL()}}
	c.Policy.Dir = filepath.Join(dir, "policies")
	c.Trust = configs.Trust{Keys: []configs.TrustedKey{{Name: "release", File: filepath.Join(dir, "key.pub")}}, IgnoreTlog: true}
	if c, err = c.Resolve(func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	if _, _, err := openDatabases(c, slog.New(slog.DiscardHandler)).Update(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	allowed := func(ref string, want bool) {
		t.Helper()
		a, err := scanImage(t.Context(), c, ref, "linux/amd64")
		if err != nil {
			t.Fatal(err)
		}
		if a.Decision.Allow != want {
			t.Errorf("%s is allowed: %v, signatures %+v, %+v", ref, !want, a.Image.Signatures, a.Decision.Violations)
		}
	}
	web, err := sample.WolfiClean(sample.Options{})
	if err != nil {
		t.Fatal(err)
	}
	index, err := sample.Index(sample.Options{}, sample.WolfiClean)
	if err != nil {
		t.Fatal(err)
	}
	digestOf := func(d v1.Hash, err error) digest.Digest {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return digest.Digest(d.String())
	}
	allowed("cgr.dev/acme/web:1", false)
	allowed("cgr.dev/acme/multi:1", false)
	allowed("oci:"+filepath.Join(s.dir, "oci-web"), false)
	s.sign(t, key, "acme/web", digestOf(web.Digest()))
	s.sign(t, key, "acme/multi", digestOf(index.Digest()))
	allowed("cgr.dev/acme/web:1", true)
	allowed("cgr.dev/acme/multi:1", true)
	allowed("oci:"+filepath.Join(s.dir, "oci-web"), false) // nobody can be asked
}
