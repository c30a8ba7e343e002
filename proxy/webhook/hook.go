package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
)

const (
	// SignatureHeader holds t=UNIX,v1=HEX, IDHeader the event's ID.
	SignatureHeader = "Sluice-Signature"
	IDHeader        = "Webhook-Id"

	minSecret      = 16 // bytes
	maxSecrets     = 4
	maxSecretFile  = 4 << 10
	defaultTimeout = 10 * time.Second
)

// A Hook is where events are sent.
type Hook struct {
	URL        string
	SecretFile string        // a secret a line
	Types      []string      // globs (policy.MatchGlob) over types of events; none: all
	Timeout    time.Duration // for an answer; 0: 10 s
}

// id names the hook in the Store: what was sent to a URL stays so when the rest changes.
func (h *Hook) id() string {
	sum := sha256.Sum256([]byte(h.URL))
	return hex.EncodeToString(sum[:12])
}

// Name names the hook for people, without what may be secret in its URL.
func (h *Hook) Name() string {
	host := "?"
	if u, err := url.Parse(h.URL); err == nil {
		host = u.Host
	}
	return host + "#" + h.id()[:6]
}

func (h *Hook) wants(kind string) bool {
	for _, t := range h.Types {
		if policy.MatchGlob(t, kind) {
			return true
		}
	}
	return len(h.Types) == 0
}

// Check returns an error where the secret can't be read, or a glob matches no type.
func (h *Hook) Check() error {
	for _, t := range h.Types {
		known := false
		for _, kind := range proxy.EventTypes() {
			known = known || policy.MatchGlob(t, kind)
		}
		if !known {
			return fmt.Errorf("types: %q matches no event; there are %s", t, strings.Join(proxy.EventTypes(), ", "))
		}
	}
	_, err := h.secrets()
	return err
}

// secrets reads the secrets. Its error holds none of them.
func (h *Hook) secrets() (all [][]byte, err error) {
	f, err := os.Open(h.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("secret_file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return nil, fmt.Errorf("secret_file: %w", err)
	}
	if len(b) > maxSecretFile {
		return nil, fmt.Errorf("secret_file: %s is larger than %d bytes", h.SecretFile, maxSecretFile)
	}
	for line := range bytes.Lines(b) {
		s := bytes.TrimRight(line, "\r\n")
		switch {
		case len(s) == 0:
		case len(s) < minSecret:
			return nil, fmt.Errorf("secret_file: a line of %s has less than %d bytes: make a secret with openssl rand -hex 32", h.SecretFile, minSecret)
		case len(all) == maxSecrets:
			return nil, fmt.Errorf("secret_file: %s has more than %d lines: remove secrets that no receiver has any more", h.SecretFile, maxSecrets)
		default:
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("secret_file: %s is empty: make a secret with openssl rand -hex 32", h.SecretFile)
	}
	return all, nil
}

// sign returns the signature of a body that is sent at a time.
func sign(secrets [][]byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	s := "t=" + t
	for _, secret := range secrets {
		s += ",v1=" + hex.EncodeToString(mac(secret, t, body))
	}
	return s
}

func mac(secret []byte, t string, body []byte) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(t + "."))
	m.Write(body)
	return m.Sum(nil)
}

// Verify returns nil where header, a SignatureHeader, is of body under secret and not
// farther from now than tolerance. It is for receivers.
func Verify(secret []byte, header string, body []byte, now time.Time, tolerance time.Duration) error {
	var sent string
	var signatures []string
	for field := range strings.SplitSeq(header, ",") {
		switch k, v, _ := strings.Cut(field, "="); k {
		case "t":
			sent = v
		case "v1":
			signatures = append(signatures, v)
		}
	}
	t, err := strconv.ParseInt(sent, 10, 64)
	if err != nil {
		return errors.New("the signature has no time")
	}
	if off := now.Sub(time.Unix(t, 0)); off > tolerance || off < -tolerance {
		return fmt.Errorf("it was signed %s ago", off.Round(time.Second))
	}
	want := mac(secret, sent, body)
	for _, s := range signatures {
		if got, err := hex.DecodeString(s); err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	return errors.New("no signature fits")
}
