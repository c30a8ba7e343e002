package main

import (
	"bytes"
	"io"
	"net/http"
	"time"

	"github.com/sluicegate/sluice/proxy"
)

const (
	// maxBody bounds, in bytes, what a client may send with a request: every form and every
	// question is smaller, and says so by itself where it isn't.
	maxBody = 128 << 10
	// bodyPatience is how long a client may take to send it. The server has no such bound for
	// a whole request, since it would end responses that take long as well.
	bodyPatience = 15 * time.Second
)

// bounded has next find a request's body read: who sends one slowly, or without end, is cut
// off before anything waits for him.
func bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(bodyPatience)) // what has none can't be helped
		b, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		switch {
		case err != nil:
			w.Header().Set("Connection", "close")
			(&proxy.Error{Status: http.StatusRequestTimeout, Code: "UNSUPPORTED", Message: "the request's body did not come in time, or not whole"}).Write(w)
			return
		case len(b) > maxBody:
			w.Header().Set("Connection", "close")
			(&proxy.Error{Status: http.StatusRequestEntityTooLarge, Code: "UNSUPPORTED", Message: "the request's body is larger than 128 KiB; this gateway only serves pulls"}).Write(w)
			return
		}
		_ = rc.SetReadDeadline(time.Time{})
		r.Body = io.NopCloser(bytes.NewReader(b))
		next.ServeHTTP(w, r)
	})
}
