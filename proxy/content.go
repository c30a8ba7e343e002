package proxy

import (
	"io"
	"net/http"
	"strings"
	"time"
)

// serveContent is http.ServeContent with the registry's errors: ranges that can't be
// satisfied and preconditions that fail are answered in its JSON like all else. The
// headers that describe the content are set before.
func serveContent(w http.ResponseWriter, r *http.Request, content io.ReadSeeker) {
	http.ServeContent(&contentWriter{ResponseWriter: w}, r, "", time.Time{}, content)
}

// A contentWriter puts the registry's errors in the place of the standard library's.
type contentWriter struct {
	http.ResponseWriter
	refused bool // an error is out, and the library's own text is dropped
}

func (w *contentWriter) WriteHeader(status int) {
	switch status {
	case http.StatusRequestedRangeNotSatisfiable:
		w.refuse(&Error{Status: status, Code: codeRangeInvalid, Message: "the content has none of the bytes that Range asks for, or Range can't be read"})
	case http.StatusPreconditionFailed:
		w.refuse(&Error{Status: status, Code: codeDigestInvalid, Message: "If-Match, or If-Unmodified-Since, asks for other content than this digest stands for"})
	default:
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *contentWriter) refuse(e *Error) {
	w.refused = true
	w.Header().Del("X-Content-Type-Options")
	e.Write(w.ResponseWriter)
}

func (w *contentWriter) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom lets the server send files without copying them through this process.
func (w *contentWriter) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(w.ResponseWriter, r)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *contentWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// dropRange takes a Range header from a request for which RFC 9110 section 14.2 has a
// server ignore it: of any method but GET, and of a unit other than bytes.
func dropRange(r *http.Request) {
	if r.Method != http.MethodGet || !strings.HasPrefix(r.Header.Get("Range"), "bytes=") {
		r.Header.Del("Range")
	}
}
