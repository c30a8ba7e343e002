package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/webhook"
)

// An inbox is a webhook's receiver.
type inbox struct {
	t      *testing.T
	secret string

	mu  sync.Mutex // guards what follows
	off bool
	got map[string]proxy.CloudEvent // by type; of several the last
}

func (b *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = webhook.Verify([]byte(b.secret), r.Header.Get(webhook.SignatureHeader), body, time.Now(), time.Minute)
	}
	var c proxy.CloudEvent
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		b.t.Error(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.off {
		w.WriteHeader(http.StatusGone)
		return
	}
	b.got[c.Type] = c
}

func (b *inbox) await(kind string) proxy.CloudEvent {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		b.mu.Lock()
		c, ok := b.got[proxy.CloudType+kind]
		b.mu.Unlock()
		if ok {
			return c
		}
		if time.Now().After(end) {
			b.t.Fatalf("no %s came", kind)
		}
	}
}

// eventsGateway is a configuration with a webhook that only it knows, a waiver that ends
// tomorrow and a database that denies acme/orders.
func eventsGateway(t *testing.T) (*scene, configs.Config, *inbox) {
	t.Helper()
	s := newScene(t)
	c := s.config(t, 1)
	s.bring(t, openDatabases(c, nil), time.Now().Add(-time.Hour), "")
	b := &inbox{t: t, secret: "what only the two of us know", got: map[string]proxy.CloudEvent{}}
	hook := configs.Webhook{URL: serveFiles(t, b) + "/in?token=hidden", SecretFile: filepath.Join(t.TempDir(), "key")}
	c.Webhooks = []configs.Webhook{hook}
	c.Policy.WaiverFile = filepath.Join(t.TempDir(), "waivers.yaml")
	waivers := fmt.Sprintf("waivers:\n- {id: w1, owner: anna, reason: why, scope: {advisory: CVE-1}, expires: %q}\n", time.Now().Add(12*time.Hour).UTC().Format(time.RFC3339))
	for file, text := range map[string]string{hook.SecretFile: b.secret + "\n", c.Policy.WaiverFile: waivers} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s, c, b
}

// A gateway sends what happens to its webhook; what that refuses is listed by commands,
// while the gateway runs and after it, and sent again.
func TestWebhooks(t *testing.T) {
	_, c, b := eventsGateway(t)
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	text := fmt.Sprintf("state_dir: %s\nwebhooks:\n- {url: %q, secret_file: %s}\n", c.StateDir, c.Webhooks[0].URL, c.Webhooks[0].SecretFile)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		cmd := rootCommand()
		cmd.SetArgs(append(args, "--config", file))
		cmd.SetOut(&out)
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			fmt.Fprintln(&out, "error:", err)
		}
		if strings.Contains(out.String(), "hidden") {
			t.Errorf("%v shows the URL: %s", args, out.String())
		}
		return out.String()
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, c, source{}) }()
	if d := b.await(proxy.WaiverExpiring).Data.Details; d.Name != "w1" || d.Within != "1d" || d.Owner != "anna" || d.Scope == nil {
		t.Errorf("%+v", d)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := pullImage(t.Context(), c.Listen+"/acme/orders:1", nil); err != nil && strings.Contains(err.Error(), "blocked by policy") {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if e := b.await(proxy.VerdictNew); e.Data.After.Allow || !strings.Contains(e.Subject, "/acme/orders:1@sha256:") {
		t.Errorf("%+v", e)
	}
	denied := b.await(proxy.PullDenied)
	if denied.Data.After.Allow || denied.Data.Details.Decision == "" || denied.Source != b.await(proxy.VerdictNew).Source {
		t.Errorf("%+v", denied)
	}
	if out := command("events", "list"); !strings.Contains(out, "pull.denied") || !strings.Contains(out, "waiver.expiring") || !strings.Contains(out, denied.ID) {
		t.Errorf("list: %s", out)
	}
	if out := command("events", "retry", "nothing"); !strings.Contains(out, "no webhook has a dead letter nothing") {
		t.Errorf("retry: %s", out)
	}
	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if out := command("events", "list", "-o", "json"); !strings.Contains(out, `"type": "verdict.new"`) {
		t.Errorf("list: %s", out)
	}
	if out := command("events", "dead"); strings.Count(out, "\n") != 1 {
		t.Errorf("dead: %s", out)
	}
}

// A dead letter is listed and retried by way of the store.
func TestDeadLetterCommands(t *testing.T) {
	_, c, b := eventsGateway(t)
	b.off = true
	h, err := build(t.Context(), c, newLog(c.Log, &slog.LevelVar{}))
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	h.hooks.Pace = webhook.Pace{Poll: 10 * time.Millisecond, First: 10 * time.Millisecond, Max: 20 * time.Millisecond, GiveUp: time.Hour, Lease: time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.hooks.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := h.tellEnds(ctx, map[string]bool{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	s := sendersOf(c, h.store, h.log)
	var letters []webhook.DeadLetter
	for end := time.Now().Add(time.Minute); len(letters) == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if letters, err = s.Dead(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if len(letters) != 1 || letters[0].Event.Type != proxy.WaiverExpiring || !strings.Contains(letters[0].Error, "410 Gone") || strings.Contains(letters[0].Hook, "hidden") {
		t.Fatalf("%+v", letters)
	}
	b.mu.Lock()
	b.off = false
	b.mu.Unlock()
	if n, err := s.Retry(ctx, webhook.All); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	b.await(proxy.WaiverExpiring)
}

// Each end is told of once at each of its stages.
func TestEnds(t *testing.T) {
	s, c, _ := eventsGateway(t)
	c.Webhooks = nil
	c.Database.MaxAge = 2 * time.Hour
	h, err := build(t.Context(), c, newLog(c.Log, &slog.LevelVar{}))
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	told := func(at time.Duration) (out string) {
		t.Helper()
		began, err := h.gateway.Events(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := h.tellEnds(t.Context(), map[string]bool{}, time.Now().Add(at)); err != nil {
				t.Fatal(err)
			}
		}
		all, err := h.gateway.Events(t.Context(), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all[len(began):] {
			out += strings.TrimSpace(e.Type+" "+e.Details.Within) + "\n"
		}
		return out
	}
	for _, step := range []struct {
		at   time.Duration
		want string
	}{
		{-10 * day, ""},
		{-3 * day, "waiver.expiring 7d\n"},
		{0, "waiver.expiring 1d\n"},
		{7 * day, "credential.expiring 14d\n"},
		{18 * day, "credential.expiring 3d\n"},
		{21 * day, "credential.expiring ended\n"},
		{22 * day, ""},
	} {
		if got := told(step.at); got != step.want {
			t.Errorf("at %s: %q, want %q", step.at, got, step.want)
		}
	}
	s.bring(t, openDatabases(c, nil), time.Now().Add(-time.Minute), "")
	h.databases.MaxAge = time.Second
	if got := told(0); got != "database.stale\n" {
		t.Errorf("an old database: %q", got)
	}
}

// A webhook that can't work stops the start.
func TestBadWebhook(t *testing.T) {
	_, c, _ := eventsGateway(t)
	c.Webhooks[0].Types = []string{"pull"}
	if _, err := build(t.Context(), c, newLog(c.Log, &slog.LevelVar{})); err == nil || !strings.Contains(err.Error(), `webhooks[0].types: "pull" matches no event`) {
		t.Errorf("%v", err)
	}
	c.Webhooks[0].Types, c.Webhooks[0].SecretFile = nil, "/no/such/file"
	if _, err := build(t.Context(), c, newLog(c.Log, &slog.LevelVar{})); err == nil || !strings.Contains(err.Error(), "webhooks[0].secret_file: open /no/such/file") {
		t.Errorf("%v", err)
	}
}
