package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issue writes a new self-signed certificate with the given serial number.
func issue(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "gateway"},
		DNSNames:     []string{"gateway.test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if certFile != "" {
		write(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	}
	if keyFile != "" {
		write(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	}
}

// listen accepts connections and shakes hands until the test ends.
func listen(t *testing.T, config *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.(*tls.Conn).Handshake() // the client reports what went wrong
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	var log logBuffer
	clock := &clock{t: time.Now()}
	c := &Certificate{
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"),
		Log: slog.New(slog.NewTextHandler(&log, nil)), Now: clock.now,
	}
	issue(t, c.CertFile, c.KeyFile, 1)
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(c.Expires()); left < 50*time.Minute || left > time.Hour {
		t.Errorf("expires in %s, want an hour", left)
	}
	addr := listen(t, c.TLS())
	shake := func(config *tls.Config) (tls.ConnectionState, error) {
		clock.add(checkEvery)
		config.InsecureSkipVerify = true // which certificate is shown is what is tested
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, config)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.ConnectionState(), nil
	}
	serial := func() int64 {
		s, err := shake(&tls.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return s.PeerCertificates[0].SerialNumber.Int64()
	}

	if got := serial(); got != 1 {
		t.Errorf("shows %d, want 1", got)
	}
	issue(t, c.CertFile, "", 2) // without its key
	if got := serial(); got != 1 {
		t.Errorf("shows %d with half a new pair, want 1", got)
	}
	if !strings.Contains(log.String(), c.CertFile) {
		t.Errorf("half a pair was not logged:\n%s", &log)
	}
	issue(t, c.CertFile, c.KeyFile, 3)
	if got := serial(); got != 3 {
		t.Errorf("shows %d after a renewal, want 3", got)
	}

	for _, test := range []struct {
		offer []string
		want  string
	}{{[]string{"h2", "http/1.1"}, "h2"}, {[]string{"http/1.1"}, "http/1.1"}, {nil, ""}} {
		s, err := shake(&tls.Config{NextProtos: test.offer})
		if err != nil || s.NegotiatedProtocol != test.want {
			t.Errorf("offered %v: %q, %v, want %q", test.offer, s.NegotiatedProtocol, err, test.want)
		}
	}
	if _, err := shake(&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}); err != nil {
		t.Errorf("TLS 1.2: %v", err)
	}
	if _, err := shake(&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// TestSymlinkSwap is how Kubernetes changes a mounted secret: the files stay, a
// folder above them is replaced.
func TestSymlinkSwap(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		issue(t, filepath.Join(dir, name, "tls.crt"), filepath.Join(dir, name, "tls.key"), int64(i+1))
	}
	if err := os.Symlink("one", filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	clock := &clock{t: time.Now().Add(time.Hour)} // the files are old enough to be relied on
	c := &Certificate{CertFile: filepath.Join(dir, "data", "tls.crt"), KeyFile: filepath.Join(dir, "data", "tls.key"), Now: clock.now}
	if err := c.Load(); err != nil {
		t.Fatal(err)
	}
	if !c.pair.settled {
		t.Error("old files are read again and again")
	}
	if err := os.Symlink("two", filepath.Join(dir, "next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	clock.add(checkEvery)
	if got := c.pair.get().Leaf.SerialNumber.Int64(); got != 2 {
		t.Errorf("shows %d after the swap, want 2", got)
	}
}

func TestCertificateLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	c := &Certificate{CertFile: crt, KeyFile: key}
	if err := c.Load(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), crt) {
		t.Errorf("no files: %v", err)
	}
	issue(t, crt, "", 1)
	if err := c.Load(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), key) {
		t.Errorf("no key: %v", err)
	}
	issue(t, "", key, 1)
	if err := c.Load(); err == nil || !strings.Contains(err.Error(), crt) || !strings.Contains(err.Error(), key) {
		t.Errorf("another's key: %v", err)
	}
	write(t, crt, "not PEM")
	if err := c.Load(); err == nil || !strings.Contains(err.Error(), crt) {
		t.Errorf("no PEM: %v", err)
	}
}
