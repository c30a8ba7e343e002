package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Answer is what a registry says of itself at /v2/.
type Answer struct {
	Status  int
	Proto   string               // HTTP/2.0
	TLS     *tls.ConnectionState // nil over http
	Scheme  string               // of the challenge: bearer, basic, "" for none
	Realm   string               // scheme and host of the token endpoint
	Trusted bool                 // the token endpoint may be given credentials
}

// Ping reports whether the registry answers: a success, or the demand to identify
// with which a registry begins. It carries no credentials and costs one request.
func (r *Registry) Ping(ctx context.Context) error {
	_, err := r.Hello(ctx)
	return err
}

// Hello is Ping with what the registry said.
func (r *Registry) Hello(ctx context.Context) (Answer, error) {
	base, err := r.Base()
	if err != nil {
		return Answer{}, err
	}
	u := base
	u.Path += "/v2/"
	var a Answer
	err = r.repeat(ctx, maxWait, func() error {
		resp, err := r.follow(ctx, opPing, http.MethodGet, u, nil, "")
		if err != nil {
			return err
		}
		ch := findChallenge(resp.Header)
		if resp.StatusCode/100 != 2 && (resp.StatusCode != http.StatusUnauthorized || ch == nil) {
			return r.answerError(opPing, u, resp, Credentials{}, "")
		}
		drain(resp)
		a = Answer{Status: resp.StatusCode, Proto: resp.Proto, TLS: resp.TLS}
		if ch != nil && resp.StatusCode == http.StatusUnauthorized {
			a.Scheme = ch.scheme
			r.challenge.Store(ch)
			if ch.scheme == "bearer" {
				realm, trusted, err := r.realm(ch)
				if err != nil {
					return &Error{Op: opPing, URL: shown(u), Status: resp.StatusCode, Err: err}
				}
				a.Realm, a.Trusted = host(realm), trusted
			}
		}
		return nil
	})
	return a, err
}

// Identify asks the token endpoint for a token that may pull from repo, "" for one
// that is good for nothing in particular, and returns when it ends. It needs a
// Hello before it; where the registry asked for no token it does nothing.
func (r *Registry) Identify(ctx context.Context, repo string) (expires time.Time, err error) {
	ch := r.challenge.Load()
	creds, err := r.credentials(ctx)
	if err != nil || ch == nil || ch.scheme != "bearer" {
		return time.Time{}, err
	}
	key := tokenKey{by: creds.generation()}
	if repo != "" {
		key.scope = "repository:" + repo + ":pull"
	}
	err = r.repeat(ctx, maxWait, func() error {
		tok, err := r.fetchTokenOnce(ctx, ch, creds, key)
		if err != nil {
			return err
		}
		expires = tok.expires
		return tok.refusal
	})
	return expires, err
}

// BlobHost asks for the first byte of a blob and returns the scheme and host that it
// came from: the registry's, or that of the storage that it redirects to.
func (r *Registry) BlobHost(ctx context.Context, repo string, desc ocispec.Descriptor) (string, error) {
	c := pull(opBlob, http.MethodGet, repo, "blobs", desc.Digest.String())
	c.header.Set("Range", "bytes=0-0") // not HEAD: a pre-signed address is good for one method
	resp, err := r.open(ctx, c)
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	return host(resp.Request.URL), nil
}

func hasStatus(err error, status int) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == status
}

// certificateError reports whether err is about the other side's certificate.
func certificateError(err error) bool {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid)
}
