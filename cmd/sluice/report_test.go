package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/connection"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// The end of a pull token is told of once when it is 14 days away, once when it is three,
// and once when it has come; readiness says it all the time, and stays.
func TestTokenEnds(t *testing.T) {
	var log bytes.Buffer
	var user, password string
	now := time.Now() // the vault's, which looks again every second
	h := &house{log: slog.New(slog.NewTextHandler(&log, nil)), config: configs.Default(), gateway: &proxy.Gateway{}}
	h.connections = &connection.Vault{Store: &cache.Memory{}, Now: func() time.Time { now = now.Add(time.Minute); return now }, Getenv: func(name string) string {
		return map[string]string{"SLUICE_CGR_DEV_USERNAME": user, "SLUICE_CGR_DEV_PASSWORD": password}[name]
	}}
	told := map[string]connection.Urgency{}
	for _, step := range []struct {
		left         time.Duration
		says, detail string
	}{
		{20 * 24 * time.Hour, "", ""},
		{13 * 24 * time.Hour, "level=WARN msg=\"a pull token ends within 14 days", "ends 2"},
		{12 * 24 * time.Hour, "", "ends 2"},
		{2 * 24 * time.Hour, "level=ERROR msg=\"a pull token ends within 3 days", "ends 2"},
		{-time.Hour, "level=ERROR msg=\"a pull token has ended", "ended 2"},
		{20 * 24 * time.Hour, "level=INFO msg=\"a pull token lasts again", ""},
	} {
		user, password = proxytest.PullToken(time.Now().Add(step.left))
		log.Reset()
		for range 3 {
			h.tellTokens(t.Context(), told)
		}
		if n := strings.Count(log.String(), "level="); !strings.Contains(log.String(), step.says) || n > 1 || (n == 0) != (step.says == "") || strings.Contains(log.String(), password) {
			t.Errorf("%v left, the log says %q, want %q once", step.left, log.String(), step.says)
		}
		if c, worth := h.tokenCheck(t.Context(), "cgr.dev"); worth != (step.detail != "") || !c.OK || !strings.Contains(c.Detail, step.detail) {
			t.Errorf("%v left: %+v, want %q", step.left, c, step.detail)
		}
	}
}
