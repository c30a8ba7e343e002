package main

import (
	"context"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/sluicegate/sluice/configs"
)

// TestWorkerKilledWhileItWarms: a worker that is killed before it was ever ready, as where
// the machine is short of memory for a moment, leaves a gateway that gets ready with the
// others.
func TestWorkerKilledWhileItWarms(t *testing.T) {
	c := configs.Default()
	c.StateDir, c.Database.UpdateEvery = t.TempDir(), 0
	c, err := c.Resolve(func(string) string { return "" })
	must(t, err)
	c.Scan.Workers = 2
	h, err := build(t.Context(), c, slog.New(slog.NewTextHandler(t.Output(), nil)))
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.keepWorkers(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		must(t, h.close())
	}()
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("in vain: %s: %+v", what, h.workerCheck())
			}
		}
	}
	eventually("two processes", func() bool { return len(children(t)) == 2 })
	must(t, syscall.Kill(children(t)[0], syscall.SIGKILL)) // it has two seconds of work before it
	eventually("to warm up has failed", func() bool { return h.warm.Load() != nil })
	if *h.warm.Load() == "" {
		t.Skip("it was warm before it was killed")
	}
	eventually("the gateway is ready", func() bool { return h.workerCheck().OK })
}
