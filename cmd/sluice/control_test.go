package main

import (
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache/disk"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy/api"
)

// A gateway that runs is asked at once: nobody waits for the store first, which it has
// open for as long as it runs.
func TestRunningGatewayIsAskedFirst(t *testing.T) {
	c := configs.Default()
	c.StateDir = t.TempDir()
	store, err := disk.Open(filepath.Join(c.StateDir, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ask := func() (asked bool, err error) {
		err = withVault(t.Context(), c, func(v api.Vault) error { _, asked = v.(*control); return nil })
		return asked, err
	}
	if _, err := ask(); err == nil {
		t.Error("a store that is open elsewhere was opened")
	}
	l, err := net.Listen("unix", controlSocket(c))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	defer func() { srv.Close(); <-done }()
	began := time.Now()
	if asked, err := ask(); err != nil || !asked {
		t.Errorf("asked %v, %v", asked, err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s to find the gateway", took)
	}
}
