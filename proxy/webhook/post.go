package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/sluicegate/sluice/proxy"
)

// maxAnswer bounds what is read of an answer, so that the connection may serve again.
const maxAnswer = 64 << 10

// NewClient returns a client for TLS 1.2 and newer that follows no redirects.
func NewClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	t.MaxResponseHeaderBytes = 64 << 10
	t.DisableCompression = true
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// An answerError is an answer that did not take the event.
type answerError struct {
	status int
	after  time.Duration // as Retry-After says, 0 where it doesn't
}

func (e *answerError) Error() string {
	text := fmt.Sprintf("it answered %d %s", e.status, http.StatusText(e.status))
	if e.status/100 == 3 {
		text += "; redirects are not followed: name the place itself"
	}
	return text
}

// refuses reports whether the receiver would refuse this event whenever it came.
func refuses(err error) bool {
	var e *answerError
	return errors.As(err, &e) && slices.Contains([]int{http.StatusBadRequest, http.StatusGone, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}, e.status)
}

// post sends an event once. Its error names no more of the URL than the host.
func (l *line) post(ctx context.Context, e *proxy.Event, source string) error {
	secrets, err := l.hook.secrets()
	if err != nil {
		return err
	}
	body, err := json.Marshal(e.Cloud(source))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.hook.Timeout, defaultTimeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.hook.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("its URL can't be read")
	}
	req.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	req.Header.Set("User-Agent", "sluice")
	req.Header.Set(IDHeader, e.ID)
	req.Header.Set(SignatureHeader, sign(secrets, time.Now(), body))
	resp, err := l.Client.Do(req)
	if err != nil {
		return bare(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // the answer counts, whatever becomes of its body
	if resp.StatusCode/100 != 2 {
		return &answerError{resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	return nil
}

// retryAfter reads a Retry-After: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// bare takes the URL out of an error: its path or query may be secret.
func bare(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("it did not answer in time")
	}
	return err
}
