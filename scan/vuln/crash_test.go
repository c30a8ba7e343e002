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
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// When the first is set, the test binary is a process that updates or imports, and that
// a test kills or starves.
const (
	envRoot, envURL, envLimit = "VULN_TEST_ROOT", "VULN_TEST_URL", "VULN_TEST_LIMIT"
	envKill, envFile, envCA   = "VULN_TEST_KILL", "VULN_TEST_FILE", "VULN_TEST_CA"
)

func TestMain(m *testing.M) {
	if os.Getenv(envRoot) == "" {
		status := m.Run()
		if db, err := first(); err == nil {
			os.RemoveAll(db.Dir)
		}
		os.Exit(status)
	}
	if err := asChild(); err != nil {
		io.WriteString(os.Stderr, err.Error())
		os.Exit(1)
	}
}

func asChild() error {
	if os.Getenv(envLimit) != "" {
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: 64 << 10, Max: 64 << 10}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			return err
		}
	}
	d := &Databases{Root: os.Getenv(envRoot), URL: os.Getenv(envURL), CACert: os.Getenv(envCA)}
	d.step = func(step string) {
		if step == os.Getenv(envKill) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if file := os.Getenv(envFile); file != "" {
		_, err := d.Import(context.Background(), file)
		return err
	}
	_, _, err := d.Update(context.Background(), nil)
	return err
}

// child runs this test binary as another process that updates.
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

// kill -9 at each step of an update and of an import: what was active serves on, the
// leftovers go when the next process starts, and its update succeeds.
func TestKillAtEachStep(t *testing.T) {
	m := newMirror(t)
	good := m.publish(t, 48*time.Hour)
	next := m.publish(t, time.Hour)
	for _, by := range []string{"update", "import"} {
		for _, step := range []string{"listed", "fetched", "unpacked", "indexed", "placed", "activated"} {
			if by == "import" && (step == "listed" || step == "fetched") {
				continue
			}
			t.Run(by+"/"+step, func(t *testing.T) {
				d := &Databases{Root: t.TempDir(), URL: m.URL}
				_, err := d.Import(t.Context(), good.Dir)
				check(t, err)
				env := []string{envKill + "=" + step}
				if by == "import" {
					env = append(env, envFile+"="+m.archive(t))
				}
				c, said := child(t, d, env...)
				var exit *exec.ExitError
				if err := c.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the child was not killed: %v %s", err, said)
				}
				want := good
				if step == "activated" {
					want = next
				}
				after := &Databases{Root: d.Root, URL: m.URL}
				usable(t, after, want)
				if s := after.Status(t.Context()); s.Error != "" {
					t.Errorf("status %+v", s)
				}
				after.tidy(t.Context())
				leftovers(t, after)
				if builds, _ := filepath.Glob(filepath.Join(d.Root, buildPrefix+"*")); step != "activated" && len(builds) != 1 {
					t.Errorf("after a kill there are %v", builds)
				}
				_, _, err = after.Update(t.Context(), nil)
				check(t, err)
				usable(t, after, next)
				leftovers(t, after)
			})
		}
	}
}

// kill -9 at any moment, not only between steps.
func TestKillAtAnyTime(t *testing.T) {
	m := newMirror(t)
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	want := m.publish(t, 1000*time.Hour)
	d.MaxAge = 10_000 * time.Hour
	_, _, err := d.Update(t.Context(), nil)
	check(t, err)
	rounds := 12
	if underRace {
		rounds = 3
	}
	for i := range rounds {
		next := m.publish(t, time.Duration(900-i)*time.Hour)
		c, _ := child(t, d)
		time.Sleep(time.Duration(i) * 25 * time.Millisecond) // somewhere on its way: that is the point
		check(t, c.Process.Kill())
		c.Wait()
		after := &Databases{Root: d.Root, URL: m.URL, MaxAge: d.MaxAge}
		db, err := after.Current(t.Context())
		check(t, err)
		if !db.Built.Equal(want.Built) {
			want = next
		}
		usable(t, after, want)
	}
	_, _, err = d.Update(t.Context(), nil)
	check(t, err)
	d.now = func() time.Time { return time.Now().Add(time.Hour) }
	d.tidy(t.Context())
	leftovers(t, d)
	if builds, _ := filepath.Glob(filepath.Join(d.Root, buildPrefix+"*")); len(builds) > 2 {
		t.Errorf("after many kills there are %d builds", len(builds))
	}
}

// Several processes update at once: one downloads, all end with the same build.
func TestManyUpdateAtOnce(t *testing.T) {
	m := newMirror(t)
	want := m.publish(t, time.Hour)
	var archives atomic.Int32
	m.breaks(func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, ".json") {
				archives.Add(1)
			}
			h.ServeHTTP(w, r)
		})
	})
	d := &Databases{Root: t.TempDir(), URL: m.URL}
	var all []*exec.Cmd
	for range 4 {
		c, _ := child(t, d)
		all = append(all, c)
	}
	for _, c := range all {
		check(t, c.Wait())
	}
	usable(t, d, want)
	if n := archives.Load(); n != 1 {
		t.Errorf("the archive was downloaded %d times", n)
	}
	leftovers(t, d)
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
