package auth

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"time"
)

// A Certificate is what the gateway proves its name with. The files are read again
// when they change; a pair that does not fit, as in the moment when only one of them
// was replaced, leaves the last good one in use. All methods may be called
// concurrently.
type Certificate struct {
	CertFile string           // PEM: the certificate, then its intermediates
	KeyFile  string           // PEM: its private key
	Log      *slog.Logger     // nil: slog.Default()
	Now      func() time.Time // nil: time.Now

	pair fresh[*tls.Certificate]
}

// Load reads the files for the first time. It must be called once, first.
func (c *Certificate) Load() error {
	c.pair = fresh[*tls.Certificate]{
		paths: []string{c.CertFile, c.KeyFile},
		parse: func(files [][]byte) (*tls.Certificate, error) {
			pair, err := tls.X509KeyPair(files[0], files[1])
			if err != nil {
				return nil, fmt.Errorf("certificate %s with key %s: %w", c.CertFile, c.KeyFile, err)
			}
			return &pair, nil
		},
		log: c.Log,
		now: c.Now,
	}
	return c.pair.load()
}

// TLS returns the configuration of a listener that shows the newest certificate that
// was good: TLS 1.2 and later, HTTP/2 and HTTP/1.1.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.pair.get(), nil
		},
	}
}

// Expires returns when the certificate in use ends.
func (c *Certificate) Expires() time.Time { return c.pair.get().Leaf.NotAfter }
