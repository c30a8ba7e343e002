package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// workersOf returns the processes that this one has started as workers.
func workersOf(t *testing.T) (pids []int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(lists) == 0 {
		t.Skip("/proc doesn't say which processes were started")
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // threads end
		for _, s := range strings.Fields(string(b)) {
			if cmd, _ := os.ReadFile("/proc/" + s + "/cmdline"); strings.Contains(string(cmd), "\x00worker") {
				pid, _ := strconv.Atoi(s)
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// openUnder returns what a process has open in a folder.
func openUnder(pid int, dir string) (open []string) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, l := range links {
		if name, err := os.Readlink(l); err == nil && strings.HasPrefix(name, dir) {
			open = append(open, name)
		}
	}
	return open
}

// asked is what /api/v1/verdict says, as far as this test looks at it.
type asked struct {
	Scan struct {
		State, Cause, Detail string
		Database             struct{ Checksum string }
	}
	Findings []struct{ ID string }
	Decision struct{ Allow bool }
}

func (a asked) finds(id string) bool {
	for _, f := range a.Findings {
		if f.ID == id {
			return true
		}
	}
	return false
}

// While a gateway answers without pause, build after build of the database is imported,
// and now and then a worker is killed. No answer mixes two builds or lacks what its build
// knows, none fails but for the kills, and what was in use is let go.
func TestSwapUnderLoad(t *testing.T) {
	s := newScene(t)
	c := s.config(t, 2)
	addr := c.Listen
	folder := filepath.Join(c.StateDir, "db")

	swaps := 12
	if raceDetector { // each takes ten times as long
		swaps = 6
	}
	const exploited = "CVE-2021-44228"
	other := openDatabases(c, nil) // as `sluice db import` beside the gateway
	knows := map[string]bool{}     // by checksum: whether the build has it
	bring := func(i int) {
		t.Helper()
		without := ""
		if i%2 == 1 {
			without = "org.apache.logging.log4j:log4j-core"
		}
		db := s.bring(t, other, time.Now().Add(time.Duration(i-swaps)*time.Minute), without)
		knows[db.Checksum] = i%2 == 0
	}
	bring(0)

	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, c, source{}) }()
	defer func() { stop(); <-served }()
	ask := func() (a asked, err error) {
		resp, err := http.Get("http://" + addr + "/api/v1/verdict?image=" + url.QueryEscape("acme/orders:1"))
		if err != nil {
			return a, err
		}
		defer resp.Body.Close()
		return a, json.NewDecoder(resp.Body).Decode(&a)
	}
	var first asked
	for deadline := time.Now().Add(time.Minute); first.Scan.State != "complete"; {
		_, _ = pullImage(t.Context(), addr+"/acme/orders:1", nil) // is denied, and scanned
		var err error
		if first, err = ask(); time.Now().After(deadline) {
			t.Fatalf("%v, %+v", err, first)
		}
		time.Sleep(100 * time.Millisecond)
	}

	var answers atomic.Int64
	var mu sync.Mutex
	got := map[outcome]int{}
	var readers sync.WaitGroup
	loading, enough := context.WithCancel(t.Context())
	for range 4 {
		readers.Go(func() {
			for loading.Err() == nil {
				a, err := ask()
				if err != nil {
					t.Error(err)
					return
				}
				answers.Add(1)
				mu.Lock()
				got[outcome{a.Scan.State, a.Scan.Database.Checksum, a.finds(exploited), a.Decision.Allow, a.Scan.Detail}]++
				mu.Unlock()
			}
		})
	}
	kills := 0
	for i := 1; i < swaps; i++ {
		bring(i)
		if pids := workersOf(t); i%4 == 0 && len(pids) > 0 {
			kills++
			syscall.Kill(pids[0], syscall.SIGKILL)
		}
		for from, deadline := answers.Load(), time.Now().Add(20*time.Second); answers.Load() < from+8 && time.Now().Before(deadline); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	enough()
	readers.Wait()

	failed, builds := 0, map[string]bool{}
	for a, n := range got {
		has, known := knows[a.checksum]
		switch {
		case a.state == "pending" && !a.allow: // a slow machine is still at it
		case a.state == "failed" && !a.allow && strings.Contains(a.detail, "worker"):
			failed++
		case a.state != "complete" || !known || a.found != has || a.allow == has:
			t.Errorf("%d answers %+v; that build has it: %v", n, a, has)
		default:
			builds[a.checksum] = true
		}
	}
	t.Logf("%d answers from %d of %d builds, %d workers killed, %d ways of failing by that", answers.Load(), len(builds), swaps, kills, failed)
	if len(builds) < swaps/2 || failed > 2*kills {
		t.Errorf("%d builds seen, %d ways of failing", len(builds), failed)
	}

	// Old enough to go, all go but the active one, the one before, and what is open.
	past := time.Now().Add(-time.Hour)
	markers, _ := filepath.Glob(filepath.Join(folder, "*", "retired"))
	for _, m := range markers {
		if err := os.Chtimes(m, past, past); err != nil {
			t.Fatal(err)
		}
	}
	bring(swaps)
	all, _ := filepath.Glob(filepath.Join(folder, "xxh64-*"))
	held := map[string]bool{}
	for _, pid := range workersOf(t) {
		for _, name := range openUnder(pid, folder) {
			if strings.HasSuffix(name, "(deleted)") {
				t.Errorf("worker %d has %s open", pid, name)
			}
			held[strings.SplitN(strings.TrimPrefix(name, folder+"/"), "/", 2)[0]] = true
		}
	}
	if len(all) > 2+len(held) || len(held) > 2 {
		t.Errorf("%d builds on disk, %d of them in use by 2 workers", len(all), len(held))
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	served <- nil
	if open := openUnder(os.Getpid(), folder); len(open) > 0 {
		t.Errorf("the gateway still has open: %v", open)
	}
	bring(swaps + 1)
	if all, _ := filepath.Glob(filepath.Join(folder, "xxh64-*")); len(all) > 3 { // one ceased to be active just now
		t.Errorf("%d builds are left on disk", len(all))
	}
}

// An outcome is an answer without what differs each time.
type outcome struct {
	state, checksum string
	found, allow    bool
	detail          string
}
