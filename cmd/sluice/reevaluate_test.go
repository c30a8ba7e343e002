package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/proxy"
)

// A database is imported while the gateway serves. An image that was pulled by the last
// one turns, the event says why and who had it, and upstream is not asked. The next one
// turns it back, also across a restart.
func TestNewDatabaseTurnsImage(t *testing.T) {
	s := newScene(t)
	c := s.config(t, 1)
	addr := c.Listen
	bring := func(age time.Duration, knows bool) {
		t.Helper()
		without := "org.apache.logging.log4j:log4j-core"
		if knows {
			without = ""
		}
		s.bring(t, openDatabases(c, nil), time.Now().Add(-age), without)
	}
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- serve(ctx, c, source{}) }()
		return func() {
			t.Helper()
			cancel()
			if err := <-served; err != nil {
				t.Fatal(err)
			}
		}
	}
	events := func() (es []proxy.Event) {
		resp, err := http.Get("http://" + addr + "/api/v1/events")
		if err != nil {
			return nil
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&es); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(es, func(e proxy.Event) bool { return e.Type != proxy.VerdictChanged })
	}
	await := func(n int) proxy.Event {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			switch es := events(); {
			case len(es) == n:
				return es[n-1]
			case time.Now().After(deadline):
				t.Fatalf("%d events, want %d", len(es), n)
			}
		}
	}
	g := &global{state: c.StateDir}
	matched := func() proxy.Reevaluation {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if r := g.reevaluation(t.Context()); r != nil && !r.Running && r.Total == 1 && r.Done == 1 {
				return *r
			} else if time.Now().After(deadline) {
				t.Fatalf("%+v", r)
			}
		}
	}

	bring(3*time.Hour, false)
	stop := start()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := pullImage(t.Context(), addr+"/acme/orders:1", nil)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	asked := len(s.origin.Requests())
	bring(2*time.Hour, true)
	e := await(1)
	if e.After.Allow || !e.Before.Allow || e.Image.Repository != "acme/orders" || !strings.Contains(e.Image.Reference, "sha256:") || time.Since(e.LastPull.Time) > time.Hour {
		t.Errorf("%+v", e)
	}
	ids := ""
	for _, a := range e.Advisories {
		ids += a.ID + " " + a.Package + " " + a.Change + "\n"
	}
	if !strings.Contains(ids, "CVE-2021-44228 log4j-core new") {
		t.Errorf("advisories: %s", ids)
	}
	if r := matched(); r.Denied != 1 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	r := matched()
	printDatabaseTable(&out, openDatabases(c, nil).Status(t.Context()), &r, "")
	if !strings.Contains(out.String(), "1 of 1 image pulled lately, 1 now denied") {
		t.Errorf("status: %s", out.String())
	}
	if got := s.origin.Requests()[asked:]; len(got) > 0 {
		t.Errorf("upstream was asked: %+v", got)
	}
	stop()

	bring(time.Hour, false) // while no gateway runs
	stop = start()
	if e := await(2); !e.After.Allow || e.Before.Allow || len(e.Advisories) == 0 || e.Advisories[0].Change != "gone" {
		t.Errorf("%+v", e)
	}
	stop()
}
