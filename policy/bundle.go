package policy

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
)

const (
	// MaxBundle is how many bytes a bundle may have, compressed.
	MaxBundle = 16 << 20
	// maxUnpacked is how many bytes may come out of it.
	maxUnpacked = 64 << 20
	maxKeyFile  = 64 << 10
)

// A BundleKey is a public key by which bundles are signed.
type BundleKey struct {
	Name string // the "kid" or "keyid" of signatures, which counts where there are several keys
	File string // PEM: a public key, or a certificate, which must be valid
	// Algorithm is that of JSON Web Signatures: RS256. Default "": RS256 for RSA, ES256,
	// ES384 or ES512 by the curve, EdDSA.
	Algorithm string
}

// keySet are the keys that a bundle must be signed by one of, as read from their files.
type keySet map[string]*bundle.KeyConfig

// readKeys reads the keys. sum identifies their content.
func readKeys(keys []BundleKey, now time.Time) (set keySet, sum string, err error) {
	var all []byte
	set = keySet{}
	for _, k := range keys {
		b, err := readBounded(k.File, maxKeyFile)
		if err != nil {
			return nil, "", fmt.Errorf("key %s: %w", quote(k.Name), err)
		}
		all = append(append(all, b...), 0)
		if set[k.Name], err = readKey(b, k.Algorithm, now); err != nil {
			return nil, "", fmt.Errorf("key %s: %s: %w", quote(k.Name), k.File, err)
		}
	}
	return set, sumOf(all, nil), nil
}

func readKey(b []byte, algorithm string, now time.Time) (*bundle.KeyConfig, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New(`no PEM; a public key begins with "-----BEGIN PUBLIC KEY-----"`)
	}
	var key any
	switch block.Type {
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			return nil, fmt.Errorf("the certificate is valid from %s to %s; have bundles signed by a new one, and name that", c.NotBefore.Format(time.RFC3339), c.NotAfter.Format(time.RFC3339))
		}
		key = c.PublicKey
	case "PUBLIC KEY":
		var err error
		if key, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("a %s; give a PUBLIC KEY or a CERTIFICATE", block.Type)
	}
	var fits []string // the default first
	switch k := key.(type) {
	case *rsa.PublicKey:
		fits = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	case *ecdsa.PublicKey:
		fits = []string{map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[k.Curve.Params().BitSize]}
	case ed25519.PublicKey:
		fits = []string{"EdDSA"}
	default:
		return nil, fmt.Errorf("a key of the type %T; give an RSA, ECDSA or Ed25519 key", key)
	}
	algorithm = cmp.Or(algorithm, fits[0])
	if !slices.Contains(fits, algorithm) {
		return nil, fmt.Errorf("the algorithm %s is not for this key; it can be %s", quote(algorithm), strings.Join(fits, ", "))
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return &bundle.KeyConfig{Key: string(text), Algorithm: algorithm}, nil
}

// readBundle reads a bundle in OPA's format, a tar.gz. With keys it must be signed by one
// of them, all its files included. name is what errors call it.
func readBundle(name string, b []byte, keys keySet, now time.Time) (sources, error) {
	s, err := openBundle(name, b, keys, now)
	if err != nil {
		return sources{}, fmt.Errorf("read the bundle %s: %w", name, err)
	}
	return s, nil
}

func openBundle(name string, b []byte, keys keySet, now time.Time) (sources, error) {
	manifests, err := unpack(b)
	if err != nil {
		return sources{}, err
	}
	r := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(b), "")).
		WithSizeLimitBytes(maxUnpacked).
		WithRegoVersion(ast.RegoV1).
		WithCapabilities(capabilities()).
		WithProcessAnnotations(true)
	if len(keys) == 0 {
		r = r.WithSkipBundleVerification(true)
	} else {
		only := ""
		if len(keys) == 1 {
			only = slices.Collect(maps.Keys(keys))[0]
		}
		r = r.WithBundleVerificationConfig(bundle.NewVerificationConfig(keys, only, "", nil))
	}
	got, err := r.Read()
	var errs ast.Errors
	switch {
	case errors.As(err, &errs):
		return sources{}, compileError(errs)
	case err != nil && len(keys) > 0:
		names := strings.Join(slices.Sorted(maps.Keys(keys)), ", ")
		return sources{}, fmt.Errorf("%w; it must be signed, as `opa build --signing-key` does, by one of these keys: %s", err, names)
	case err != nil:
		return sources{}, err
	case got.Type() != bundle.SnapshotBundleType:
		return sources{}, errors.New("a delta bundle, which changes another; give a whole one")
	case len(got.WasmModules) > 0 || len(got.PlanModules) > 0:
		return sources{}, errors.New("it holds WebAssembly or a plan; build it with `opa build --target rego`")
	case len(got.Modules) > maxPolicyFiles:
		return sources{}, fmt.Errorf("it has %d *.rego files, at most %d are read", len(got.Modules), maxPolicyFiles)
	}
	if len(keys) > 0 {
		if err := lasting(got.Signatures, now); err != nil {
			return sources{}, err
		}
	}
	s := sources{texts: map[string]string{}, data: got.Data, revision: clip(got.Manifest.Revision, 100)}
	for _, m := range got.Modules {
		s.texts[path.Join(name, m.RelativePath)] = string(m.Raw)
	}
	for file, text := range manifests {
		s.texts[path.Join(name, file)] = text
	}
	return s, nil
}

// unpack returns Chainguard's manifests in a bundle, which OPA leaves aside. Where more
// would come out of the bundle than may, that is an error.
func unpack(b []byte) (manifests map[string]string, err error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("not a tar.gz: %w", err)
	}
	bounded := &io.LimitedReader{R: z, N: maxUnpacked + 1}
	manifests = map[string]string{}
	for r := tar.NewReader(bounded); ; {
		h, err := r.Next()
		if bounded.N == 0 {
			return nil, fmt.Errorf("it holds more than %d MiB", maxUnpacked>>20)
		}
		if errors.Is(err, io.EOF) {
			return manifests, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not a whole tar.gz: %w", err)
		}
		if h.Typeflag != tar.TypeReg || !maybeManifest(h.Name) {
			continue
		}
		text, err := io.ReadAll(r)
		if err == nil && isManifest(h.Name, text) {
			manifests[h.Name] = string(text)
		}
	}
}

// lasting returns an error where a verified signature says that it is over, or begins
// later (RFC 7519, section 4.1): OPA looks at neither.
func lasting(s bundle.SignaturesConfig, now time.Time) error {
	for _, jwt := range s.Signatures {
		var claims struct {
			Expires   *float64 `json:"exp"`
			NotBefore *float64 `json:"nbf"`
		}
		parts := strings.Split(jwt, ".")
		if len(parts) != 3 {
			return errors.New(".signatures.json: no JSON Web Token")
		}
		b, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil {
			err = json.Unmarshal(b, &claims)
		}
		if err != nil {
			return fmt.Errorf(".signatures.json: %w", err)
		}
		at := func(n *float64) time.Time { return time.Unix(int64(*n), 0).UTC() }
		if claims.Expires != nil && !now.Before(at(claims.Expires)) {
			return fmt.Errorf("its signature ended at %s; sign it again", at(claims.Expires).Format(time.RFC3339))
		}
		if claims.NotBefore != nil && now.Before(at(claims.NotBefore)) {
			return fmt.Errorf("its signature counts from %s on, and this machine's clock says %s", at(claims.NotBefore).Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// CheckBundle returns why an engine would not take a bundle: it compiles it, runs its
// tests and evaluates it once. name is what errors call it.
func CheckBundle(ctx context.Context, name string, b []byte, keys []BundleKey) error {
	if len(b) > MaxBundle {
		return fmt.Errorf("the bundle %s is larger than %d MiB", name, MaxBundle>>20)
	}
	set, _, err := readKeys(keys, time.Now())
	if err != nil {
		return err
	}
	src, err := readBundle(name, b, set, time.Now())
	if err != nil {
		return err
	}
	_, err = compile(ctx, src, defaultTimeout)
	return err
}
