package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	maxTokens     = 2048             // kept at most; each is a kB or two
	maxTokenBody  = 256 << 10        // bytes of a token endpoint's answer
	defaultLife   = 60 * time.Second // of a token that doesn't say, after the distribution token specification
	leastLife     = 10 * time.Second // so that a token endpoint with a wrong clock is not asked for each request
	mostLife      = 24 * time.Hour
	refusalMemory = 10 * time.Second // for which refused credentials are not tried again, doubled each time
	mostRefusal   = 5 * time.Minute  // up to this
	tokenTimeout  = time.Minute      // of one token's fetch, repetitions included
)

// tokenKey is what a token is good for.
type tokenKey struct {
	by    generation
	scope string
}

// A token is what a token endpoint gave, or its refusal.
type token struct {
	value   string
	refusal error
	times   int // that it was refused in a row
	fetched time.Time
	renew   time.Time // when it is not used any more
	expires time.Time
}

// tokens keeps the tokens of one registry. The zero value is empty.
type tokens struct {
	flights singleflight.Group
	mu      sync.Mutex // guards kept, whose length is at most maxTokens
	kept    map[tokenKey]token
}

func (t *tokens) get(k tokenKey, now time.Time) (token, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tok, ok := t.kept[k]; ok && now.Before(tok.renew) {
		return tok, true
	}
	tok, ok := t.kept[tokenKey{k.by, allScopes}]
	return tok, ok && now.Before(tok.renew)
}

// allScopes stands for the refusal of credentials for whatever they are used.
const allScopes = "*"

// refuse remembers that credentials were refused for a scope. A 401 to those which have no
// good token for another is meant for all: so the registry isn't asked for each repository
// in turn, which may lock the account out.
func (t *tokens) refuse(k tokenKey, err error, now time.Time) token {
	var e *Error
	if errors.As(err, &e) && e.Status == http.StatusUnauthorized && !t.good(k.by, now) {
		k.scope = allScopes
	}
	t.mu.Lock()
	times := t.kept[k].times
	t.mu.Unlock()
	tok := token{refusal: err, times: times + 1, fetched: now, renew: now.Add(min(refusalMemory<<min(times, 8), mostRefusal))}
	t.put(k, tok)
	return tok
}

// good reports whether credentials have a token that is used.
func (t *tokens) good(by generation, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, tok := range t.kept {
		if k.by == by && tok.refusal == nil && now.Before(tok.renew) {
			return true
		}
	}
	return false
}

// accept remembers a token, and that its credentials are good.
func (t *tokens) accept(k tokenKey, tok token) {
	t.put(k, tok)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.kept, tokenKey{k.by, allScopes})
}

// Refusal returns why the registry refuses these credentials, and until when it is not asked
// again with them; nil where it doesn't.
func (r *Registry) Refusal(c Credentials) (until time.Time, err error) {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	tok, ok := r.tokens.kept[tokenKey{c.generation(), allScopes}]
	if !ok || !time.Now().Before(tok.renew) {
		return time.Time{}, nil
	}
	return tok.renew, tok.refusal
}

func (t *tokens) put(k tokenKey, tok token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept == nil {
		t.kept = map[tokenKey]token{}
	}
	if len(t.kept) >= maxTokens {
		maps.DeleteFunc(t.kept, func(_ tokenKey, old token) bool { return !tok.fetched.Before(old.renew) })
	}
	for old := range t.kept {
		if len(t.kept) < maxTokens {
			break
		}
		delete(t.kept, old)
	}
	t.kept[k] = tok
}

// drop forgets the token that a was made with, if it is still the kept one.
func (t *tokens) drop(a authorization) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tok, ok := t.kept[a.key]; ok && tok.value != "" && "Bearer "+tok.value == a.header {
		delete(t.kept, a.key)
	}
}

// An authorization is what a request is sent with.
type authorization struct {
	header string // of Authorization, "" for none
	key    tokenKey
	fresh  bool // made for this very request
}

// authorize answers a challenge, nil for one that isn't known yet.
func (r *Registry) authorize(ctx context.Context, ch *challenge, creds Credentials, scope string) (authorization, error) {
	switch {
	case ch == nil:
		return authorization{}, nil
	case ch.scheme == "basic" && creds.Anonymous():
		return authorization{fresh: true}, nil
	case ch.scheme == "basic":
		return authorization{header: creds.basic(), fresh: true}, nil
	}
	key := tokenKey{creds.generation(), scope}
	start := time.Now()
	tok, ok := r.tokens.get(key, start)
	if !ok {
		var err error
		if tok, err = r.fetchTokenOnce(ctx, ch, creds, key); err != nil {
			return authorization{}, err
		}
	}
	if tok.refusal != nil {
		return authorization{}, tok.refusal
	}
	return authorization{"Bearer " + tok.value, key, !tok.fetched.Before(start)}, nil
}

// fetchTokenOnce fetches a token for all who ask for it now. The flight runs on a
// time of its own: a caller that leaves fails nobody else.
func (r *Registry) fetchTokenOnce(ctx context.Context, ch *challenge, creds Credentials, key tokenKey) (token, error) {
	flight := r.tokens.flights.DoChan(string(key.by[:])+key.scope, func() (any, error) {
		if tok, ok := r.tokens.get(key, time.Now()); ok { // a flight just landed
			return tok, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		tok, err := r.fetchToken(ctx, ch, creds, key.scope)
		switch {
		case Denied(err) && r.replaced(ctx, creds, err, func(ctx context.Context, c Credentials) error {
			_, err := r.fetchToken(ctx, ch, c, key.scope)
			return err
		}):
			return token{}, fmt.Errorf("%w: %w", errReplaced, err)
		case Denied(err):
			return r.tokens.refuse(key, err, time.Now()), nil
		case err != nil:
			return token{}, err
		}
		r.tokens.accept(key, tok)
		return tok, nil
	})
	select {
	case res := <-flight:
		if res.Err != nil {
			return token{}, res.Err
		}
		return res.Val.(token), nil
	case <-ctx.Done():
		return token{}, &Error{Op: opToken, URL: r.Name, Err: ctx.Err()}
	}
}

// errReplaced is the error for credentials that were refused when others were in force.
var errReplaced = errors.New("other credentials are in force now")

// replaced reports whether others than the refused credentials are in force.
func (r *Registry) replaced(ctx context.Context, creds Credentials, err error, try func(context.Context, Credentials) error) bool {
	var e *Error
	return r.Refused != nil && !creds.Anonymous() && errors.As(err, &e) && r.Refused(ctx, creds, e.Status == http.StatusUnauthorized, try)
}

// fetchToken asks the token endpoint that ch names.
func (r *Registry) fetchToken(ctx context.Context, ch *challenge, creds Credentials, scope string) (token, error) {
	u, trusted, err := r.realm(ch)
	if err != nil {
		return token{}, &Error{Op: opToken, URL: r.Name, Err: err}
	}
	q := u.Query()
	if s := ch.params["service"]; s != "" {
		q.Set("service", s)
	}
	if scope != "" {
		q.Set("scope", scope)
	}
	u.RawQuery = q.Encode()
	auth := ""
	if !creds.Anonymous() && trusted {
		auth = creds.basic()
	} else if !creds.Anonymous() {
		r.warnRealm(u)
	}
	return r.askToken(ctx, u, creds, auth)
}

// askToken sends one request to a token endpoint. Repeating it is left to whoever
// needs the token.
func (r *Registry) askToken(ctx context.Context, u *url.URL, creds Credentials, auth string) (token, error) {
	now := time.Now()
	resp, err := r.follow(ctx, opToken, http.MethodGet, u, http.Header{"Accept": {"application/json"}}, auth)
	if err != nil {
		return token{}, err
	}
	if resp.StatusCode != http.StatusOK {
		e := r.answerError(opToken, u, resp, creds, auth)
		if e.Status/100 == 2 {
			e.Err = contentError("no token")
		}
		return token{}, e
	}
	defer resp.Body.Close()
	e := &Error{Op: opToken, URL: shown(u)}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody))
	if err != nil {
		e.Err, e.again = cause(err), ctx.Err() == nil
		return token{}, e
	}
	tok, err := parseToken(body, now)
	if err != nil {
		e.Err = err
		return token{}, e
	}
	return tok, nil
}

// parseToken reads a token endpoint's answer to a request sent at now.
func parseToken(body []byte, now time.Time) (token, error) {
	var doc struct {
		Token       string          `json:"token"`
		AccessToken string          `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
		IssuedAt    string          `json:"issued_at"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return token{}, contentError("the token endpoint's answer is no JSON object of the form {\"token\": …}")
	}
	value := doc.Token
	if value == "" {
		value = doc.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return token{}, contentError("the token endpoint's answer holds no usable token")
	}
	life := lifetime(doc.ExpiresIn, doc.IssuedAt, value, now)
	return token{value: value, fetched: now, expires: now.Add(life), renew: now.Add(life - min(life/5, 30*time.Second))}, nil
}

// lifetime is how long a token is used, by our clock: expires_in, less what has
// passed since issued_at where that is told and lies in the past; else what the token
// itself says as a JWT; else 60 s.
func lifetime(expiresIn json.RawMessage, issuedAt, value string, now time.Time) time.Duration {
	var seconds float64
	life := defaultLife
	if err := json.Unmarshal(expiresIn, &seconds); err == nil && seconds > 0 {
		life = time.Duration(min(seconds, mostLife.Seconds()) * float64(time.Second))
		if t, err := time.Parse(time.RFC3339, issuedAt); err == nil && t.Before(now) {
			life -= now.Sub(t)
		}
	} else if c, err := ReadClaims(value); err == nil && !c.Expires.IsZero() {
		if life = c.Expires.Sub(now); !c.IssuedAt.IsZero() {
			life = min(life, c.Expires.Sub(c.IssuedAt))
		}
	}
	return min(max(life, leastLife), mostLife)
}

// realm returns the token endpoint's address, and whether it may be given
// credentials: the registry's own host and port may, a listed one may; none whose
// scheme is weaker than the registry's is asked at all.
func (r *Registry) realm(ch *challenge) (u *url.URL, trusted bool, err error) {
	base, err := r.Base()
	if err != nil {
		return nil, false, err
	}
	u, err = url.Parse(ch.params["realm"])
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil:
		return nil, false, errors.New("the registry's challenge names no valid token endpoint")
	case base.Scheme == "https" && u.Scheme == "http":
		return nil, false, fmt.Errorf("the registry's challenge names %s as its token endpoint, which is not https, and is refused", host(u))
	}
	u.Fragment, u.RawFragment = "", ""
	return u, sameOrigin(base, u) || r.listed(base, u), nil
}

func (r *Registry) listed(base, realm *url.URL) bool {
	hosts := r.RealmHosts
	switch base.Hostname() {
	case "registry-1.docker.io", "index.docker.io", "docker.io":
		hosts = append([]string{"auth.docker.io"}, hosts...)
	}
	return listed(hosts, realm)
}

func (r *Registry) warnRealm(u *url.URL) {
	r.warnOnce.Do(func() {
		r.log().Warn("the registry names a token endpoint on another host; it is asked without credentials. If it is the right one, add it to this upstream's realm_hosts",
			"upstream", r.Name, "realm", host(u))
	})
}

// same reports whether two challenges ask for the same.
func (c *challenge) same(d *challenge) bool {
	return d != nil && c.scheme == d.scheme && c.params["realm"] == d.params["realm"] && c.params["service"] == d.params["service"]
}
