package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

var (
	blobs   = proxytest.Request{Kind: proxytest.KindBlob, Method: http.MethodGet}.Matches
	storage = proxytest.Request{Kind: proxytest.KindStorage}.Matches
)

func TestBlob(t *testing.T) {
	s, r := start(t, guarded)
	for _, n := range []int{0, 1, 1000, 1 << 20} {
		want := content(n)
		desc := putBlob(s, want)
		body, err := r.Blob(t.Context(), repo, desc)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(body, want); err != nil {
			t.Errorf("blob of %d bytes: %v", n, err)
		}
		if err := body.Close(); err != nil {
			t.Error(err)
		}
	}
	want := content(5000)
	d := digest.SHA512.FromBytes(want)
	s.PutBlobAs(repo, d, want)
	if got, err := readBlob(t.Context(), r, ocispec.Descriptor{Digest: d, Size: 5000}); err != nil || !bytes.Equal(got, want) {
		t.Errorf("blob by sha512: %d bytes, %v", len(got), err)
	}
	if leaks := s.Leaks(); len(leaks) > 0 {
		t.Errorf("credentials were sent to the blob host: %+v", leaks)
	}
}

func TestBlobResumesAfterCuts(t *testing.T) {
	want := content(1 << 20)
	random := rand.New(rand.NewPCG(1, 2))
	for _, o := range []proxytest.Origin{{}, guarded, {TLS: true, BlobRedirect: true}} {
		s, r := start(t, o)
		desc := putBlob(s, want)
		match := blobs
		if o.BlobRedirect {
			match = storage
		}
		var cuts atomic.Int32
		s.Inject(0, match, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
			if cuts.Add(1) > 20 {
				next.ServeHTTP(w, q)
				return
			}
			proxytest.Truncate(random.Int64N(100<<10))(w, q, next)
		})
		got, err := readBlob(t.Context(), r, desc)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		_, sent := s.Served(desc.Digest)
		if sent > int64(len(want))*5/4 {
			t.Errorf("%d bytes were sent for a blob of %d: it was begun anew, not resumed", sent, len(want))
		}
		if cuts.Load() < 10 {
			t.Errorf("only %d cuts", cuts.Load())
		}
	}
}

func TestBlobResumesAfter(t *testing.T) {
	want := content(256 << 10)
	for _, tt := range []struct {
		what  string
		fault func(*proxytest.Server) // breaks the second answer
		times int
	}{
		{"a reset", func(s *proxytest.Server) { s.Inject(1, blobs, proxytest.Reset(100000)) }, 1},
		{"a 503", func(s *proxytest.Server) { s.Inject(2, blobs, proxytest.Status(503, "UNAVAILABLE")) }, 2},
		{"429 that says when", func(s *proxytest.Server) {
			s.Inject(1, blobs, proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "1"))
		}, 1},
		{"a revoked token", func(s *proxytest.Server) { s.RevokeTokens() }, 1},
		{"a Range that is ignored", func(s *proxytest.Server) {
			s.Inject(1, blobs, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				q.Header.Del("Range")
				next.ServeHTTP(w, q)
			})
		}, 1},
		{"another range", func(s *proxytest.Server) {
			s.Inject(1, blobs, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				q.Header.Set("Range", "bytes=5-")
				next.ServeHTTP(w, q)
			})
		}, 1},
		{"a shorter range", func(s *proxytest.Server) {
			s.Inject(1, blobs, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				q.Header.Set("Range", q.Header.Get("Range")+"200000")
				next.ServeHTTP(w, q)
			})
		}, 1},
	} {
		t.Run(tt.what, func(t *testing.T) {
			t.Parallel()
			o := guarded
			o.BlobRedirect = false
			s, r := start(t, o)
			desc := putBlob(s, want)
			s.Inject(1, blobs, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				next.ServeHTTP(w, q) // 401
			})
			s.Inject(1, blobs, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
				defer tt.fault(s)
				proxytest.Truncate(70000)(w, q, next)
			})
			begin := time.Now()
			got, err := readBlob(t.Context(), r, desc)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if strings.HasPrefix(tt.what, "429") && time.Since(begin) < time.Second {
				t.Error("Retry-After was not obeyed")
			}
		})
	}
}

func TestBlobResumesAfterStall(t *testing.T) {
	for _, o := range []proxytest.Origin{{}, {TLS: true}} {
		s, r := start(t, o)
		r.IdleTimeout = 100 * time.Millisecond
		want := content(200 << 10)
		desc := putBlob(s, want)
		s.Inject(2, blobs, s.Stall(50000, nil))
		got, err := readBlob(t.Context(), r, desc)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
		if n := s.Count(proxytest.Request{Kind: proxytest.KindBlob}); n != 3 {
			t.Errorf("%d requests, want 3", n)
		}
	}
}

// A slow consumer is no stall: the idle timeout runs only while a Read waits.
func TestBlobSlowConsumer(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	r.IdleTimeout = 500 * time.Millisecond
	desc := putBlob(s, content(4<<20))
	body, err := r.Blob(t.Context(), repo, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.CopyN(io.Discard, body, 1000); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1200 * time.Millisecond) // the consumer is busy with something else
	if _, err := io.Copy(io.Discard, body); err != nil {
		t.Fatal(err)
	}
	if n := s.Count(proxytest.Request{Kind: proxytest.KindBlob}); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestBlobFails(t *testing.T) {
	want := content(100_000)
	chunked := proxytest.SetHeader("Content-Length", "")
	for _, tt := range []struct {
		what    string
		put     []byte // what the registry has under the digest of want
		fault   proxytest.Fault
		message string
		content bool
	}{
		{"a byte turned", nil, proxytest.Corrupt(5), "its digest is sha256:", true},
		{"the last byte turned", nil, proxytest.Corrupt(99_999), "its digest is sha256:", true},
		{"short", want[:99_999], nil, "99999 bytes long, not 100000", true},
		{"long", append(bytes.Clone(want), 0), nil, "100001 bytes long, not 100000", true},
		{"short without a length", want[:99_999], chunked, "ends before byte 99999 of 100000", true},
		{"long without a length", append(bytes.Clone(want), 0), chunked, "longer than its 100000 bytes", true},
		{"cut at the same byte for ever", nil, proxytest.Truncate(10), "broken off again and again, the last time at byte", false},
		{"gone in between", nil, nil, "", false},
		{"404", nil, proxytest.Status(404, "BLOB_UNKNOWN"), "404 BLOB_UNKNOWN", false},
		{"429 for an hour", nil, proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "3600"), "429 TOOMANYREQUESTS", false},
		{"a login page", nil, proxytest.Body("text/html", []byte("<html>")), "6 bytes long", true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s, r := start(t, proxytest.Origin{})
			desc := putBlob(s, want)
			if tt.put != nil {
				s.PutBlobAs(repo, desc.Digest, tt.put)
			}
			if tt.fault != nil {
				s.Inject(0, blobs, tt.fault)
			}
			if tt.what == "gone in between" {
				s.Inject(1, blobs, func(w http.ResponseWriter, q *http.Request, next http.Handler) {
					s.Inject(0, blobs, proxytest.Status(404, "BLOB_UNKNOWN"))
					proxytest.Truncate(70000)(w, q, next)
				})
				tt.message = "404 BLOB_UNKNOWN"
			}
			got, err := readBlob(t.Context(), r, desc)
			if err == nil || !strings.Contains(err.Error(), tt.message) || errors.Is(err, ErrContent) != tt.content {
				t.Fatalf("got %v, want %q", err, tt.message)
			}
			if len(got) == len(want) && tt.what != "long without a length" {
				t.Error("all bytes were handed out")
			}
			if NotFound(err) != strings.Contains(tt.message, "404") {
				t.Errorf("NotFound of %v is %t", err, NotFound(err))
			}
		})
	}
	_, r := start(t, proxytest.Origin{})
	for _, desc := range []ocispec.Descriptor{{Digest: "sha256:00", Size: 1}, {Digest: digest.FromString(""), Size: -1}, {Size: 1}} {
		if _, err := r.Blob(t.Context(), repo, desc); err == nil {
			t.Errorf("%+v was accepted", desc)
		}
	}
}

// The storage refuses with a signature that has run out: the registry is asked for
// another one.
func TestBlobExpiredSignature(t *testing.T) {
	s, r := start(t, guarded)
	want := content(200_000)
	desc := putBlob(s, want)
	s.Inject(1, storage, proxytest.Truncate(100_000))
	s.Inject(2, storage, proxytest.Status(403, "DENIED"))
	got, err := readBlob(t.Context(), r, desc)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	s.Inject(0, storage, proxytest.Status(403, "DENIED"))
	if _, err = readBlob(t.Context(), r, desc); err == nil || Denied(err) || NotFound(err) || !Unavailable(err) {
		t.Errorf("a storage that refuses: %v", err)
	}
}

func TestBlobClose(t *testing.T) {
	s, r := start(t, proxytest.Origin{})
	desc := putBlob(s, content(100_000))
	s.Inject(0, blobs, s.Stall(50_000, nil))
	for _, end := range []string{"Close", "cancel"} {
		ctx, cancel := context.WithCancel(t.Context())
		body, err := r.Blob(ctx, repo, desc)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, body, 50_000); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { _, err := body.Read(make([]byte, 1)); done <- err }()
		if end == "Close" {
			body.Close()
		} else {
			cancel()
		}
		if err := <-done; !errors.Is(err, context.Canceled) || Unavailable(err) {
			t.Errorf("%s: a Read that waited got %v", end, err)
		}
		body.Close()
		cancel()
	}
}

func TestBlobPropertyAnyFaults(t *testing.T) {
	want := content(300_000)
	for seed := range uint64(15) {
		random := rand.New(rand.NewPCG(seed, 1))
		s, r := start(t, guarded)
		r.IdleTimeout, r.HeaderTimeout = 50*time.Millisecond, 300*time.Millisecond
		desc := putBlob(s, want)
		faults := []proxytest.Fault{
			proxytest.Truncate(random.Int64N(300_000)), s.Stall(random.Int64N(300_000), nil), proxytest.Reset(random.Int64N(300_000)),
			proxytest.Corrupt(random.Int64N(300_000)), proxytest.Status(503, ""), proxytest.Status(403, ""), proxytest.Lengthen(1), proxytest.Lengthen(-1),
			proxytest.SetHeader("Content-Range", "bytes 0-1/2"), proxytest.SetHeader("Content-Length", ""), proxytest.Redirect(""),
		}
		for range 4 {
			s.Inject(1+random.IntN(2), []func(proxytest.Request) bool{blobs, storage}[random.IntN(2)], faults[random.IntN(len(faults))])
		}
		got, err := readBlob(t.Context(), r, desc)
		if err == nil && !bytes.Equal(got, want) || err != nil && len(got) >= len(want) {
			t.Errorf("seed %d: %d bytes and %v: neither the blob nor an error", seed, len(got), err)
		}
	}
}

func BenchmarkBlob(b *testing.B) {
	s, err := proxytest.Start(proxytest.Origin{TLS: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r := &Registry{Name: "x", URL: s.URL(), RootCAs: s.Certificates()}
	desc := ocispec.Descriptor{Digest: s.PutBlob(repo, content(32<<20)), Size: 32 << 20}
	buf := make([]byte, 256<<10)
	b.SetBytes(desc.Size)
	for b.Loop() {
		body, err := r.Blob(b.Context(), repo, desc)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, buf); err != nil || n != desc.Size {
			b.Fatal(strconv.FormatInt(n, 10), err)
		}
		body.Close()
	}
}
