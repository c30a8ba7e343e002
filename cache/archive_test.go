package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/sluicegate/sluice/cache"
)

func exported(t *testing.T, s cache.Walker, leaveOut ...cache.Kind) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := cache.Export(t.Context(), s, &b, leaveOut...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fullStore(t *testing.T) *cache.Memory {
	t.Helper()
	s, ctx := new(cache.Memory), t.Context()
	err := errors.Join(
		s.Put(ctx, cache.Name("tag", "acme/web", "1"), []byte("one"), time.Hour),
		s.Put(ctx, cache.Name("seen", "x"), nil, 0),
		s.Put(ctx, cache.Name("lease", "x"), []byte("mine"), time.Hour),
		s.Put(ctx, cache.Name("brief", "x"), []byte("x"), 200*time.Millisecond),
		s.PutField(ctx, cache.Name("history", "a\x00\xff"), "field", []byte("old"), 0),
		s.PutField(ctx, cache.Name("history", "a\x00\xff"), "other", []byte("old"), 0),
	)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMove(t *testing.T) {
	archive := exported(t, fullStore(t), "lease")
	to, ctx := new(cache.Memory), t.Context()
	if err := errors.Join(to.PutField(ctx, cache.Name("history", "a\x00\xff"), "field", []byte("new"), 0), to.Put(ctx, cache.Name("seen", "x"), []byte("new"), 0)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	n, err := cache.Import(ctx, to, bytes.NewReader(archive), false)
	if want := (cache.Imported{Written: 2, Kept: 1, Expired: 1}); n != want || err != nil {
		t.Errorf("Import: %+v, %v, want %+v", n, err, want)
	}
	if got, err := to.Get(ctx, cache.Name("tag", "acme/web", "1")); string(got) != "one" {
		t.Errorf("a value came over as %q, %v", got, err)
	}
	if err := to.Walk(ctx, "tag", func(e cache.Entry) error {
		if left := time.Until(e.Ends); left <= 0 || left > time.Hour {
			t.Errorf("a value of an hour has %v to live", left)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if got, err := to.Fields(ctx, cache.Name("history", "a\x00\xff")); string(got["field"]) != "new" || string(got["other"]) != "old" {
		t.Errorf("a map came over as %q, %v", got, err)
	}
	if _, err := to.Get(ctx, cache.Name("lease", "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left out came over: %v", err)
	}
	if _, err := cache.Import(ctx, to, bytes.NewReader(archive), true); err != nil {
		t.Fatal(err)
	}
	if got, err := to.Fields(ctx, cache.Name("history", "a\x00\xff")); string(got["field"]) != "old" {
		t.Errorf("a map that was to be overwritten is %q, %v", got, err)
	}
}

// TestBadArchive checks that an archive that isn't whole writes nothing.
func TestBadArchive(t *testing.T) {
	archive := exported(t, fullStore(t))
	plain := func(text string) []byte {
		z, _ := zstd.NewWriter(nil)
		return z.EncodeAll([]byte(text), nil)
	}
	damaged := bytes.Clone(archive)
	damaged[len(damaged)/2] ^= 1
	for name, test := range map[string]struct {
		archive []byte
		want    string
	}{
		"empty":     {nil, "no archive"},
		"cut short": {archive[:len(archive)-10], "archive"},
		"damaged":   {damaged, "archive"},
		"text":      {[]byte(strings.Repeat("hello ", 100)), "no archive"},
		"newer":     {plain(fmt.Sprintf(`{"sluice":"store","schema":%d}`, cache.Schema+1)), "schema"},
		"endless":   {plain(`{"sluice":"store","schema":1}{"kind":"tag","id":"eA==","value":"eA=="}`), "cut short"},
		"miscounts": {plain(`{"sluice":"store","schema":1}{"kind":"tag","id":"eA==","value":"eA=="}{"entries":2}`), "1 of 2"},
	} {
		to := new(cache.Memory)
		if _, err := cache.Import(t.Context(), to, bytes.NewReader(test.archive), false); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if err := to.Walk(t.Context(), "", func(e cache.Entry) error { return errors.New(e.Key.Text()) }); err != nil {
			t.Errorf("%s: %v was written", name, err)
		}
	}
}

func TestKeyText(t *testing.T) {
	for _, k := range []cache.Key{cache.Name("tag", "a", "b"), cache.Name("a:b", "c:d|%{}"), cache.Name("k", "\x00\x01ä%41"), cache.Name("k")} {
		if got, err := cache.ParseKey(k.Text()); got != k {
			t.Errorf("ParseKey(%q) = %q, %v, want %q", k.Text(), got, err, k)
		}
	}
	for _, text := range []string{"", "tag", "tag:ä", "tag:%4", "tag:%41", "tag:a b"} {
		if k, err := cache.ParseKey(text); err == nil {
			t.Errorf("ParseKey(%q) = %q, want an error", text, k)
		}
	}
}
