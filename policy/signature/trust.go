package signature

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
)

// A Config says what is trusted. The zero value trusts nobody: all that is found is told
// of as not verified.
type Config struct {
	RootFile   string     // trusted_root.json: authorities, logs and time stamp authorities; "" for none
	Keys       []Key      // that sign without a certificate
	Identities []Identity // that authorities of the root may vouch for

	// IgnoreTlog takes a signature that no transparency log has. That somebody signs in
	// secret with a stolen key is then never seen.
	IgnoreTlog bool
	// IgnoreCTLog takes a certificate that no certificate transparency log has.
	IgnoreCTLog bool
	// CurrentTime holds a certificate against the present time, in place of the time that
	// a log or a time stamp authority saw the signature.
	CurrentTime bool
}

// A Key is a public key, by name.
type Key struct {
	Name string // as policies see it
	File string // PEM: a public key
}

// An Identity is one whose certificates count.
type Identity struct {
	Issuer  string // of the identity, exactly: https://token.actions.githubusercontent.com
	Subject string // the e-mail address or URI, exactly; or
	Pattern string // a regular expression (RE2) that matches the whole of it
}

// maxFile is the largest file of trust in bytes: the public root of sigstore has 7 KB.
const maxFile = 4 << 20

// A Trust is what signatures are verified by, as its files were when it was loaded. Its
// methods may be called concurrently.
type Trust struct {
	config     Config
	hash       string
	root       root.TrustedMaterial
	keys       []key
	identities []identity
}

type key struct {
	name      string
	materials []root.TrustedMaterial // the root with the key: one for each algorithm that signs by such keys
}

type identity struct {
	issuer, subject string
	pattern         *regexp.Regexp
}

// Load reads the files that c names. An error names the key of the configuration, or the
// file.
func Load(c Config) (*Trust, error) {
	t := &Trust{config: c, root: &root.BaseTrustedMaterial{}}
	settings, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "1 %s\n", settings) // 1 is the version of the rules in this package
	if c.RootFile != "" {
		b, err := readFile(c.RootFile)
		if err != nil {
			return nil, fmt.Errorf("trust.root_file: %w", err)
		}
		if t.root, err = root.NewTrustedRootFromJSON(b); err != nil {
			return nil, fmt.Errorf("trust.root_file: %s is no trusted root (trusted_root.json): %w", c.RootFile, err)
		}
		fmt.Fprintf(h, "%x\n", sha256.Sum256(b))
	}
	for _, k := range c.Keys {
		b, err := readFile(k.File)
		if err != nil {
			return nil, fmt.Errorf("trust.keys: %s: %w", k.Name, err)
		}
		loaded, err := t.key(k.Name, b)
		if err != nil {
			return nil, fmt.Errorf("trust.keys: %s: %s: %w", k.Name, k.File, err)
		}
		t.keys = append(t.keys, loaded)
		fmt.Fprintf(h, "%x\n", sha256.Sum256(b))
	}
	for _, i := range c.Identities {
		loaded, err := i.load()
		if err != nil {
			return nil, fmt.Errorf("trust.identities: %w", err)
		}
		t.identities = append(t.identities, loaded)
	}
	t.hash = hex.EncodeToString(h.Sum(nil))
	return t, nil
}

// Hash names all that t verifies by: what was verified by another hash says nothing.
func (t *Trust) Hash() string { return t.hash }

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return b, err
}

func (t *Trust) key(name string, pem []byte) (key, error) {
	pub, err := cryptoutils.UnmarshalPEMToPublicKey(pem)
	if err != nil {
		return key{}, errors.New("it is no public key in PEM; `cosign public-key --key cosign.key` prints one")
	}
	hashes := []crypto.Hash{crypto.SHA256} // what cosign has always signed with
	if ec, ok := pub.(*ecdsa.PublicKey); ok {
		switch ec.Curve { // and what its bundles are signed with
		case elliptic.P384():
			hashes = append(hashes, crypto.SHA384)
		case elliptic.P521():
			hashes = append(hashes, crypto.SHA512)
		}
	}
	k := key{name: name}
	for _, h := range hashes {
		v, err := sigstore.LoadVerifier(pub, h)
		if err != nil {
			return key{}, err
		}
		// Whatever a bundle calls its key: who pushed it wrote that.
		material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(v, time.Time{}, time.Time{}), nil
		})
		k.materials = append(k.materials, root.TrustedMaterialCollection{t.root, material})
	}
	return k, nil
}

func (i Identity) load() (identity, error) {
	out := identity{issuer: i.Issuer, subject: i.Subject}
	name := cmp.Or(i.Subject, i.Pattern, i.Issuer)
	switch {
	case i.Issuer == "":
		return out, fmt.Errorf("%q has no issuer: whoever else issues certificates could name anybody; write the URL that its tokens come from", name)
	case (i.Subject == "") == (i.Pattern == ""):
		return out, fmt.Errorf("%q needs a subject or a pattern, and not both", name)
	case i.Pattern == "":
		return out, nil
	}
	if _, err := regexp.Compile(i.Pattern); err != nil { // by itself, or it might end what is put around it
		return out, fmt.Errorf("pattern %q: %w", i.Pattern, err)
	}
	var err error
	if out.pattern, err = regexp.Compile(`\A(?:` + i.Pattern + `)\z`); err != nil {
		return out, fmt.Errorf("pattern %q: %w", i.Pattern, err)
	}
	return out, nil
}

// trusts reports whether certificates for subject, whom issuer knows, count.
func (t *Trust) trusts(issuer, subject string) bool {
	for _, i := range t.identities {
		if i.issuer == issuer && (i.pattern == nil && i.subject == subject || i.pattern != nil && i.pattern.MatchString(subject)) {
			return true
		}
	}
	return false
}
