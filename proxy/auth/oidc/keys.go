package oidc

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	keysFor      = time.Hour        // after which they are fetched again
	keysStale    = 24 * time.Hour   // for which they hold while that fails
	keysAgain    = 30 * time.Second // between two looks for a key that isn't there
	fileFor      = time.Minute
	maxDocument  = 1 << 20 // bytes
	maxKeys      = 100
	fetchTimeout = 10 * time.Second
)

// keys are an issuer's, as they were last read.
type keys struct {
	flights singleflight.Group
	once    sync.Once
	client  *http.Client

	mu    sync.Mutex // guards what follows
	set   jose.JSONWebKeySet
	read  time.Time // when set was; zero: never
	tried time.Time
	err   error // of the last try
}

// key returns the key with that ID, for that algorithm.
func (i *Issuer) key(ctx context.Context, id, algorithm string) (any, error) {
	set, fresh, err := i.known(id)
	if !fresh {
		set, err = i.refresh(ctx)
	}
	if err != nil {
		return nil, &UnavailableError{fmt.Errorf("the keys of %s can't be had: %w", i.URL, err)}
	}
	for _, k := range candidates(set, id) {
		if k.Algorithm == "" || k.Algorithm == algorithm {
			return k.Key, nil
		}
	}
	return nil, errors.New("the token is signed by a key that its issuer does not have")
}

// candidates returns the public keys of an ID. A token without one is taken where there
// is one key only.
func candidates(set jose.JSONWebKeySet, id string) (public []jose.JSONWebKey) {
	from := set.Key(id)
	if id == "" && len(set.Keys) == 1 {
		from = set.Keys
	}
	for _, k := range from {
		if k.Valid() && k.IsPublic() && (k.Use == "" || k.Use == "sig") {
			public = append(public, k)
		}
	}
	return public
}

// known returns the keys that were read, and whether they needn't be read again for the
// one with that ID.
func (i *Issuer) known(id string) (set jose.JSONWebKeySet, fresh bool, err error) {
	i.keys.mu.Lock()
	defer i.keys.mu.Unlock()
	now := i.now()
	holds := keysFor
	if i.KeysFile != "" {
		holds = fileFor
	}
	have := !i.keys.read.IsZero() && now.Sub(i.keys.read) < keysStale
	if have {
		set = i.keys.set
	} else {
		err = i.keys.err
	}
	switch {
	case now.Sub(i.keys.tried) < keysAgain:
		return set, true, err
	case !have, now.Sub(i.keys.read) >= holds, len(candidates(set, id)) == 0:
		return set, false, err
	}
	return set, true, nil
}

// refresh reads the keys for all who wait for them. Where that fails, those that were read
// within a day hold.
func (i *Issuer) refresh(ctx context.Context) (jose.JSONWebKeySet, error) {
	flight := i.keys.flights.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		set, err := i.fetch(ctx)
		i.keep(set, err)
		return nil, nil
	})
	select {
	case <-flight:
	case <-ctx.Done():
		return jose.JSONWebKeySet{}, ctx.Err()
	}
	set, _, err := i.known("")
	return set, err
}

// keep remembers what a reading brought, and logs a change from good to bad and back.
func (i *Issuer) keep(set jose.JSONWebKeySet, err error) {
	i.keys.mu.Lock()
	defer i.keys.mu.Unlock()
	i.keys.tried = i.now()
	switch {
	case err != nil && i.keys.err == nil:
		i.log().Error("an issuer's keys can't be read; those that are known hold for a day", "issuer", i.URL, "error", err)
	case err == nil && i.keys.err != nil:
		i.log().Info("an issuer's keys can be read again", "issuer", i.URL)
	}
	if i.keys.err = err; err == nil {
		i.keys.set, i.keys.read = set, i.keys.tried
	}
}

func (i *Issuer) fetch(ctx context.Context) (set jose.JSONWebKeySet, err error) {
	var b []byte
	if i.KeysFile != "" {
		b, err = readFile(i.KeysFile)
	} else {
		b, err = i.download(ctx)
	}
	if err != nil {
		return set, err
	}
	return parseKeys(b)
}

// parseKeys reads a JSON Web Key Set. Keys of kinds that aren't known are passed over (RFC
// 7517, §5).
func parseKeys(b []byte) (set jose.JSONWebKeySet, err error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(b, &doc) != nil {
		return set, errors.New("no JSON Web Key Set")
	}
	if len(doc.Keys) > maxKeys {
		return set, fmt.Errorf("more than %d keys", maxKeys)
	}
	for _, raw := range doc.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) == nil {
			set.Keys = append(set.Keys, k)
		}
	}
	if len(set.Keys) == 0 {
		return set, errors.New("a JSON Web Key Set without a key of a known kind")
	}
	return set, nil
}

// download gets the keys from where the issuer says that they are (OpenID Connect
// Discovery 1.0, §4).
func (i *Issuer) download(ctx context.Context) ([]byte, error) {
	from := i.KeysURL
	if from == "" {
		b, err := i.get(ctx, strings.TrimSuffix(i.URL, "/")+"/.well-known/openid-configuration")
		if err != nil {
			return nil, err
		}
		var doc struct {
			Issuer string `json:"issuer"`
			Keys   string `json:"jwks_uri"`
		}
		if json.Unmarshal(b, &doc) != nil || doc.Keys == "" {
			return nil, errors.New("its discovery document names no jwks_uri")
		}
		if doc.Issuer != i.URL {
			return nil, fmt.Errorf("its discovery document is of another issuer, %.100q", doc.Issuer)
		}
		from = doc.Keys
	}
	return i.get(ctx, from)
}

func (i *Issuer) get(ctx context.Context, from string) ([]byte, error) {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return nil, fmt.Errorf("%.200q is no https address", from)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if i.TokenFile != "" && i.own(u.Host) {
		t, err := readFile(i.TokenFile)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(t)))
	}
	resp, err := i.http().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", from, resp.Status)
	}
	return bounded(resp.Body, from)
}

// own reports whether a host is one that the configuration names.
func (i *Issuer) own(host string) bool {
	for _, s := range []string{i.URL, i.KeysURL} {
		if u, err := url.Parse(s); err == nil && u.Host == host {
			return true
		}
	}
	return false
}

// http returns the client for this issuer. It follows no redirect: a discovery document
// says where the keys are.
func (i *Issuer) http() *http.Client {
	i.keys.once.Do(func() {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{RootCAs: i.RootCAs, MinVersion: tls.VersionTLS12}
		t.MaxResponseHeaderBytes = 64 << 10
		i.keys.client = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	})
	return i.keys.client
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return bounded(f, path)
}

func bounded(r io.Reader, what string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s: larger than %d KiB", what, maxDocument>>10)
	}
	return b, err
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
