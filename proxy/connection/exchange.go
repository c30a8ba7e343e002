package connection

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sluicegate/sluice/proxy/upstream"
)

const (
	exchangeTimeout = 10 * time.Second
	exchangeAgain   = 10 * time.Second // after one that failed, doubled each time
	exchangeRest    = 5 * time.Minute  // up to this
	exchangeLife    = 10 * time.Minute // of a token that doesn't say
	maxExchange     = 256 << 10        // bytes of an answer
)

// An Exchange has no pull token stored at all: a token that the platform issues, such as
// that of a Kubernetes service account, is exchanged for one of the registry that lives an
// hour at most (Chainguard, "Assumable identities").
type Exchange struct {
	TokenFile string         // read at each exchange
	Identity  string         // that is assumed: its path
	Issuer    string         // https://issuer.enforce.dev
	Audience  string         // the registry's
	RootCAs   *x509.CertPool // of the issuer; nil: the system's
}

// exchanged is what an exchange brought.
type exchanged struct {
	creds upstream.Credentials
	ends  time.Time
	renew time.Time
	tried time.Time
	err   error         // of the last try
	pause time.Duration // before the next, after one that failed
}

// exchange returns the credentials that an upstream's exchange brings, from memory while
// they have a fifth of their life left, or while the issuer can't be asked and they are good.
func (v *Vault) exchange(ctx context.Context, name string, x *Exchange) (upstream.Credentials, error) {
	v.mu.Lock()
	e := v.exchanged[name]
	v.mu.Unlock()
	now := v.now()
	good := now.Before(e.ends)
	switch {
	case good && (now.Before(e.renew) || now.Sub(e.tried) < e.pause):
		return e.creds, nil
	case e.err != nil && now.Sub(e.tried) < e.pause:
		return upstream.Credentials{}, e.err
	}
	e.tried = now
	token, err := x.ask(ctx)
	switch {
	case err == nil && e.err != nil:
		v.log().Info("a token can be exchanged again", "upstream", name)
	case err != nil && good && e.err == nil:
		v.log().Warn("a token can't be exchanged; the last one is used until it ends", "upstream", name, "ends", e.ends.UTC().Format(time.RFC3339), "error", err)
	}
	if e.err = err; err != nil {
		e.pause = min(max(exchangeAgain, 2*e.pause), exchangeRest)
	} else {
		e.pause = 0
		e.creds = upstream.Credentials{Username: "_token", Password: token}
		e.ends = now.Add(exchangeLife)
		if c, err := upstream.ReadClaims(token); err == nil && !c.Expires.IsZero() {
			e.ends = c.Expires
		}
		e.renew = now.Add(e.ends.Sub(now) * 4 / 5)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.exchanged == nil {
		v.exchanged = map[string]exchanged{}
	}
	v.exchanged[name] = e
	if good {
		err = nil
	}
	return e.creds, err
}

// ask exchanges the token that is in the file now.
func (x *Exchange) ask(ctx context.Context) (string, error) {
	b, err := readBounded(x.TokenFile)
	if err != nil {
		return "", err
	}
	own := strings.TrimSpace(string(b))
	if own == "" || strings.ContainsFunc(own, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s holds no token", x.TokenFile)
	}
	u, err := url.Parse(strings.TrimSuffix(x.Issuer, "/") + "/sts/exchange")
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && onThisMachine(u.Hostname())) {
		return "", errors.New("the issuer's address is no https:// one")
	}
	u.RawQuery = url.Values{"aud": {x.Audience}, "identity": {x.Identity}}.Encode()
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+own)
	req.Header.Set("Accept", "application/json")
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: x.RootCAs, MinVersion: tls.VersionTLS12}
	transport.DisableKeepAlives = true // it is asked once in an hour
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", u.Host, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers HTTP %d to the exchange; is the identity %s bound to the subject and issuer of %s?", u.Host, resp.StatusCode, x.Identity, x.TokenFile)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxExchange))
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", u.Host, err)
	}
	var doc struct {
		Token string `json:"token"`
	}
	if json.Unmarshal(body, &doc) != nil || check(upstream.Credentials{Username: "_token", Password: doc.Token}) != nil {
		return "", fmt.Errorf("%s answers without a token", u.Host)
	}
	return doc.Token, nil
}

func onThisMachine(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
