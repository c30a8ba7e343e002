package auth

import (
	"crypto/tls"
	"crypto/x509"
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
	ClientCA string           // PEM: the authorities of clients' certificates, which are optional; "": none is asked for
	Log      *slog.Logger     // nil: slog.Default()
	Now      func() time.Time // nil: time.Now

	pair    fresh[*tls.Certificate]
	clients fresh[authorities]
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
	if c.ClientCA != "" {
		c.clients = fresh[authorities]{
			paths: []string{c.ClientCA},
			parse: func(files [][]byte) (authorities, error) { return parseAuthorities(c.ClientCA, files[0]) },
			log:   c.Log,
			now:   c.Now,
		}
		if err := c.clients.load(); err != nil {
			return err
		}
	}
	return c.pair.load()
}

// TLS returns the configuration of a listener that shows the newest certificate that
// was good: TLS 1.2 and later, HTTP/2 and HTTP/1.1.
func (c *Certificate) TLS() *tls.Config {
	t := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return c.pair.get(), nil
		},
	}
	if c.ClientCA == "" {
		return t
	}
	t.ClientAuth = tls.VerifyClientCertIfGiven
	t.SessionTicketsDisabled = true // a resumed session would keep a client whose authority is gone
	with := t.Clone()
	t.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := with.Clone()
		now.ClientCAs = c.clients.get().pool
		return now, nil
	}
	return t
}

// Expires returns when the certificate in use ends.
func (c *Certificate) Expires() time.Time { return c.pair.get().Leaf.NotAfter }

// authorities are those of clients' certificates.
type authorities struct {
	pool *x509.CertPool
	mark string // of the file
}

func parseAuthorities(path string, b []byte) (authorities, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return authorities{}, fmt.Errorf("no PEM certificate in %s", path)
	}
	return authorities{pool, markOf("clients", string(b))}, nil
}
