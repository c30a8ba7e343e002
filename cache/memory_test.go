package cache_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/cachetest"
)

func TestMemory(t *testing.T) {
	cachetest.Test(t, func(*testing.T) cache.Store { return new(cache.Memory) })
}

func TestMemoryExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m cache.Memory
		k := cache.Name("tag", "acme/web", "1")
		if err := m.Put(t.Context(), k, []byte("x"), time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - 1)
		if _, err := m.Get(t.Context(), k); err != nil {
			t.Errorf("a nanosecond before its end: %v", err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := m.Get(t.Context(), k); err == nil {
			t.Error("the entry outlived its end")
		}
	})
}

func TestClosedMemory(t *testing.T) {
	var m cache.Memory
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Put(t.Context(), cache.Name("a", "b"), nil, 0); err == nil {
		t.Error("Put after Close succeeded")
	}
}

func TestNameIsUnambiguous(t *testing.T) {
	names := [][]string{
		{}, {"", ""}, {"", "", ""}, {"a", "b"}, {"ab"}, {"a", "", "b"}, {"a\x00b"}, {"a\x00", "b"}, {"a", "\x00b"},
		{"a\x01", "b"}, {"a\x01\x01b"}, {"a\x01\x02b"}, {"a\x01b"},
	}
	seen := make(map[cache.Key][]string)
	for _, parts := range names {
		k := cache.Name("kind", parts...)
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q are one key", parts, other)
		}
		seen[k] = parts
	}
	if got, want := cache.Name("manifest", "sha256:abc").String(), "manifest/sha256:abc"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestRecipe(t *testing.T) {
	k := cache.Recipe("sbom", "a", "bc")
	for _, other := range []cache.Key{
		cache.Recipe("sbom", "ab", "c"), cache.Recipe("sbom", "abc"), cache.Recipe("sbom", "a", "bc", ""), cache.Recipe("verdict", "a", "bc"),
	} {
		if other.ID() == k.ID() {
			t.Errorf("%q is also the key of another recipe", k)
		}
	}
	// Fixed, since a Store that outlives this build holds such keys.
	const want = "6cbedc0c"
	if got := k.ID(); !strings.HasPrefix(got, want) || len(got) != 64 {
		t.Errorf("ID() = %s, want %s…", got, want)
	}
}
