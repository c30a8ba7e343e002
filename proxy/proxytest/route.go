package proxytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// Kinds of requests.
const (
	KindPing      = "ping"      // /v2/
	KindToken     = "token"     // /token
	KindManifest  = "manifest"  // /v2/NAME/manifests/REFERENCE
	KindBlob      = "blob"      // /v2/NAME/blobs/DIGEST
	KindUpload    = "upload"    // /v2/NAME/blobs/uploads/…
	KindTags      = "tags"      // /v2/NAME/tags/list
	KindReferrers = "referrers" // /v2/NAME/referrers/DIGEST
	KindHistory   = "history"   // /v2/NAME/_chainguard/history/TAG
	KindStorage   = "storage"   // the blob host
	KindOther     = "other"
)

// Names and tags as the distribution specification has them.
var (
	nameRE = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagRE  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// route tells what a request to the registry is about.
func (s *Server) route(r *http.Request) Request {
	q := newRequest(r)
	path, ok := strings.CutPrefix(r.URL.Path, "/v2")
	switch {
	case r.URL.Path == "/token":
		q.Kind = KindToken
		q.Repository, _ = readScope(r.URL.Query().Get("scope"))
	case ok && (path == "" || path == "/"):
		q.Kind = KindPing
	case ok && strings.HasPrefix(path, "/"):
		q.Kind, q.Repository, q.Reference = splitPath(path[1:])
	}
	return q
}

// splitPath reads NAME/KIND/REFERENCE from its end, since a name has slashes and
// may itself hold an element such as "blobs".
func splitPath(path string) (kind, name, reference string) {
	parts := strings.Split(path, "/")
	n := len(parts)
	if n < 3 {
		return KindOther, "", ""
	}
	last, kindAt := parts[n-1], parts[n-2]
	name = strings.Join(parts[:n-2], "/")
	if n > 3 && kindAt == "uploads" && parts[n-3] == "blobs" {
		return KindUpload, strings.Join(parts[:n-3], "/"), last
	}
	if n > 3 && kindAt == "history" && parts[n-3] == "_chainguard" {
		return KindHistory, strings.Join(parts[:n-3], "/"), last
	}
	switch {
	case kindAt == "manifests":
		return KindManifest, name, last
	case kindAt == "blobs" && last == "uploads":
		return KindUpload, name, ""
	case kindAt == "blobs":
		return KindBlob, name, last
	case kindAt == "tags" && last == "list":
		return KindTags, name, ""
	case kindAt == "referrers":
		return KindReferrers, name, last
	}
	return KindOther, "", ""
}

// serveRegistry answers one request, or returns the error that is its answer.
func (s *Server) serveRegistry(w http.ResponseWriter, r *http.Request, q Request) error {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if q.Kind == KindToken {
		return s.serveToken(w, r)
	}
	if q.Kind == KindOther {
		return refuse(http.StatusNotFound, "NOT_FOUND", "nothing at %s", r.URL.Path)
	}
	if err := s.authorize(w, r, q); err != nil {
		return err
	}
	if q.Kind == KindPing {
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write([]byte("{}"))
		return err
	}
	if !nameRE.MatchString(q.Repository) || len(q.Repository) > 255 {
		return refuse(http.StatusBadRequest, "NAME_INVALID", "%q is no repository name", q.Repository)
	}
	if s.origin.Warning != "" {
		w.Header().Set("Warning", fmt.Sprintf("299 - %q", s.origin.Warning))
	}
	return s.serveRepository(w, r, q)
}

func (s *Server) serveRepository(w http.ResponseWriter, r *http.Request, q Request) error {
	switch q.Kind {
	case KindManifest:
		return s.serveManifest(w, r, q)
	case KindBlob:
		return s.serveBlob(w, r, q)
	case KindUpload:
		return s.serveUpload(w, r, q)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(r)
	}
	switch q.Kind {
	case KindTags:
		return s.serveTags(w, r, q)
	case KindReferrers:
		return s.serveReferrers(w, r, q)
	}
	return s.serveHistory(w, q)
}

// refusal is an answer in the registry's error format.
type refusal struct {
	status        int
	code, message string
}

func (e *refusal) Error() string { return e.code + ": " + e.message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

func notAllowed(r *http.Request) error {
	return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not supported here", r.Method)
}

// writeError writes an error of a handler. An error that is no refusal came from
// the connection, and there is nobody left to tell.
func writeError(w http.ResponseWriter, err error) {
	var e *refusal
	if !errors.As(err, &e) {
		return
	}
	writeJSON(w, e.status, "application/json", map[string]any{
		"errors": []any{map[string]any{"code": e.code, "message": e.message, "detail": nil}},
	})
}

func writeJSON(w http.ResponseWriter, status int, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	_, err = w.Write(body)
	return err
}
