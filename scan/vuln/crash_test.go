package vuln

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	envRoot, envURL, envLimit = "VULN_TEST_ROOT", "VULN_TEST_URL", "VULN_TEST_LIMIT"
)

func TestMain(m *testing.M) {
	if os.Getenv(envRoot) == "" {
		os.Exit(m.Run())
	}
	if os.Getenv(envLimit) != "" {
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			os.Exit(9)
		}
	}
	d := &Databases{Root: os.Getenv(envRoot), URL: os.Getenv(envURL)}
	if _, _, err := d.Update(context.Background(), nil); err != nil {
		io.WriteString(os.Stderr, err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

func child(t *testing.T, d *Databases, env ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), envRoot+"="+d.Root, envURL+"="+d.URL)
	c.Env = append(c.Env, env...)
	var out bytes.Buffer
	c.Stderr = &out
	check(t, c.Start())
	return c, &out
}

func TestKill(t *testing.T) {
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	next := m.publish(t, time.Hour)
	arrived, gone := make(chan struct{}), make(chan struct{})
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, ".json") {
				h.ServeHTTP(w, r)
				return
			}
			b, _ := os.ReadFile(filepath.Join(m.dir, r.URL.Path))
			w.Write(b[:len(b)/2])
			w.(http.Flusher).Flush()
			close(arrived)
			<-r.Context().Done()
			close(gone)
		})
	})
	c, _ := child(t, d)
	<-arrived
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	if _, _, err := d.Update(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("two updates at once: %v", err)
	}
	cancel()
	usable(t, d, good)
	check(t, c.Process.Kill())
	c.Wait()
	<-gone
	usable(t, &Databases{Root: d.Root}, good)
	if staged, _ := filepath.Glob(filepath.Join(d.Root, stagePrefix+"*")); len(staged) != 1 {
		t.Fatalf("%d directories left by the kill; the test needs one", len(staged))
	}
	m.heals()
	_, _, err = d.Update(t.Context(), nil)
	check(t, err)
	usable(t, d, next)
	leftovers(t, d)
}

func TestDiskFull(t *testing.T) {
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	m.publish(t, time.Hour)
	c, said := child(t, d, envLimit+"=1")
	if err := c.Wait(); err == nil || !strings.Contains(said.String(), "file too large") {
		t.Errorf("%v: %s", err, said)
	}
	usable(t, &Databases{Root: d.Root}, good)
	leftovers(t, d)
}
