package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
	"github.com/sluicegate/sluice/scan/hostile"
	"github.com/sluicegate/sluice/scan/vuln/sampledb"
)

// What a hostile image may take of the machine.
const (
	hostileDeadline = 10 * time.Second // of a catalogue
	hostileMemory   = 1 << 30          // what a worker should not use more of: at twice that it gets no more, and ends
	hostileTime     = 60 * time.Second // for all of it: the deadline, a new worker, a slow machine
	hostileGateway  = 200 << 20        // bytes that the gateway's process grows by
)

// TestHostileImages: guard, catalogue and match in a worker process, and the default
// policy, on every image that means harm. Each ends in bounded time and memory with a
// verdict that says what happened, none of them passes, the gateway is as before, and
// what runtimes read in one way is read like them.
func TestHostileImages(t *testing.T) {
	if raceDetector {
		t.Skip("takes minutes with the race detector: make hostile runs it without")
	}
	h := hostileHouse(t)
	for _, c := range hostile.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			img := c.Build()
			debug.FreeOSMemory()
			before := memory(t, os.Getpid(), "VmRSS")
			resetPeaks(t)
			old := children(t)
			begin := time.Now()
			v, d := judge(t, h, img)
			took := time.Since(begin)
			gateway := memory(t, os.Getpid(), "VmHWM") - before
			t.Logf("%s in %v, worker %d MiB, gateway +%d MiB: %s %v", v.Scan.State, took.Round(time.Millisecond), peak(t)>>20, gateway>>20, v.Scan.Detail, v.Scan.Coverage.Problems)
			hold(t, c, v, d)
			if took > hostileTime || gateway > hostileGateway || peak(t) > 3*hostileMemory {
				t.Error("that is too much")
			}
			if !strings.Contains(v.Scan.Detail, "longer than it may") {
				old = nil
			}
			settle(t, h, old)
		})
	}
}

// hold holds a verdict and its decision against what is right for a case.
func hold(t *testing.T, c hostile.Case, v *scan.Verdict, d policy.Decision) {
	t.Helper()
	text := v.Scan.Detail
	for _, p := range v.Scan.Coverage.Problems {
		text += "\n" + p.Kind + " " + p.Path + " " + p.Detail
	}
	if !slices.Contains(c.Want, string(v.Scan.State)) || !strings.Contains(text, c.Says) {
		t.Errorf("it is %s: %s\nwant %v with %q", v.Scan.State, text, c.Want, c.Says)
	}
	if v.Scan.State != scan.Complete {
		if d.Allow || v.Scan.Cause == "" || v.Scan.Detail == "" {
			t.Errorf("allowed %v, cause %q, detail %q", d.Allow, v.Scan.Cause, v.Scan.Detail)
		}
		return
	}
	found := slices.ContainsFunc(v.Findings, func(f scan.Finding) bool { return f.ID == c.Finds })
	if c.Why == "" || found != (c.Finds != "") || found == d.Allow || !found && len(v.Findings) > 0 {
		t.Errorf("complete, because %q: found %s in %d packages: %v, allowed: %v", c.Why, c.Finds, v.Scan.Packages, found, d.Allow)
	}
}

// hostileHouse is a gateway's pipeline with one worker and a database at hand.
func hostileHouse(t *testing.T) *house {
	t.Helper()
	c := configs.Default()
	c.StateDir = t.TempDir()
	c.Database.UpdateEvery = 0
	c, err := c.Resolve(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	c.Scan.Workers, c.Scan.Timeout = 1, hostileDeadline
	h, err := build(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.close(); err != nil {
			t.Error(err)
		}
	})
	db, err := sampledb.Build(filepath.Join(c.StateDir, "db", "sample"), time.Now()) // where a worker may read
	if err != nil {
		t.Fatal(err)
	}
	h.scanner.Database = func(context.Context) (scan.Database, error) { return db, nil }
	h.workers.MemoryLimit = hostileMemory
	if err := h.workers.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// judge takes an image through the pipeline.
func judge(t *testing.T, h *house, img hostile.Image) (*scan.Verdict, policy.Decision) {
	t.Helper()
	in := scan.Image{Reference: "cgr.dev/acme/hostile", Digest: digest.FromBytes(img.Manifest), MediaType: ocispec.MediaTypeImageManifest, Manifest: img.Manifest, Config: img.Config}
	for _, l := range img.Layers {
		in.Layers = append(in.Layers, l.Descriptor())
	}
	sc, err := h.scanner.Begin(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	for i, l := range img.Layers {
		if !sc.Needs(i) {
			continue
		}
		if err := sc.Layer(t.Context(), i, io.NopCloser(bytes.NewReader(l.Blob))); err != nil {
			t.Fatal(err)
		}
	}
	v, err := sc.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	input := policy.Input{Scan: v.Scan, Findings: v.Findings, Now: time.Now().UTC()}
	input.Image.Registry, input.Image.Repository, input.Image.Digest = "cgr.dev", "acme/hostile", in.Digest.String()
	return v, h.policies[""].Decide(t.Context(), input)
}

// settle waits until the worker does what it is asked for: another one than those that
// were worn out, which are ended a moment after their time where they work on.
func settle(t *testing.T, h *house, old []int) {
	t.Helper()
	for n := range 300 {
		now := children(t)
		gone := !slices.ContainsFunc(old, func(pid int) bool { return slices.Contains(now, pid) })
		if gone || n >= 50 { // by then it had its grace: it ended the work by itself, and is kept
			if v, d := judge(t, h, hostile.Innocent(t.Name(), n).Build()); v.Scan.State == scan.Complete && d.Allow {
				return
			}
		}
		time.Sleep(200 * time.Millisecond)
	}
	t.Fatal("the gateway did not get over it")
}

// resetPeaks forgets how much memory this process and its worker took at most.
func resetPeaks(t *testing.T) {
	t.Helper()
	for _, pid := range append(children(t), os.Getpid()) {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			t.Skipf("needs Linux's /proc: %v", err)
		}
	}
}

// peak returns the most memory that a worker took since resetPeaks. One that died of
// it was ended by its limit.
func peak(t *testing.T) int64 {
	var most int64
	for _, pid := range children(t) {
		most = max(most, memory(t, pid, "VmHWM"))
	}
	return most
}

// memory returns a size of a process from /proc, in bytes; 0 when it has ended.
func memory(t *testing.T, pid int, field string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	return 0
}

// children returns the processes that this one has started.
func children(t *testing.T) []int {
	t.Helper()
	var out []int
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // a thread may have ended
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				out = append(out, pid)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
