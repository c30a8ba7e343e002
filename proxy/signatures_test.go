package proxy_test

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
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/policy/signature"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// signedPolicy refuses what the key "release" has not signed, and tells why.
const signedPolicy = `package sluice.policies.signed

good if {
	some s in input.image.signatures
	s.verified
	s.key == "release"
}

reasons := concat("; ", sort({object.get(s, "error", "") | some s in object.get(input.image, "signatures", [])}))

violations contains {"policy": "signed", "message": sprintf("unsigned (%s)", [reasons]), "findings": [], "remediation": "Sign it."} if {
	not good
}
`

// attestedPolicy refuses what has no attested VEX document of the key "release".
const attestedPolicy = `package sluice.policies.attested

good if {
	some a in input.image.attestations
	a.verified
	a.key == "release"
	a.predicate_type == "https://openvex.dev/ns"
	a.predicate.author == "acme"
}

violations contains {"policy": "attested", "message": "not attested", "findings": [], "remediation": "Attest it."} if {
	not good
}
`

// signing is a lab whose policy reads signatures, made with a key.
func signing(t *testing.T, rego, key string, changes ...change) *lab {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.rego"), []byte(rego), 0o600); err != nil {
		t.Fatal(err)
	}
	trust, err := signature.Open(signature.Config{Keys: []signature.Key{{Name: "release", File: key}}, IgnoreTlog: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return newLab(t, append([]change{func(l *lab, c *policy.Config) {
		c.Dir, c.Timeout = dir, 10*time.Second
		l.gateway.Trust = trust
		l.gateway.Gate.HeaderWait = patience
		l.gateway.Gate.NegativeTTL = 0
	}}, changes...)...)
}

// A signer is cosign with a pair of keys, logged in to an origin.
type signer struct {
	*testing.T
	dir, program string
	origin       *proxytest.Server
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	program, err := filepath.Abs("../bin/tools/cosign")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		if program, err = exec.LookPath("cosign"); err != nil {
			t.Skip("there is no cosign: make e2e-slow installs it")
		}
	}
	s := &signer{T: t, dir: t.TempDir(), program: program}
	s.run("generate-key-pair", "--output-key-prefix", filepath.Join(s.dir, "key"))
	return s
}

func (s *signer) key() string { return filepath.Join(s.dir, "key.pub") }

func (s *signer) login(o *proxytest.Server) {
	s.Helper()
	s.origin = o
	b, err := json.Marshal(map[string]any{"auths": map[string]any{o.Host(): map[string]string{"username": "puller", "password": "pull-token-secret"}}})
	if err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "config.json"), b, 0o600); err != nil {
		s.Fatal(err)
	}
}

func (s *signer) run(args ...string) {
	s.Helper()
	c := exec.CommandContext(s.Context(), s.program, args...)
	c.Env = []string{"COSIGN_PASSWORD=", "HOME=" + s.dir, "DOCKER_CONFIG=" + s.dir, "PATH=" + os.Getenv("PATH")}
	if out, err := c.CombinedOutput(); err != nil {
		s.Fatalf("cosign %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// over signs or attests an image in the registry itself.
func (s *signer) over(verb, repo string, d digest.Digest, args ...string) {
	s.Helper()
	args = append([]string{verb, "--key", filepath.Join(s.dir, "key.key"), "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "--yes"}, args...)
	s.run(append(args, s.origin.Host()+"/"+repo+"@"+d.String())...)
}

// What the real cosign signs is signed, in each of its formats; what it has not signed, or
// somebody else has, is refused with the reason.
func TestCosign(t *testing.T) {
	for _, tt := range []struct {
		name        string
		noReferrers bool
		args        []string
	}{
		{"tag", false, []string{"--new-bundle-format=false"}},
		{"bundle that refers", false, nil},
		{"bundle in the fallback tag", true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ours, others := newSigner(t), newSigner(t)
			l := signing(t, signedPolicy, ours.key(), fronts(proxytest.Origin{Username: "puller", Password: "pull-token-secret", NoReferrers: tt.noReferrers}))
			ours.login(l.origin)
			others.login(l.origin)
			signed, unsigned, stolen := l.push("acme/web", "signed", 1000), l.push("acme/web", "unsigned", 1000), l.push("acme/web", "stolen", 1000)
			ours.over("sign", "acme/web", signed.digest, tt.args...)
			others.over("sign", "acme/web", stolen.digest, tt.args...)
			if r := l.scanned(signed); r.status != 200 {
				t.Errorf("signed: %d %s", r.status, r.message())
			}
			if r := l.scanned(unsigned); r.status != 403 || !strings.Contains(r.message(), "unsigned ()") {
				t.Errorf("unsigned: %d %s", r.status, r.message())
			}
			if r := l.scanned(stolen); r.status != 403 || !strings.Contains(r.message(), "by key release") {
				t.Errorf("signed by another: %d %s", r.status, r.message())
			}
			ours.over("sign", "acme/web", stolen.digest, tt.args...) // beside the other's
			next := signing(t, signedPolicy, ours.key(), func(n *lab, _ *policy.Config) { n.gateway.Upstreams = l.gateway.Upstreams })
			if r := next.scanned(stolen); r.status != 200 {
				t.Errorf("signed by two: %d %s", r.status, r.message())
			}
		})
	}
}

// What the real cosign attests is a fact, and its predicate too.
func TestCosignAttests(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"tag", []string{"--new-bundle-format=false"}},
		{"bundle that refers", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSigner(t)
			l := signing(t, attestedPolicy, s.key())
			s.login(l.origin)
			file := filepath.Join(s.dir, "vex.json")
			if err := os.WriteFile(file, []byte(`{"author":"acme","statements":[]}`), 0o600); err != nil {
				t.Fatal(err)
			}
			img, signed := l.push("acme/web", "a", 1000), l.push("acme/web", "b", 1000)
			s.over("attest", "acme/web", img.digest, append(tt.args, "--type", "openvex", "--predicate", file)...)
			s.over("sign", "acme/web", signed.digest, tt.args...)
			if r := l.scanned(img); r.status != 200 {
				t.Errorf("attested: %d %s", r.status, r.message())
			}
			if r := l.scanned(signed); r.status != 403 {
				t.Errorf("signed, and not attested: %d %s", r.status, r.message())
			}
		})
	}
}

// What the real cosign attests as CycloneDX is an SBOM to the cookbook, by the key that is
// trusted and by no other.
func TestCosignAttestsAnSBOM(t *testing.T) {
	cookbook, err := os.ReadFile("../policy/cookbook/sbom_attested.rego")
	if err != nil {
		t.Fatal(err)
	}
	trusting := strings.Replace(string(cookbook), "default keys := []", `default keys := ["release"]`, 1)
	for _, args := range [][]string{nil, {"--new-bundle-format=false"}} {
		s, stranger := newSigner(t), newSigner(t)
		l := signing(t, trusting, s.key())
		s.login(l.origin)
		stranger.login(l.origin)
		img, other := l.push("acme/web", "a", 1000), l.push("acme/web", "b", 1000)
		for _, kind := range []string{"cyclonedx", "spdxjson"} {
			file := filepath.Join(s.dir, kind)
			if err := os.WriteFile(file, []byte(`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[],"spdxVersion":"SPDX-2.3"}`), 0o600); err != nil {
				t.Fatal(err)
			}
			stranger.over("attest", "acme/web", other.digest, append(args, "--type", kind, "--predicate", file)...)
			if kind == "cyclonedx" {
				s.over("attest", "acme/web", img.digest, append(args, "--type", kind, "--predicate", file)...)
			}
		}
		if r := l.scanned(img); r.status != 200 {
			t.Errorf("%v: attested: %d %s", args, r.status, r.message())
		}
		if r := l.scanned(other); r.status != 403 || !strings.Contains(r.message(), "no SBOM attestation of the image is verified") {
			t.Errorf("%v: attested by a stranger: %d %s", args, r.status, r.message())
		}
	}
}

// A keyed lab signs by itself, to sign what cosign would not.
type keyed struct {
	*lab
	private *ecdsa.PrivateKey
}

func newKeyed(t *testing.T, changes ...change) *keyed {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &keyed{signing(t, signedPolicy, file, changes...), private}
}

// layer is a signature of what it says it is of.
func (k *keyed) layer(repo string, of digest.Digest) ocispec.Descriptor {
	k.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":"%s"},"type":"cosign container image signature"},"optional":null}`, of)
	sum := sha256.Sum256(payload)
	sig, err := k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		k.Fatal(err)
	}
	k.origin.PutBlob(repo, payload)
	return ocispec.Descriptor{
		MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Digest: digest.FromBytes(payload), Size: int64(len(payload)),
		Annotations: map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(sig)},
	}
}

func sigTag(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() + ".sig" }

// tag pushes the signatures of a manifest.
func (k *keyed) tag(repo string, d digest.Digest, layers ...ocispec.Descriptor) {
	k.Helper()
	k.putJSON(repo, sigTag(d), ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: k.empty(repo), Layers: layers,
	})
}

// What strangers may push beside an image.
func TestSignaturesThatAreNone(t *testing.T) {
	other := digest.FromString("another image")
	bad := func(d ocispec.Descriptor) ocispec.Descriptor {
		d.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "AAAA"}
		return d
	}
	for _, tt := range []struct {
		name string
		push func(k *keyed, img *image)
		want string // "" for allowed
	}{
		{"good", func(k *keyed, img *image) { k.tag(img.repo, img.digest, k.layer(img.repo, img.digest)) }, ""},
		{"the second layer is good", func(k *keyed, img *image) {
			l := k.layer(img.repo, img.digest)
			k.tag(img.repo, img.digest, bad(l), l)
		}, ""},
		{"the first layer is good", func(k *keyed, img *image) {
			l := k.layer(img.repo, img.digest)
			k.tag(img.repo, img.digest, l, bad(l))
		}, ""},
		{"of another image", func(k *keyed, img *image) { k.tag(img.repo, img.digest, k.layer(img.repo, other)) }, "it is a signature of"},
		{"both of no use", func(k *keyed, img *image) {
			k.tag(img.repo, img.digest, bad(k.layer(img.repo, img.digest)), k.layer(img.repo, other))
		}, "it is a signature of"},
		{"its blob is not there", func(k *keyed, img *image) {
			l := k.layer(img.repo, img.digest)
			l.Digest = other
			k.tag(img.repo, img.digest, l)
		}, "its layer can't be fetched"},
		{"its layer claims to be huge", func(k *keyed, img *image) {
			l := k.layer(img.repo, img.digest)
			l.Size = 1 << 40
			k.tag(img.repo, img.digest, l)
		}, "more than 8388608"},
		{"more layers than anybody reads", func(k *keyed, img *image) {
			l := bad(k.layer(img.repo, img.digest))
			k.tag(img.repo, img.digest, append(slicesRepeat(l, 60), k.layer(img.repo, img.digest))...)
		}, "more than 50"},
		{"an index in its place", func(k *keyed, img *image) { k.index(img.repo, sigTag(img.digest)) }, "has no layers"},
		{"layers of another type", func(k *keyed, img *image) {
			k.putJSON(img.repo, sigTag(img.digest), ocispec.MediaTypeImageManifest, map[string]any{"schemaVersion": 2, "layers": "x"})
		}, "can't be read"},
		{"ten thousand artifacts refer to it", func(k *keyed, img *image) {
			d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Digest: other, Size: 7}
			list, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: slicesRepeat(d, 10_000)})
			if err != nil {
				k.Fatal(err)
			}
			k.origin.Inject(0, proxytest.Request{Kind: proxytest.KindReferrers}.Matches, proxytest.Body(ocispec.MediaTypeImageIndex, list))
		}, "more than 50"},
		{"ten thousand artifacts, and a good signature", func(k *keyed, img *image) {
			d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Digest: other, Size: 7}
			list, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: slicesRepeat(d, 10_000)})
			if err != nil {
				k.Fatal(err)
			}
			k.origin.Inject(0, proxytest.Request{Kind: proxytest.KindReferrers}.Matches, proxytest.Body(ocispec.MediaTypeImageIndex, list))
			k.tag(img.repo, img.digest, k.layer(img.repo, img.digest))
		}, ""},
		{"the list of referrers is garbage", func(k *keyed, _ *image) {
			k.origin.Inject(0, proxytest.Request{Kind: proxytest.KindReferrers}.Matches, proxytest.Body(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[7,"x",null]}`)))
		}, "can't be read"},
		{"the registry fails", func(k *keyed, img *image) {
			k.origin.Inject(0, func(q proxytest.Request) bool { return strings.HasSuffix(q.Reference, ".sig") }, proxytest.Status(500, "UNKNOWN"))
			k.tag(img.repo, img.digest, k.layer(img.repo, img.digest))
		}, "can't be fetched"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKeyed(t)
			img := k.push("acme/web", "1", 1000)
			tt.push(k, img)
			r := k.scanned(img)
			if tt.want == "" && r.status != 200 || tt.want != "" && (r.status != 403 || !strings.Contains(string(r.body), tt.want)) {
				t.Errorf("%d %s, want %q", r.status, r.body, tt.want)
			}
		})
	}
}

func slicesRepeat[T any](v T, n int) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// Who signs an index signs what it lists; a signature that comes later counts soon; one that
// was verified counts while the registry is down.
func TestSignaturesOverTime(t *testing.T) {
	clock := &clock{}
	k := newKeyed(t, func(l *lab, c *policy.Config) { l.gateway.Now, c.Now = clock.now, clock.now })
	img := k.push("acme/web", "", 1000)
	index := k.index("acme/web", "1", k.descriptor(img, "amd64"))
	k.want(200, "", "GET", manifestPath("acme/web", "1"))
	if r := k.scanned(img); r.status != 403 {
		t.Fatalf("unsigned: %d", r.status)
	}
	k.tag("acme/web", index, k.layer("acme/web", index))
	k.want(403, "unsigned", "GET", manifestPath("acme/web", img.digest.String())) // remembered for some seconds
	clock.add(16 * time.Second)
	k.want(200, "", "GET", manifestPath("acme/web", img.digest.String()))

	remove := k.origin.Inject(0, func(q proxytest.Request) bool {
		return strings.HasPrefix(q.Reference, "sha256-") || q.Kind == proxytest.KindReferrers
	}, proxytest.Status(500, "UNKNOWN"))
	clock.add(5 * time.Minute)
	for range 5 {
		k.want(200, "", "GET", manifestPath("acme/web", img.digest.String()))
	}
	remove()

	k.tag("acme/web", index, k.layer("acme/web", img.digest)) // it is taken back
	clock.add(5 * time.Minute)
	k.eventually("a signature that was taken back counts no more", func() bool {
		clock.add(20 * time.Second)
		return k.get("GET", manifestPath("acme/web", img.digest.String()), patience).status == 403
	})
}

// Nobody asks for signatures that no policy reads.
func TestSignaturesThatNobodyReads(t *testing.T) {
	l := newLab(t)
	l.allow("acme/web", "1", 1000)
	for _, q := range l.origin.Requests() {
		if strings.HasPrefix(q.Reference, "sha256-") || q.Kind == proxytest.KindReferrers {
			t.Errorf("upstream was asked for %s %s", q.Kind, q.Reference)
		}
	}
}
