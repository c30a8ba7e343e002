package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// TestDatabaseScripts runs the stories of the database's life.
func TestDatabaseScripts(t *testing.T) {
	s := newScene(t)
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/database",
		Setup: s.setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ready":   awaitReady,
			"get":     getURL,
			"until":   until,
			"publish": s.publish,
			"served":  served,
			"status":  exitStatus,
		},
	})
}

// `sluice db update` beside one that is under way says whom it waits for, and goes on when
// that is done.
func TestUpdateBesideAnother(t *testing.T) {
	s := newScene(t)
	c := configs.Default()
	c.StateDir = t.TempDir()
	t.Setenv("SLUICE_CONFIG", "")
	t.Setenv(configs.EnvDatabaseURL, s.mirror)
	if err := os.Mkdir(filepath.Join(c.StateDir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(c.StateDir, "db", "update.lock"))
	if err == nil {
		err = errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_EX), json.NewEncoder(lock).Encode(map[string]any{"pid": 4711, "since": time.Now()}))
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := dbCommand(&global{state: c.StateDir})
	var out, said bytes.Buffer
	cmd.SetArgs([]string{"update"})
	cmd.SetOut(&out)
	cmd.SetErr(writerFunc(func(b []byte) (int, error) {
		lock.Close() // the other one is done
		return said.Write(b)
	}))
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := said.String(); !strings.Contains(got, "another update is under way (process 4711, since 20") || !strings.Contains(got, "10m0s at most") {
		t.Errorf("said %q", got)
	}
	if !strings.Contains(out.String(), "updated, usable") {
		t.Errorf("%s", out.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// publish puts a build of the age given on a mirror of the script's own, OWN_MIRROR, as
// the newest, and the archive of it into a file.
func (s *scene) publish(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: publish AGE FILE")
	}
	age, err := time.ParseDuration(args[0])
	ts.Check(err)
	dir, err := os.MkdirTemp(ts.MkAbs("."), "build")
	ts.Check(err)
	db, err := sampledb.Copy(s.database, filepath.Join(dir, "db"), time.Now().Add(-age))
	ts.Check(err)
	mirror := ts.MkAbs("mirror")
	ts.Check(os.RemoveAll(mirror))
	ts.Check(sampledb.Archive(mirror, db))
	all, err := filepath.Glob(filepath.Join(mirror, "v6", "*.tar.gz"))
	ts.Check(err)
	b, err := os.ReadFile(all[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o600))
	if ts.Getenv("OWN_MIRROR") == "" {
		url, stop := serveMirror(ts, mirror)
		ts.Setenv("OWN_MIRROR", url)
		ts.Defer(stop)
	}
}

// serveMirror serves a mirror that wants a password where its path begins with /private.
func serveMirror(ts *testscript.TestScript, dir string) (url string, stop func()) {
	addr, err := freeAddr()
	ts.Check(err)
	files := sampledb.Handler(dir)
	srv := &http.Server{Addr: addr, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path, private := strings.CutPrefix(r.URL.Path, "/private"); private {
			if _, password, _ := r.BasicAuth(); password != "hunter2" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			r.URL.Path = path
		}
		files.ServeHTTP(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ListenAndServe() }()
	return "http://" + addr, func() { srv.Close(); <-done }
}

// served waits until the gateway's metrics hold a line that begins with the text given.
func served(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: served LINE")
	}
	var b strings.Builder
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		b.Reset()
		resp, err := http.Get("http://" + ts.Getenv("ADMIN") + "/metrics")
		if err != nil {
			continue
		}
		resp.Write(&b)
		resp.Body.Close()
		if strings.Contains(b.String(), "\n"+args[0]) {
			return
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "sluice_database") {
			ts.Logf("%s", line)
		}
	}
	ts.Fatalf("no metric %s", args[0])
}

// exitStatus runs a command that ends with the status given.
func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: status N command")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(fmt.Sprint(err), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("%v: exit status %s, want %s", args[1:], got, args[0])
	}
}
