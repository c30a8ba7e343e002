package objects

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// A server is versitygw, which speaks S3 over a folder.
type server struct {
	addr, dir string
	cmd       *exec.Cmd
}

func startServer(t *testing.T) *server {
	t.Helper()
	program, err := exec.LookPath("versitygw")
	if err != nil {
		if program, err = filepath.Abs(filepath.Join("..", "..", "bin", "tools", "versitygw")); err == nil {
			_, err = os.Stat(program)
		}
	}
	if err != nil {
		t.Skip("no versitygw in PATH or bin/tools: make e2e installs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: l.Addr().String(), dir: t.TempDir()}
	l.Close()
	if err := os.Mkdir(filepath.Join(s.dir, "blobs"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.run(t, program)
	return s
}

func (s *server) run(t *testing.T, program string) {
	t.Helper()
	s.cmd = exec.Command(program, "--port", s.addr, "--access", "key", "--secret", "secret-of-key", "--quiet", "posix", "--sidecar", t.TempDir(), s.dir)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() })
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("versitygw does not listen")
		}
	}
}

func open(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRealServer(t *testing.T) {
	server := startServer(t)
	c := Config{URL: "http://" + server.addr + "/blobs/some/prefix", Region: "us-east-1", AccessKey: "key", SecretKey: "secret-of-key"}
	s := open(t, c)
	ctx := t.Context()
	if err := s.Ping(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "sha256/ab.5/0", 5); !errors.Is(err, cache.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	object := make([]byte, 8<<20)
	rand.Read(object)
	for range 2 { // the second time it is there
		if err := s.Put(ctx, "sha256/ab.5/0", object); err != nil {
			t.Fatal(err)
		}
	}
	r, err := open(t, c).Get(ctx, "sha256/ab.5/0", int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, object) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	r.Close()
	if _, err := s.Get(ctx, "sha256/ab.5/0", 5); !errors.Is(err, cache.ErrNotExist) {
		t.Errorf("one of another size: %v", err)
	}
	r, err = s.Get(ctx, "sha256/ab.5/0", int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	got, err = io.ReadAll(io.LimitReader(r, 5))
	if r.Close(); err != nil || !bytes.Equal(got, object[:5]) {
		t.Errorf("its beginning: %x, %v, and it is\n%x", got, err, object[:5])
	}
	for range 2 {
		if err := s.Delete(ctx, "sha256/ab.5/0"); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Get(ctx, "sha256/ab.5/0", int64(len(object))); !errors.Is(err, cache.ErrNotExist) {
		t.Errorf("what was deleted: %v", err)
	}
	if _, down := s.State(); down != nil {
		t.Errorf("none of this is a fault of the store: %v", down)
	}
	for name, change := range map[string]func(*Config){
		"wrong secret": func(c *Config) { c.SecretKey = "not-the-secret" },
		"no bucket":    func(c *Config) { c.URL = "http://" + server.addr + "/none" },
	} {
		wrong := c
		change(&wrong)
		s := open(t, wrong)
		_, err := s.Get(ctx, "sha256/ab.5/0", 5)
		if ping := s.Ping(ctx); !errors.Is(err, cache.ErrDown) || !errors.Is(ping, cache.ErrDown) || strings.Contains(ping.Error(), wrong.SecretKey) {
			t.Errorf("%s: %v, %v", name, err, ping)
		}
	}
}

// What has rotted in the bucket is noticed before any byte of its frame is given, and is
// taken away; what was cut, or is there as nobody here wrote it, is as if it were not there.
func TestRotten(t *testing.T) {
	server := startServer(t)
	s := open(t, Config{URL: "http://" + server.addr + "/blobs", Region: "us-east-1", AccessKey: "key", SecretKey: "secret-of-key"})
	ctx := t.Context()
	object := make([]byte, 3*frameSize+100)
	rand.Read(object)
	file := filepath.Join(server.dir, "blobs", "x")
	for name, test := range map[string]struct {
		at   int64 // of the flipped byte in the bucket
		want int   // bytes that can be read
	}{
		"first byte": {0, 0}, "first frame": {frameSize - 1, 0}, "a sum": {frameSize + sumSize - 1, 0},
		"second frame": {frameSize + sumSize, frameSize}, "last byte": {framedSize(int64(len(object))) - 1, 3 * frameSize},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Put(ctx, "x", object); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b[test.at] ^= 1
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := s.Get(ctx, "x", int64(len(object)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if !errors.Is(err, cache.ErrDamaged) || !bytes.Equal(got, object[:test.want]) {
				t.Errorf("%d bytes, %v; want the first %d and that it was damaged", len(got), err, test.want)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if _, err := s.Get(ctx, "x", int64(len(object))); !errors.Is(err, cache.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
			if _, down := s.State(); down != nil {
				t.Errorf("that is no fault of the store: %v", down)
			}
		})
	}
	if err := os.WriteFile(file, object, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(ctx, "x", int64(len(object))); !errors.Is(err, cache.ErrNotExist) {
		t.Errorf("without sums: %v", err)
	}
}

// A store that has gone is said to be so once, left alone, and used again when it is back.
func TestGone(t *testing.T) {
	server := startServer(t)
	var log bytes.Buffer
	s := open(t, Config{URL: "http://" + server.addr + "/blobs", Region: "us-east-1", AccessKey: "key", SecretKey: "secret-of-key", Log: slog.New(slog.NewTextHandler(&log, nil))})
	_ = server.cmd.Process.Kill()
	_ = server.cmd.Wait()
	for range 100 {
		if _, err := s.Get(t.Context(), "x", 1); !errors.Is(err, cache.ErrDown) {
			t.Fatal(err)
		}
	}
	server.run(t, server.cmd.Path)
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if err := s.Put(t.Context(), "x", []byte("1")); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if _, down := s.State(); down != nil || strings.Count(log.String(), "can't be used") != 1 || strings.Count(log.String(), "can be used again") != 1 {
		t.Errorf("%v, the log:\n%s", down, &log)
	}
}

// A store that takes a connection and says nothing costs a client a moment, once.
func TestSilent(t *testing.T) {
	block := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-block:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(block)
	s := open(t, Config{URL: srv.URL + "/blobs", Region: "us-east-1", AccessKey: "key", SecretKey: "secret-of-key"})
	began := time.Now()
	for range 10 {
		if _, err := s.Get(t.Context(), "x", 1); !errors.Is(err, cache.ErrDown) {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > 3*headTimeout {
		t.Errorf("ten questions took %s", took)
	}
}

// A caller that has gone says nothing of the store.
func TestCallerGone(t *testing.T) {
	server := startServer(t)
	s := open(t, Config{URL: "http://" + server.addr + "/blobs", Region: "us-east-1", AccessKey: "key", SecretKey: "secret-of-key"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, "x", 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, down := s.State(); down != nil {
		t.Error(down)
	}
}

func TestBadPlace(t *testing.T) {
	for url, want := range map[string]string{"": "must be https", "s3://b/p": "must be https", "https://host": "names no bucket", "https://host/": "names no bucket"} {
		if _, err := Open(Config{URL: url}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
	if _, err := Open(Config{URL: "https://host/b", CAFile: "none.pem"}); err == nil {
		t.Error("a CA file that isn't there is accepted")
	}
}
