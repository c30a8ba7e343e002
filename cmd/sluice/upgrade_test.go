package main

import (
	"compress/gzip"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache/audit"
	"github.com/sluicegate/sluice/configs"
	"github.com/sluicegate/sluice/policy"
)

// TestUpgrade reads state that the first version with schema 1 has written: what was set by
// hand must outlive every upgrade, or be refused in so many words. The file is of a demo,
// with its made-up pull token. Whoever changes a format adds a file of the one before.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	unpack(t, "testdata/state/store-1.db.gz", filepath.Join(dir, "store.db"))
	key, err := os.ReadFile("testdata/state/seal.key")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "seal.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	c := configs.Default()
	c.StateDir = dir
	if c, err = c.Resolve(func(string) string { return "" }); err != nil {
		t.Fatal(err)
	}
	store, err := openStore(t.Context(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()

	v, err := openVault(c, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	infos, err := v.List(t.Context())
	if err != nil || len(infos) != 1 || infos[0].Problem != "" || infos[0].Form != "pull token" || infos[0].Next == nil || infos[0].Next.Username != "next" {
		t.Errorf("pull tokens: %+v, %v", infos, err)
	}
	exceptions := &policy.Exceptions{Store: store, Log: slog.New(slog.DiscardHandler)}
	if err := exceptions.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ws, err := exceptions.List(t.Context())
	if err != nil || len(ws) != 1 || ws[0].ID != "fixture" || ws[0].Scope.Advisory != "CVE-2021-44228" || ws[0].Owner != "anna@example.com" {
		t.Errorf("waivers: %+v, %v", ws, err)
	}
	if kept := time.Date(2027, 12, 1, 0, 0, 0, 0, time.UTC); time.Now().Before(kept) { // 400 days after it was written
		rs, err := (&audit.Log{Store: store}).List(t.Context(), time.Time{})
		if err != nil || len(rs) < 3 {
			t.Errorf("audit: %d records, %v", len(rs), err)
		}
	}
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, z); err != nil { //nolint:gosec // our own file
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
