package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	opPing      = "ping"
	opManifest  = "manifest"
	opBlob      = "blob"
	opTags      = "tags"
	opReferrers = "referrers"
	opToken     = "token"

	attempts     = 3               // of a request that fails for a reason that may pass
	maxWait      = 5 * time.Second // of a Retry-After that is obeyed while a client waits for headers
	maxRedirects = 5               // real registries use one or two
)

// A call is one read of the registry's API.
type call struct {
	op     string
	method string
	path   []string // below /v2/, unescaped
	query  url.Values
	header http.Header
	scope  string        // what the token must be for, "" for nothing in particular
	wait   time.Duration // the longest Retry-After that is obeyed
}

// pull returns a call about repo, with the path that follows its name.
func pull(op, method, repo string, path ...string) call {
	return call{
		op: op, method: method, path: append(strings.Split(repo, "/"), path...),
		header: http.Header{}, scope: "repository:" + repo + ":pull", wait: maxWait,
	}
}

// url returns the address of c. Each element is escaped, and elements that would
// leave the path are refused, whatever the caller checked.
func (r *Registry) url(c call) (*url.URL, error) {
	u, err := r.Base()
	if err != nil {
		return nil, err
	}
	raw := u.EscapedPath() + "/v2/"
	plain := u.Path + "/v2/"
	for i, p := range c.path {
		if p == "" || p == "." || p == ".." {
			return nil, fmt.Errorf("%s of %s: not a valid name: %q", c.op, r.Name, strings.Join(c.path, "/"))
		}
		if i > 0 {
			raw, plain = raw+"/", plain+"/"
		}
		raw, plain = raw+url.PathEscape(p), plain+p
	}
	u.Path, u.RawPath, u.RawQuery = plain, raw, c.query.Encode()
	return u, nil
}

// open sends c, again where that may help, and returns an answer of status 2xx,
// whose body the caller closes. Any other answer is an *Error.
func (r *Registry) open(ctx context.Context, c call) (*http.Response, error) {
	var resp *http.Response
	err := r.repeat(ctx, c.wait, func() (err error) {
		resp, err = r.attempt(ctx, c)
		return err
	})
	return resp, err
}

// read is open with the body read, at most limit bytes. A body that breaks is read
// anew from its beginning.
func (r *Registry) read(ctx context.Context, c call, limit int64) (resp *http.Response, body []byte, err error) {
	err = r.repeat(ctx, c.wait, func() (err error) {
		if resp, err = r.attempt(ctx, c); err != nil {
			return err
		}
		defer resp.Body.Close()
		e := &Error{Op: c.op, URL: shown(resp.Request.URL)}
		switch {
		case resp.StatusCode != http.StatusOK:
			e.Err = contentError("HTTP %d without the content", resp.StatusCode)
			return e
		case resp.ContentLength > limit:
			e.Err = contentError("%d bytes long, more than %d", resp.ContentLength, limit)
			return e
		}
		body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
		switch {
		case err != nil:
			e.Err, e.again = cause(err), ctx.Err() == nil
			return e
		case int64(len(body)) > limit:
			e.Err = contentError("longer than %d bytes", limit)
			return e
		}
		return nil
	})
	return resp, body, err
}

// repeat calls f until it succeeds, fails for good, has failed too often, or the
// registry wants a longer wait than longest.
func (r *Registry) repeat(ctx context.Context, longest time.Duration, f func() error) error {
	for i := 0; ; i++ {
		err := f()
		var e *Error
		if err == nil || !errors.As(err, &e) || !e.again || i+1 == attempts || e.RetryAfter > longest {
			return err
		}
		if wait(ctx, max(r.backoff(i), e.RetryAfter)) != nil {
			return err
		}
	}
}

// backoff is the wait after failure number i, counted from 0: doubled each time up to
// 5 s, and half of it random, so that many clients don't return at once.
func (r *Registry) backoff(i int) time.Duration {
	d := min(orDefault(r.Backoff, 100*time.Millisecond)<<min(i, 16), 5*time.Second)
	return d/2 + rand.N(d/2+1)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt sends c once, and once more with a new token where the registry asks for
// one or no longer accepts the kept one.
func (r *Registry) attempt(ctx context.Context, c call) (*http.Response, error) {
	if err := r.pauses.check(c); err != nil {
		return nil, err
	}
	u, err := r.url(c)
	if err != nil {
		return nil, err
	}
	creds, err := r.credentials(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := r.attemptAs(ctx, c, u, creds)
	if !errors.Is(err, errReplaced) {
		return resp, err
	}
	if creds, err = r.credentials(ctx); err != nil {
		return nil, err
	}
	return r.attemptAs(ctx, c, u, creds)
}

// attemptAs is attempt with credentials. Its error wraps errReplaced where others are in
// force meanwhile.
func (r *Registry) attemptAs(ctx context.Context, c call, u *url.URL, creds Credentials) (*http.Response, error) {
	known := r.challenge.Load()
	auth, err := r.authorize(ctx, known, creds, c.scope)
	if err != nil {
		return nil, err
	}
	resp, err := r.follow(ctx, c.op, c.method, u, c.header, auth.header)
	if err != nil {
		return nil, err
	}
	if ch := r.asked(resp, u); ch != nil && !(auth.fresh && ch.same(known)) {
		drain(resp) // so that its connection serves what follows
		r.challenge.Store(ch)
		r.tokens.drop(auth)
		if auth, err = r.authorize(ctx, ch, creds, c.scope); err != nil {
			return nil, err
		}
		if resp, err = r.follow(ctx, c.op, c.method, u, c.header, auth.header); err != nil {
			return nil, err
		}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	err = r.answerError(c.op, u, resp, creds, auth.header)
	r.pauses.note(c, err)
	if resp.StatusCode == http.StatusUnauthorized && auth.header == creds.basic() && r.replaced(ctx, creds, err, func(ctx context.Context, other Credentials) error {
		resp, err := r.follow(ctx, c.op, c.method, u, c.header, other.basic())
		if err != nil {
			return err
		}
		drain(resp)
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("HTTP %d", resp.StatusCode)
		}
		return nil
	}) {
		err = fmt.Errorf("%w: %w", errReplaced, err)
	}
	return nil, err
}

// asked returns the challenge of a 401 that the registry itself gave, else nil.
func (r *Registry) asked(resp *http.Response, u *url.URL) *challenge {
	if resp.StatusCode != http.StatusUnauthorized || !sameOrigin(resp.Request.URL, u) {
		return nil
	}
	return findChallenge(resp.Header)
}

// answerError turns an answer that is no success into an *Error, and closes it.
func (r *Registry) answerError(op string, asked *url.URL, resp *http.Response, creds Credentials, auth string) *Error {
	defer resp.Body.Close()
	e := &Error{Op: op, URL: shown(resp.Request.URL), Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	elsewhere := !sameOrigin(asked, resp.Request.URL)
	e.elsewhere = elsewhere && op == opBlob
	switch resp.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.again = true
	}
	if resp.Request.URL.String() != asked.String() {
		e.URL = host(resp.Request.URL) // what stands behind it may be a pre-signed URL
	}
	if elsewhere {
		return e // a storage's message may quote the signature
	}
	_, secret, _ := strings.Cut(auth, " ")
	e.readError(readBriefly(resp, maxErrorBody), creds.Password, strings.TrimPrefix(creds.basic(), "Basic "), secret)
	return e
}

// retryAfter reads a Retry-After header: seconds, or a date. At most an hour.
func retryAfter(s string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		d = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(s); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), time.Hour)
}

// follow sends one request and follows redirects. The Authorization header goes to
// the origin that was asked and nowhere else. The error is an *Error.
func (r *Registry) follow(ctx context.Context, op, method string, u *url.URL, h http.Header, auth string) (*http.Response, error) {
	asked := u
	if r.Limit != nil {
		if err := r.Limit.Wait(ctx); err != nil {
			return nil, &Error{Op: op, URL: shown(u), Err: fmt.Errorf("the limit on requests to this registry leaves no time for it: %w", err)}
		}
	}
	for hop := 0; ; hop++ {
		req := &http.Request{Method: method, URL: u, Host: u.Host, Header: h.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("Accept-Encoding", "identity")
		req.Header.Set("User-Agent", r.userAgent())
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		resp, err := r.hop(ctx, op, req)
		if err != nil {
			e := &Error{Op: op, URL: shown(u), Err: cause(err), again: ctx.Err() == nil && !permanent(err)}
			if hop > 0 {
				e.URL, e.elsewhere = host(u), !sameOrigin(asked, u)
			}
			return nil, e
		}
		next, err := redirect(resp, u)
		switch {
		case err != nil || next == nil:
		case hop == maxRedirects:
			err = fmt.Errorf("more than %d redirects", maxRedirects)
		case op == opHistory && !sameOrigin(asked, next):
			err = fmt.Errorf("%s is not the registry itself, and what it sends goes to clients as it came", host(next))
		}
		if err != nil {
			drain(resp)
			return nil, &Error{Op: op, URL: host(u), Err: fmt.Errorf("%w: %w", errRedirect, err)}
		}
		if next == nil {
			return resp, nil
		}
		drain(resp)
		if op == opToken || !sameOrigin(asked, next) {
			auth = ""
		}
		u = next
	}
}

// hop sends one request to where it may go.
func (r *Registry) hop(ctx context.Context, op string, req *http.Request) (*http.Response, error) {
	ctx, err := r.ruled(ctx, op, req.URL)
	if err != nil {
		return nil, err
	}
	if r.Observe == nil {
		return r.send(ctx, req)
	}
	start := time.Now()
	resp, err := r.send(ctx, req)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	r.Observe(op, status, time.Since(start))
	return resp, err
}

func (r *Registry) userAgent() string {
	if r.UserAgent != "" {
		return r.UserAgent
	}
	return "sluice"
}

// redirect returns where resp leads, nil for nowhere. Its errors don't quote the
// target.
func redirect(resp *http.Response, from *url.URL) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	to, err := from.Parse(resp.Header.Get("Location"))
	switch {
	case err != nil || to.Host == "" || (to.Scheme != "https" && to.Scheme != "http"):
		return nil, errors.New("it leads nowhere")
	case from.Scheme == "https" && to.Scheme == "http":
		return nil, fmt.Errorf("it leads from https to %s", host(to))
	}
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	return to, nil
}

// permanent reports whether a transport's error won't pass by itself.
func permanent(err error) bool {
	var dns *net.DNSError
	var near *nearError
	return certificateError(err) || errors.As(err, &near) || errors.As(err, &dns) && dns.IsNotFound
}

// shown returns u without its query.
func shown(u *url.URL) string { return host(u) + u.EscapedPath() }

// host returns u's scheme and host.
func host(u *url.URL) string { return u.Scheme + "://" + u.Host }
