package proxytest

import (
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A Fault answers a request in place of next, or spoils what next answers.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// faults are those that wait for their requests.
type faults struct {
	mu   sync.Mutex // guards list and the counts in it
	list []*waiting
}

type waiting struct {
	times int // that are left; below 0 for ever
	match func(Request) bool
	fault Fault
}

// Inject has the next times requests that match meet a fault, all of them where
// times is 0. Of several faults that match, the one injected first comes first. The
// fault goes when remove is called.
func (s *Server) Inject(times int, match func(Request) bool, fault Fault) (remove func()) {
	if times == 0 {
		times = -1
	}
	f := &waiting{times, match, fault}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = append(s.faults.list, f)
	return func() {
		s.faults.mu.Lock()
		defer s.faults.mu.Unlock()
		s.faults.list = slices.DeleteFunc(s.faults.list, func(o *waiting) bool { return o == f })
	}
}

func (f *faults) find(q Request) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range f.list {
		if c.match != nil && !c.match(q) {
			continue
		}
		if c.times--; c.times == 0 {
			f.list = slices.Delete(f.list, i, i+1)
		}
		return c.fault
	}
	return nil
}

// Truncate ends the connection in an orderly way after n bytes of the body.
func Truncate(n int64) Fault {
	return breakAfter(n, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
}

// Reset ends the connection by RST after n bytes of the body. On HTTP/2 it is the
// stream that is reset.
func Reset(n int64) Fault {
	return breakAfter(n, func(w http.ResponseWriter, _ *http.Request) {
		// What the kernel still holds is lost with a reset, so let it go out first.
		time.Sleep(20 * time.Millisecond)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		conn.Close()
		panic(http.ErrAbortHandler)
	})
}

// Raw answers with any bytes, whether they are HTTP or not, and ends the connection in
// an orderly way or, with reset, by RST. It needs HTTP/1.1.
func Raw(answer string, reset bool) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer conn.Close()
		io.WriteString(conn, answer)
		if tcp, ok := conn.(*net.TCPConn); ok && reset {
			time.Sleep(20 * time.Millisecond) // as in Reset
			tcp.SetLinger(0)
		}
		panic(http.ErrAbortHandler)
	}
}

// Stall sends nothing more after n bytes of the body, until the client hangs up, the
// server is closed or until is closed; then the rest follows. A nil channel never is.
func (s *Server) Stall(n int64, until <-chan struct{}) Fault {
	return breakAfter(n, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-until:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		case <-s.closing:
			panic(http.ErrAbortHandler)
		}
	})
}

// Drip sends the body n bytes at a time, with a pause before each.
func (s *Server) Drip(n int, pause time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&bodyWriter{ResponseWriter: w, write: func(p []byte) error {
			for part := range slices.Chunk(p, n) {
				if !s.wait(r.Context(), pause) {
					panic(http.ErrAbortHandler)
				}
				if _, err := w.Write(part); err != nil {
					return err
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return err
				}
			}
			return nil
		}}, r)
	}
}

// Corrupt sends the byte at n of the body with all its bits turned.
func Corrupt(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		at := int64(0)
		next.ServeHTTP(&bodyWriter{ResponseWriter: w, write: func(p []byte) error {
			p = slices.Clone(p)
			if i := n - at; i >= 0 && i < int64(len(p)) {
				p[i] ^= 0xff
			}
			at += int64(len(p))
			_, err := w.Write(p)
			return err
		}}, r)
	}
}

// Change sends another body than the answer's, with its length and the status and the
// other headers of the answer. It needs all of the body in memory.
func Change(change func(body []byte) []byte) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		body := change(rec.body)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.WriteHeader(rec.status)
		w.Write(body)
	}
}

// Lengthen announces delta bytes more than the body has. Where delta is negative the
// body is as short as announced.
func Lengthen(delta int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		left := int64(math.MaxInt64)
		next.ServeHTTP(&bodyWriter{ResponseWriter: w, header: func(h http.Header) {
			if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil {
				left = max(n+delta, 0)
				h.Set("Content-Length", strconv.FormatInt(left, 10))
			}
		}, write: func(p []byte) error {
			p = p[:min(left, int64(len(p)))]
			left -= int64(len(p))
			_, err := w.Write(p)
			return err
		}}, r)
	}
}

// SetHeader sends a header of the answer with another value; an empty one drops it.
func SetHeader(name, value string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&bodyWriter{ResponseWriter: w, header: func(h http.Header) {
			h.Del(name)
			if value != "" {
				h.Set(name, value)
			}
		}}, r)
	}
}

// Status answers with a status, a registry error of the given code, and headers
// given as names and values in turn: Status(429, "TOOMANYREQUESTS", "Retry-After", "1").
func Status(status int, code string, headers ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for pair := range slices.Chunk(headers, 2) {
			w.Header().Set(pair[0], pair[len(pair)-1])
		}
		writeError(w, refuse(status, code, "%s", http.StatusText(status)))
	}
}

// Body answers 200 with any bytes and their type.
func Body(mediaType string, data []byte) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	}
}

// Challenge answers 401 and names a realm, which may be anybody's.
func Challenge(realm string) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		challenge := fmt.Sprintf(`Bearer realm="%s",service="%s"`, realm, r.Host)
		Status(http.StatusUnauthorized, "UNAUTHORIZED", "WWW-Authenticate", challenge)(w, r, next)
	}
}

// Redirect answers 307 to a URL; an empty one is the request's own: a loop.
func Redirect(url string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		to := url
		if to == "" {
			to = r.URL.RequestURI()
		}
		http.Redirect(w, r, to, http.StatusTemporaryRedirect)
	}
}

// breakAfter lets n bytes of the body pass, flushes them, and then does what it is
// told, once; if that returns, the body goes on.
func breakAfter(n int64, do func(http.ResponseWriter, *http.Request)) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		left, broken := n, false
		trip := func() {
			broken = true
			http.NewResponseController(w).Flush()
			do(w, r)
		}
		next.ServeHTTP(&bodyWriter{ResponseWriter: w, write: func(p []byte) error {
			if !broken && left <= int64(len(p)) {
				if _, err := w.Write(p[:left]); err != nil {
					return err
				}
				p = p[left:]
				trip()
			}
			left -= int64(len(p))
			_, err := w.Write(p)
			return err
		}}, r)
		// The body was no longer than that, so it breaks at its end.
		if !broken {
			trip()
		}
	}
}

// bodyWriter changes headers before they go and the body on its way.
type bodyWriter struct {
	http.ResponseWriter
	header func(http.Header)  // nil for unchanged
	write  func([]byte) error // nil for unchanged
	wrote  bool
}

// Unwrap serves http.ResponseController.
func (w *bodyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *bodyWriter) WriteHeader(status int) {
	if w.header != nil && !w.wrote {
		w.header(w.Header())
	}
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *bodyWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.write == nil {
		return w.ResponseWriter.Write(p)
	}
	if err := w.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// recorder keeps an answer back.
type recorder struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(p []byte) (int, error) {
	r.body = append(r.body, p...)
	return len(p), nil
}
