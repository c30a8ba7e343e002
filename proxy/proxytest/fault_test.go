package proxytest_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

func TestFaults(t *testing.T) {
	data := noise(200_000)
	tests := []struct {
		name  string
		fault func(*proxytest.Server) proxytest.Fault
		check func(answer) bool
	}{
		{"truncate", func(*proxytest.Server) proxytest.Fault { return proxytest.Truncate(70_000) },
			func(a answer) bool { return errors.Is(a.err, io.ErrUnexpectedEOF) && len(a.body) == 70_000 }},
		{"truncate at once", func(*proxytest.Server) proxytest.Fault { return proxytest.Truncate(0) },
			func(a answer) bool {
				return a.status == 200 && errors.Is(a.err, io.ErrUnexpectedEOF) && len(a.body) == 0
			}},
		{"reset", func(*proxytest.Server) proxytest.Fault { return proxytest.Reset(70_000) },
			func(a answer) bool { return errors.Is(a.err, syscall.ECONNRESET) && len(a.body) <= 70_000 }},
		{"corrupt", func(*proxytest.Server) proxytest.Fault { return proxytest.Corrupt(123_456) },
			func(a answer) bool {
				return a.err == nil && len(a.body) == len(data) && a.body[123_456] == ^data[123_456] && a.body[0] == data[0]
			}},
		{"longer", func(*proxytest.Server) proxytest.Fault { return proxytest.Lengthen(10) },
			func(a answer) bool {
				return errors.Is(a.err, io.ErrUnexpectedEOF) && a.header.Get("Content-Length") == "200010"
			}},
		{"shorter", func(*proxytest.Server) proxytest.Fault { return proxytest.Lengthen(-10) },
			func(a answer) bool { return len(a.body) == len(data)-10 && a.header.Get("Content-Length") == "199990" }},
		{"status", func(*proxytest.Server) proxytest.Fault {
			return proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "7")
		},
			func(a answer) bool {
				return a.status == 429 && a.header.Get("Retry-After") == "7" && a.code() == "TOOMANYREQUESTS"
			}},
		{"evil realm", func(*proxytest.Server) proxytest.Fault {
			return proxytest.Challenge("https://evil.example.com/token")
		},
			func(a answer) bool {
				return a.status == 401 && strings.Contains(a.header.Get("WWW-Authenticate"), `realm="https://evil.example.com/token"`)
			}},
		{"redirect loop", func(*proxytest.Server) proxytest.Fault { return proxytest.Redirect("") },
			func(a answer) bool {
				return a.status == 307 && strings.HasPrefix(a.header.Get("Location"), "/v2/a/b/blobs/")
			}},
		{"header", func(*proxytest.Server) proxytest.Fault {
			return proxytest.SetHeader("Docker-Content-Digest", "sha256:0")
		},
			func(a answer) bool { return a.header.Get("Docker-Content-Digest") == "sha256:0" && a.err == nil }},
		{"body", func(*proxytest.Server) proxytest.Fault { return proxytest.Body("text/html", []byte("<p>log in</p>")) },
			func(a answer) bool { return a.header.Get("Content-Type") == "text/html" && len(a.body) == 13 }},
		{"raw", func(*proxytest.Server) proxytest.Fault {
			return proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", false)
		},
			func(a answer) bool { return errors.Is(a.err, io.ErrUnexpectedEOF) && string(a.body) == "ab" }},
		{"raw, reset", func(*proxytest.Server) proxytest.Fault {
			return proxytest.Raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", true)
		},
			func(a answer) bool { return errors.Is(a.err, syscall.ECONNRESET) }},
		{"change", func(*proxytest.Server) proxytest.Fault {
			return proxytest.Change(func(b []byte) []byte { return append(b[:10:10], "and so on"...) })
		},
			func(a answer) bool {
				return a.err == nil && a.status == 200 && string(a.body) == string(data[:10])+"and so on" && a.header.Get("ETag") != ""
			}},
		{"drip", func(s *proxytest.Server) proxytest.Fault { return s.Drip(50_000, time.Millisecond) },
			func(a answer) bool { return a.err == nil && bytes.Equal(a.body, data) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, proxytest.Origin{})
			d := s.PutBlob("a/b", data)
			c := newClient(t, s)
			url := s.URL() + "/v2/a/b/blobs/" + d.String()
			s.Inject(1, proxytest.Request{Kind: proxytest.KindBlob, Reference: d.String()}.Matches, tt.fault(s))
			if a := c.get(s.URL() + "/v2/"); a.status != 200 {
				t.Errorf("another request: %d", a.status)
			}
			if a := c.get(url); !tt.check(a) {
				t.Errorf("%d, %d bytes, %v, %v", a.status, len(a.body), a.err, a.header)
			}
			if a := c.get(url); a.err != nil || !bytes.Equal(a.body, data) {
				t.Errorf("once more: %d, %d bytes, %v", a.status, len(a.body), a.err)
			}
		})
	}
}

func TestFaultsLastUntilRemoved(t *testing.T) {
	s := start(t, proxytest.Origin{})
	c := newClient(t, s)
	remove := s.Inject(0, nil, proxytest.Status(503, "UNAVAILABLE"))
	for range 3 {
		if a := c.get(s.URL() + "/v2/"); a.status != 503 {
			t.Errorf("%d, want 503", a.status)
		}
	}
	remove()
	if a := c.get(s.URL() + "/v2/"); a.status != 200 {
		t.Errorf("%d after the fault was removed", a.status)
	}
}

func TestStall(t *testing.T) {
	s := start(t, proxytest.Origin{})
	data := noise(100_000)
	d := s.PutBlob("a/b", data)
	release := make(chan struct{})
	s.Inject(1, nil, s.Stall(60_000, release))
	r, err := http.Get(s.URL() + "/v2/a/b/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	head := make([]byte, 60_000)
	if _, err := io.ReadFull(r.Body, head); err != nil {
		t.Fatal(err)
	}
	close(release)
	tail, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Equal(append(head, tail...), data) {
		t.Errorf("%d bytes behind the stall, %v", len(tail), err)
	}
}

// A stall without an end ends with the server.
func TestCloseEndsStalls(t *testing.T) {
	s := start(t, proxytest.Origin{})
	d := s.PutBlob("a/b", noise(100_000))
	s.Inject(0, nil, s.Stall(10, nil))
	r, err := http.Get(s.URL() + "/v2/a/b/blobs/" + d.String())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(r.Body); err == nil {
		t.Error("a body that stalled came to a good end")
	}
}
