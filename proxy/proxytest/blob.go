package proxytest

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// maxBlob bounds a blob that is pushed over HTTP.
const maxBlob = 2 << 30

func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request, q Request) error {
	d, err := digest.Parse(q.Reference)
	if err != nil {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "%q is no digest", q.Reference)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		if !s.registry.deleteBlob(q.Repository, d) {
			return refuse(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s in %s", d, q.Repository)
		}
		w.WriteHeader(http.StatusAccepted)
		return nil
	default:
		return notAllowed(r)
	}
	data, ok := s.registry.blob(q.Repository, d)
	if !ok {
		return refuse(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s in %s", d, q.Repository)
	}
	w.Header().Set("Docker-Content-Digest", d.String())
	if s.origin.BlobRedirect && r.Method == http.MethodGet {
		http.Redirect(w, r, s.signedURL(q.Repository, d), http.StatusTemporaryRedirect)
		return nil
	}
	serveBytes(w, r, d, data)
	return nil
}

// serveBytes leaves HEAD, ranges and preconditions to the standard library.
func serveBytes(w http.ResponseWriter, r *http.Request, d digest.Digest, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+d.String()+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// signedURL is a blob's place on the blob host, good until it expires.
func (s *Server) signedURL(repo string, d digest.Digest) string {
	ttl := s.origin.RedirectTTL
	if ttl == 0 {
		ttl = 10 * time.Minute
	}
	path := "/" + repo + "/" + d.String()
	expires := strconv.FormatInt(time.Now().Add(ttl).UnixMilli(), 10)
	u := url.URL{Scheme: s.scheme, Host: s.blobAddr, Path: path}
	u.RawQuery = url.Values{"expires": {expires}, "signature": {s.sign(path, expires)}}.Encode()
	return u.String()
}

func (s *Server) sign(path, expires string) string {
	mac := hmac.New(sha256.New, s.signKey)
	io.WriteString(mac, path+"\n"+expires)
	return hex.EncodeToString(mac.Sum(nil))
}

// routeStorage tells what a request to the blob host is about.
func (s *Server) routeStorage(r *http.Request) Request {
	q := newRequest(r)
	q.Kind = KindStorage
	if i := strings.LastIndexByte(r.URL.Path, '/'); i > 0 {
		q.Repository, q.Reference = r.URL.Path[1:i], r.URL.Path[i+1:]
	}
	return q
}

// serveStorage is the blob host. Like an object store it wants a signature and
// nothing else: credentials beside it are refused.
func (s *Server) serveStorage(w http.ResponseWriter, r *http.Request, q Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(r)
	}
	if r.Header.Get("Authorization") != "" {
		return refuse(http.StatusBadRequest, "INVALID_ARGUMENT", "only one way to authenticate is allowed, and the query has one")
	}
	query := r.URL.Query()
	expires, err := strconv.ParseInt(query.Get("expires"), 10, 64)
	good := hmac.Equal([]byte(query.Get("signature")), []byte(s.sign(r.URL.Path, query.Get("expires"))))
	if err != nil || !good {
		return refuse(http.StatusForbidden, "DENIED", "signature does not match")
	}
	if time.Now().UnixMilli() > expires {
		return refuse(http.StatusForbidden, "DENIED", "request has expired")
	}
	data, ok := s.registry.blob(q.Repository, digest.Digest(q.Reference))
	if !ok {
		return refuse(http.StatusNotFound, "BLOB_UNKNOWN", "no blob %s", q.Reference)
	}
	serveBytes(w, r, digest.Digest(q.Reference), data)
	return nil
}

func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request, q Request) error {
	if r.Method == http.MethodPost && q.Reference == "" {
		return s.startUpload(w, r, q)
	}
	s.registry.mu.RLock()
	u := s.registry.uploads[q.Reference]
	s.registry.mu.RUnlock()
	if u == nil || u.repository != q.Repository {
		return refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no upload %s in %s", q.Reference, q.Repository)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	place := "/v2/" + q.Repository + "/blobs/uploads/" + q.Reference
	switch r.Method {
	case http.MethodGet:
		u.writeProgress(w, place, http.StatusNoContent)
		return nil
	case http.MethodPatch:
		if err := u.append(w, r, place); err != nil {
			return err
		}
		u.writeProgress(w, place, http.StatusAccepted)
		return nil
	case http.MethodPut:
		if err := u.append(w, r, place); err != nil {
			return err
		}
		s.endUpload(q.Reference)
		return s.commit(w, q.Repository, r.URL.Query().Get("digest"), u.data)
	case http.MethodDelete:
		s.endUpload(q.Reference)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return notAllowed(r)
}

// startUpload begins an upload, or does it all: a mount, or the blob in the POST.
func (s *Server) startUpload(w http.ResponseWriter, r *http.Request, q Request) error {
	query := r.URL.Query()
	if d, err := digest.Parse(query.Get("mount")); err == nil && s.registry.mount(q.Repository, query.Get("from"), d) {
		writeCreated(w, q.Repository, d)
		return nil
	}
	u := &upload{repository: q.Repository}
	if d := query.Get("digest"); d != "" {
		if err := u.append(w, r, ""); err != nil {
			return err
		}
		return s.commit(w, q.Repository, d, u.data)
	}
	id := hex.EncodeToString(randomBytes(16))
	s.registry.mu.Lock()
	s.registry.uploads[id] = u
	s.registry.mu.Unlock()
	u.writeProgress(w, "/v2/"+q.Repository+"/blobs/uploads/"+id, http.StatusAccepted)
	return nil
}

func (s *Server) endUpload(id string) {
	s.registry.mu.Lock()
	defer s.registry.mu.Unlock()
	delete(s.registry.uploads, id)
}

// commit makes a blob of what has arrived, if that is what was announced.
func (s *Server) commit(w http.ResponseWriter, repo, text string, data []byte) error {
	d, err := digest.Parse(text)
	if err != nil {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "%q is no digest", text)
	}
	if d != d.Algorithm().FromBytes(data) {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "blob is not %s", d)
	}
	s.registry.putBlob(repo, d, data)
	writeCreated(w, repo, d)
	return nil
}

func writeCreated(w http.ResponseWriter, repo string, d digest.Digest) {
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Location", "/v2/"+repo+"/blobs/"+d.String())
	w.WriteHeader(http.StatusCreated)
}

// append adds a request's body, which must begin where the upload ends.
func (u *upload) append(w http.ResponseWriter, r *http.Request, place string) error {
	if text := r.Header.Get("Content-Range"); text != "" {
		from, _, _ := strings.Cut(text, "-")
		if start, err := strconv.Atoi(from); err != nil || start != len(u.data) {
			u.setProgress(w, place)
			return refuse(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "chunk %s, but the next byte is %d", text, len(u.data))
		}
	}
	chunk, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(maxBlob-len(u.data))))
	if large := new(http.MaxBytesError); errors.As(err, &large) {
		return refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "blob is larger than %d bytes", maxBlob)
	}
	if err != nil {
		return fmt.Errorf("read upload: %w", err)
	}
	u.data = append(u.data, chunk...)
	return nil
}

func (u *upload) setProgress(w http.ResponseWriter, place string) {
	w.Header().Set("Location", place)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(u.data)-1, 0)))
}

func (u *upload) writeProgress(w http.ResponseWriter, place string, status int) {
	u.setProgress(w, place)
	w.WriteHeader(status)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: it ends the program instead
	return b
}
