package main

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestBounded sends bodies: whole ones arrive, one without end and one that stops are cut off,
// and a response that takes longer than a body may is not.
func TestBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(bounded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/slow" {
			time.Sleep(300 * time.Millisecond)
			if r.Context().Err() != nil {
				t.Error("the request was ended while it was served")
			}
		}
		w.Write([]byte(strings.ToUpper(string(b))))
	})), slog.New(slog.DiscardHandler))
	go s.Serve(l)
	defer s.Close()
	for _, test := range []struct {
		name, head, body string
		want             string
	}{
		{"whole", "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "abc", "200 OK"},
		{"in pieces", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "200 OK"},
		{"endless", "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("10000\r\n"+strings.Repeat("x", 1<<16)+"\r\n", 3), "413 Request Entity Too Large"},
		{"none", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", "200 OK"},
	} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(conn, test.head+test.body)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(line, test.want) {
			t.Errorf("%s: %q, %v, want %s", test.name, line, err, test.want)
		}
		conn.Close()
	}
	if testing.Short() {
		return
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc") // and no more
	conn.SetReadDeadline(start.Add(2 * bodyPatience))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "408") {
		t.Errorf("one that stops: %q, %v", line, err)
	}
	if took := time.Since(start); took < bodyPatience || took > bodyPatience+5*time.Second {
		t.Errorf("it was cut off after %s", took)
	}
}
