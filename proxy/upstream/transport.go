package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// connections is how many HTTP/2 connections to one host may be in use at once.
const connections = 4

// NewTransport returns a transport for registries: HTTP/2 where the other side has
// it, TLS 1.2 or newer, the environment's proxies, no content encodings, and several
// connections to a host. roots nil are the system's authorities.
func NewTransport(roots *x509.CertPool) http.RoundTripper {
	s := &spread{busy: make([]atomic.Int64, connections)}
	dial := &net.Dialer{
		Timeout: 10 * time.Second, KeepAlive: 30 * time.Second,
		ControlContext: func(ctx context.Context, _, address string, _ syscall.RawConn) error { return checkDial(ctx, address) },
	}
	for range connections {
		s.transports = append(s.transports, &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            dial.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    10 * time.Second,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: 128 << 10,
			ReadBufferSize:         64 << 10,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
		})
	}
	return s
}

// spread sends each request over its least busy transport, the first of equals.
type spread struct {
	transports []*http.Transport
	busy       []atomic.Int64 // requests whose body is not closed yet, by transport
}

func (s *spread) RoundTrip(req *http.Request) (*http.Response, error) {
	least := 0
	for i := range s.busy {
		if s.busy[i].Load() < s.busy[least].Load() {
			least = i
		}
	}
	n := &s.busy[least]
	n.Add(1)
	resp, err := s.transports[least].RoundTrip(req)
	if err != nil {
		n.Add(-1)
		return nil, err
	}
	resp.Body = &counted{ReadCloser: resp.Body, done: sync.OnceFunc(func() { n.Add(-1) })}
	return resp, nil
}

// CloseIdleConnections closes the connections that no request uses.
func (s *spread) CloseIdleConnections() {
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
}

type counted struct {
	io.ReadCloser
	done func()
}

func (c *counted) Close() error {
	defer c.done()
	return c.ReadCloser.Close()
}
