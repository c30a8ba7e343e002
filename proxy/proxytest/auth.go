package proxytest

import (
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// tokens is what /token has given out.
type tokens struct {
	ttl time.Duration

	mu          sync.Mutex        // guards everything below
	credentials map[string]string // user name → password
	issued      map[string]grant
	count       int
}

// A grant is what a token is good for: one repository and some actions.
type grant struct {
	repository string // empty for the ping alone
	actions    []string
	expires    time.Time
}

func newTokens(o Origin) *tokens {
	t := &tokens{ttl: o.TokenTTL, issued: map[string]grant{}}
	if t.ttl == 0 {
		t.ttl = 5 * time.Minute
	}
	if o.Username != "" || o.Password != "" {
		t.credentials = map[string]string{o.Username: o.Password}
	}
	return t
}

// SetCredentials replaces the pull tokens, given as passwords by user name; old and
// new may be good at the same time. With none, no request needs a token.
func (s *Server) SetCredentials(passwords map[string]string) {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	s.tokens.credentials = maps.Clone(passwords)
}

// RevokeTokens makes every token that /token gave out useless, as if it had expired.
func (s *Server) RevokeTokens() {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	clear(s.tokens.issued)
}

// TokensIssued returns how many tokens /token has given out.
func (s *Server) TokensIssued() int {
	s.tokens.mu.Lock()
	defer s.tokens.mu.Unlock()
	return s.tokens.count
}

// PullToken returns a user name and a password of the form that Chainguard's pull
// tokens have, the password a JWT that says when it expires. The signature is none.
func PullToken(expires time.Time) (username, password string) {
	encode := base64.RawURLEncoding.EncodeToString
	username = hex.EncodeToString(randomBytes(20)) + "/" + hex.EncodeToString(randomBytes(8))
	claims := fmt.Sprintf(`{"aud":"https://issuer.enforce.dev","exp":%d,"iat":%d,"iss":"https://pulltoken.issuer.chainguard.dev","sub":"pull-token-%s"}`,
		expires.Unix(), time.Now().Unix(), hex.EncodeToString(randomBytes(4)))
	return username, encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode(randomBytes(256))
}

func (t *tokens) needed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.credentials) > 0
}

func (t *tokens) check(username, password string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	want, ok := t.credentials[username]
	return subtle.ConstantTimeCompare([]byte(want), []byte(password)) == 1 && ok
}

// issue returns a new token: a JWT in form, opaque in fact.
func (t *tokens) issue(g grant) string {
	encode := base64.RawURLEncoding.EncodeToString
	token := encode([]byte(`{"alg":"RS256"}`)) + "." + encode(randomBytes(120)) + "." + encode(randomBytes(64))
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(t.issued, func(_ string, g grant) bool { return now.After(g.expires) })
	t.issued[token] = g
	t.count++
	return token
}

func (t *tokens) find(token string) (grant, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.issued[token]
	return g, ok && time.Now().Before(g.expires)
}

// readScope reads repository:NAME:ACTION,ACTION. A name may hold a colon's port.
func readScope(scope string) (repository string, actions []string) {
	rest, ok := strings.CutPrefix(scope, "repository:")
	end := strings.LastIndexByte(rest, ':')
	if !ok || end < 0 {
		return "", nil
	}
	return rest[:end], strings.Split(rest[end+1:], ",")
}

func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet {
		return notAllowed(r)
	}
	// Only the first scope counts: a token is for one repository.
	scope, _, _ := strings.Cut(r.URL.Query().Get("scope"), " ")
	repo, actions := readScope(scope)
	username, password, named := r.BasicAuth()
	switch {
	case named && !s.tokens.check(username, password):
		return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "the pull token is wrong, revoked or expired")
	case named && repo != "" && s.origin.Entitled != nil && !s.origin.Entitled(repo):
		return refuse(http.StatusForbidden, "DENIED", "the pull token may not use %s", repo)
	case !named && repo != "" && (s.origin.Public == nil || !s.origin.Public(repo)):
		return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "%s is not public", repo)
	case !named:
		actions = []string{"pull"}
	}
	token := s.tokens.issue(grant{repo, actions, time.Now().Add(s.tokens.ttl)})
	return writeJSON(w, http.StatusOK, "application/json", map[string]any{
		"token":      token,
		"expires_in": int(s.tokens.ttl.Seconds()),
		"issued_at":  time.Now().UTC().Format(time.RFC3339),
	})
}

// authorize lets a request pass that carries a token for what it asks.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, q Request) error {
	if !s.tokens.needed() {
		return nil
	}
	action := "pull"
	switch r.Method {
	case http.MethodPut, http.MethodPost, http.MethodPatch:
		action = "push"
	case http.MethodDelete:
		action = "delete"
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	g, good := s.tokens.find(token)
	if !ok || !good {
		w.Header().Set("WWW-Authenticate", s.challenge(r, q.Repository, action))
		return refuse(http.StatusUnauthorized, "UNAUTHORIZED", "a token is needed")
	}
	if q.Kind == KindPing {
		return nil
	}
	if g.repository != q.Repository || !slices.Contains(g.actions, action) && !slices.Contains(g.actions, "*") {
		return refuse(http.StatusForbidden, "DENIED", "the token is not for %s of %s", action, q.Repository)
	}
	return nil
}

func (s *Server) challenge(r *http.Request, repo, action string) string {
	realm, service := s.origin.Realm, s.origin.Service
	if realm == "" {
		realm = s.scheme + "://" + r.Host + "/token"
	}
	if service == "" {
		service = r.Host
	}
	c := fmt.Sprintf(`Bearer realm="%s",service="%s"`, realm, service)
	if repo == "" {
		return c
	}
	if action == "push" {
		action = "pull,push"
	}
	return c + fmt.Sprintf(`,scope="repository:%s:%s"`, repo, action)
}
