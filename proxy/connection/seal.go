package connection

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// EnvKey is the environment variable that holds the sealing key in place of a file.
const EnvKey = "SLUICE_KEY"

// A Key seals pull tokens. It never shows itself, however it is printed or logged.
type Key [32]byte

// String returns the key's ID.
func (k Key) String() string { return "key " + hex.EncodeToString(k.id()) }

// Format makes every fmt verb print String.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// LogValue makes slog log String.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText makes encoding/json and its like write String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k Key) id() []byte {
	mac := hmac.New(sha256.New, k[:])
	mac.Write([]byte("sluice connection key id"))
	return mac.Sum(nil)[:keyIDSize]
}

// ParseKey reads 32 bytes in base64, standard or URL-safe, or in hexadecimal.
func ParseKey(s string) (Key, error) {
	s = strings.TrimSpace(s)
	var k Key
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
		base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if b, err := decode(s); err == nil && len(b) == len(k) {
			k = Key(b)
			return k, nil
		}
	}
	return Key{}, errors.New("not 32 bytes in base64; make a key with: openssl rand -base64 32")
}

// LoadKey returns the sealing key: the environment's, else that of the file. Where make
// says so, a missing file is made, with mode 0600: a path that somebody chose names a key
// that is there, and another one in its place could open nothing. getenv is os.Getenv.
// Two processes that make the file at the same time get the same key.
func LoadKey(path string, make bool, getenv func(string) string) (Key, error) {
	if s := getenv(EnvKey); s != "" {
		k, err := ParseKey(s)
		if err != nil {
			return Key{}, fmt.Errorf("environment %s: %w", EnvKey, err)
		}
		return k, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !make {
		return Key{}, fmt.Errorf("seal_key_file %s does not exist: put the key there, or make one with: openssl rand -base64 32", path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return Key{}, fmt.Errorf("make sealing key: %w", err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return Key{}, fmt.Errorf("sealing key: %w", err)
	}
	k, err := ParseKey(string(b))
	if err != nil {
		return Key{}, fmt.Errorf("sealing key %s: %w", path, err)
	}
	return k, nil
}

// makeKey writes a new key beside path and links it there, so that the file is never
// seen half written and never replaces another.
func makeKey(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".seal-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	var k Key
	rand.Read(k[:])
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(k[:]) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// A key that a crash takes away leaves records that nobody can open.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

const (
	sealVersion = 1
	keyIDSize   = 8
	sealHeader  = 1 + keyIDSize
)

// ErrWrongKey is wrapped by the error for a record that was sealed with another key.
var ErrWrongKey = errors.New("sealed with another key")

func (k Key) seal(upstream string, plain []byte) ([]byte, error) {
	gcm, err := k.gcm()
	if err != nil {
		return nil, err
	}
	out := append([]byte{sealVersion}, k.id()...)
	return gcm.Seal(out, nil, plain, aad(upstream)), nil
}

func (k Key) unseal(upstream string, sealed []byte) ([]byte, error) {
	gcm, err := k.gcm()
	if err != nil {
		return nil, err
	}
	switch {
	case len(sealed) < sealHeader:
		return nil, errors.New("the stored record is damaged; set the connection again")
	case sealed[0] != sealVersion:
		return nil, fmt.Errorf("the stored record has version %d, which this sluice does not know; run a newer one, or set the connection again", sealed[0])
	case !hmac.Equal(sealed[1:sealHeader], k.id()):
		return nil, fmt.Errorf("%w (%x, not this gateway's %x): give all gateways of this store the same seal_key_file or %s, or set the connection again",
			ErrWrongKey, sealed[1:sealHeader], k.id(), EnvKey)
	}
	plain, err := gcm.Open(nil, nil, sealed[sealHeader:], aad(upstream))
	if err != nil {
		return nil, errors.New("the stored record is damaged or belongs to another upstream; set the connection again")
	}
	return plain, nil
}

func (k Key) gcm() (cipher.AEAD, error) {
	if k == (Key{}) {
		return nil, errors.New("there is no sealing key")
	}
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func aad(upstream string) []byte {
	return fmt.Appendf(nil, "sluice connection v%d\x00%s", sealVersion, upstream)
}
