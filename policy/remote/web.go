package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Web fetches a bundle from an HTTP server, by its ETag only when it has changed (RFC
// 9110, section 13.1.2). A redirect that leaves the host or TLS is refused: whoever it
// leads to would decide what is allowed.
type Web struct {
	URL       string // without user name and password
	CAFile    string // PEM, authorities in place of the system's; "" for these
	TokenFile string // a bearer token; "" for none. Read at each request
	Max       int64  // bytes of a bundle
}

// Fetch is a Fetch.
func (w Web) Fetch(ctx context.Context, seen string) (b []byte, tag string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL, nil)
	if err != nil {
		return nil, "", errors.New("the URL can't be used")
	}
	req.Header.Set("User-Agent", "sluice")
	req.Header.Set("Accept", "application/gzip, application/vnd.openpolicyagent.bundles, application/octet-stream")
	if seen != "" {
		req.Header.Set("If-None-Match", seen)
	}
	if w.TokenFile != "" {
		token, err := os.ReadFile(w.TokenFile)
		if err != nil {
			return nil, "", fmt.Errorf("the bearer token: %w", err)
		}
		text := strings.TrimSpace(string(token))
		if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return nil, "", fmt.Errorf("the bearer token: %s holds none, or more than one line", w.TokenFile)
		}
		req.Header.Set("Authorization", "Bearer "+text)
	}
	client, err := NewClient(w.CAFile)
	if err != nil {
		return nil, "", err
	}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return nil, "", bare(err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotModified && seen != "":
		return nil, seen, nil
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		return nil, "", fmt.Errorf("the server answered %s; put a bearer token that it takes into the token file", res.Status)
	case res.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("the server answered %s", res.Status)
	}
	b, err = io.ReadAll(io.LimitReader(res.Body, w.Max+1))
	if err != nil {
		return nil, "", bare(err)
	}
	if int64(len(b)) > w.Max {
		return nil, "", fmt.Errorf("it is larger than %d MiB", w.Max>>20)
	}
	return b, res.Header.Get("ETag"), nil
}

// NewClient returns a client for TLS 1.2 and newer, with the authorities of a PEM file in
// place of the system's where one is named, that follows no redirect to another host.
func NewClient(caFile string) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	t.DisableCompression = true // a bundle is compressed, and its digest is that of its bytes
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("the authorities of its certificate: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the authorities of its certificate: %s holds no PEM certificate", caFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{Transport: t, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		switch first := via[0].URL; {
		case len(via) > 5:
			return errors.New("more than 5 redirects")
		case r.URL.Host != first.Host || r.URL.Scheme != first.Scheme:
			return fmt.Errorf("it redirects to %s://%s; name the place itself", r.URL.Scheme, r.URL.Host)
		}
		return nil
	}}, nil
}

// bare takes the URL out of an error: its query may be signed.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
