package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// ErrContent is wrapped by the error for content that is not what it should be: its
// digest, size, media type or form differ. Reading it again gives the same.
var ErrContent = errors.New("not the content that was asked for")

// An Error is what a registry, its token endpoint or its blob storage answered, or
// that it gave no answer (Status 0). It holds no secret: of the registry's URL the
// path stays, of any other only scheme and host.
type Error struct {
	Op         string        // manifest, blob, tags, referrers, ping, token
	URL        string        // who was asked
	Status     int           // HTTP status, 0 for none
	Code       string        // the first error's code in the registry's errors JSON
	Message    string        // and its message, in one line of at most 300 characters
	RetryAfter time.Duration // as told by the registry, 0 for not
	Err        error         // why there was no answer, or what is wrong with it

	elsewhere bool // the answer came from where the registry redirected to
	again     bool // a repetition may help
}

func (e *Error) Error() string {
	s := e.Op + " " + e.URL + ": "
	if e.Status != 0 {
		s += "HTTP " + strconv.Itoa(e.Status)
		if e.Code != "" {
			s += " " + e.Code
		}
		if e.Message != "" {
			s += ": " + e.Message
		}
		if e.Err != nil {
			s += ": "
		}
	}
	if e.Err != nil {
		s += e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// NotFound reports whether the registry said that it has no such thing. A token
// endpoint or a blob storage that answers 404 is no such statement.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound && e.Op != opToken && !e.elsewhere
}

// Denied reports whether the registry or its token endpoint refused: 401 or 403.
func Denied(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) && !e.elsewhere
}

// Unavailable reports whether the registry can't be read now though it may later:
// no answer, a break, a deadline, 408, 429, 5xx, or a blob storage that refuses.
// Only these justify serving what is remembered.
func Unavailable(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return errors.Is(err, context.DeadlineExceeded)
	}
	switch {
	case errors.Is(err, ErrContent), errors.Is(err, context.Canceled):
		return false
	case e.Status == 0, e.elsewhere:
		return true
	}
	return e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500
}

// maxErrorBody bounds, in bytes, what is read of an error's body.
const maxErrorBody = 16 << 10

// readError fills in e from the body of an answer in the registry's errors JSON.
// secrets are cut out of it, should the other side repeat them.
func (e *Error) readError(body []byte, secrets ...string) {
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"` // some token endpoints, Docker Hub's among them
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return
	}
	msg := doc.Details
	if msg == "" {
		msg = doc.Message
	}
	if len(doc.Errors) > 0 {
		e.Code, msg = clean(doc.Errors[0].Code, 60, secrets), doc.Errors[0].Message
	}
	e.Message = clean(msg, 300, secrets)
}

var (
	urlForm  = regexp.MustCompile(`(?i)\b([a-z][a-z0-9+.-]*://)[^\s"'<>]*`)
	userForm = regexp.MustCompile(`[^\s"'/<>]+@`)
)

// clean makes a stranger's text fit for one line: printable, at most n bytes, URLs
// down to scheme and host, and without the secrets.
func clean(s string, n int, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) >= 4 {
			s = strings.ReplaceAll(s, secret, "…")
		}
	}
	s = urlForm.ReplaceAllStringFunc(s, func(u string) string {
		i := strings.Index(u, "://") + 3
		host := u[i:]
		if j := strings.IndexAny(host, "/?#"); j >= 0 {
			host = host[:j]
		}
		return u[:i] + host[strings.LastIndexByte(host, '@')+1:]
	})
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// cause returns a transport's error in a form that can be shown. The known kinds
// name addresses and certificates; any other may quote headers or URLs, proxies'
// passwords among them, so that only its cleaned text is kept.
func cause(err error) error {
	text := err.Error()
	if i := strings.Index(text, "malformed MIME header"); i >= 0 {
		return errors.New(text[:i] + "malformed header in the answer")
	}
	c := clean(userForm.ReplaceAllString(text, ""), 300, nil)
	if c == text {
		return err
	}
	return errors.New(c)
}

func contentError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrContent}, args...)...)
}

// Silence says in a few words, fit for anybody, why a registry gave no answer that could
// be used: no address, no name, nothing that it sent.
func Silence(err error) string {
	var dns *net.DNSError
	var slow *stalled
	var near *nearError
	switch {
	case errors.As(err, &near):
		return "it sends on to where it may not"
	case errors.Is(err, errRedirect):
		return "it sends on in circles, or to where it may not"
	case certificateError(err):
		return "its certificate is not trusted"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "its name is not known"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there"
	case errors.As(err, &slow), errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "it breaks off"
	}
	return "no answer"
}

// errRedirect is wrapped by the error for a redirect that isn't followed.
var errRedirect = errors.New("redirect not followed")
