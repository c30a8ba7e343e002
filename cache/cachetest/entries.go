package cachetest

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
)

// odd are strings that a Store may be tempted to give a meaning.
var odd = []string{
	"", "a", "A", "a/b", "a//b", "/", "a:b", "a b", " ", "a\x00b", "\x00", "\x00a", "a\x00",
	"a\x01b", "a\nb", "a\r\nb", "a\tb", "ä", "日本語", "\u202e", "\xff\xfe", "%61", "%", "a%2Fb",
	"{a}", "{", "}", "*", "?", "[a]", `\`, `"`, "'", "a|b", "|", ".", "..", "../a",
	"sha256:" + strings.Repeat("0", 64), strings.Repeat("long", 500),
}

func testValue(_ *testing.T, s suite) {
	k := cache.Name("value", "a")
	s.wantMiss(k)
	s.put(k, "1", 0)
	s.want(k, "1")
	s.put(k, "2", long)
	s.want(k, "2")
	s.wantMiss(cache.Name("other", "a"))
	s.wantMiss(cache.Recipe("value", "a"))
}

func testOddKeys(t *testing.T, s suite) {
	var keys []cache.Key
	for _, o := range odd {
		keys = append(keys, cache.Name("value", o), cache.Name("map-of", o),
			cache.Name("value", o, "x"), cache.Name("value", "x", o), cache.Recipe("value", o))
	}
	for _, kind := range []cache.Kind{"", ":", "a:b", "a/b", "a\x00b", "{k}"} {
		keys = append(keys, cache.Name(kind, "b"), cache.Name(kind, "a"))
	}
	seen := make(map[cache.Key]bool)
	for _, k := range keys {
		if seen[k] {
			t.Fatalf("two names are one key: %q", k)
		}
		seen[k] = true
		s.wantMiss(k)
		s.put(k, "value of "+k.String(), 0)
	}
	for _, k := range keys {
		s.want(k, "value of "+k.String())
	}
}

func testSizes(_ *testing.T, s suite) {
	random := make([]byte, 20<<20)
	fast := rand.NewChaCha8([32]byte{1})
	_, _ = fast.Read(random)
	for _, value := range []string{
		"", "\x00", strings.Repeat("a", 1023), strings.Repeat("a", 1024), strings.Repeat("a", 1025),
		string(random[:1<<10]), string(random[:100<<10]), strings.Repeat("ab", 10<<20), string(random),
	} {
		k, m := cache.Name("value", "a"), cache.Name("map", "a")
		s.put(k, value, 0)
		s.want(k, value)
		s.putNew(k, "new", 0, value)
		if len(value) <= 100<<10 {
			s.putField(m, "f", value, 0)
			s.wantFields(m, map[string]string{"f": value})
		}
	}
}

func testRefused(t *testing.T, s suite) {
	ctx := t.Context()
	k, m := cache.Name("value", "a"), cache.Name("map", "a")
	longKey := cache.Name("value", strings.Repeat("k", cache.MaxKey))
	huge := make([]byte, cache.MaxValue+1)
	putNew := func(k cache.Key, value []byte, ttl time.Duration) error {
		_, err := s.store.PutNew(ctx, k, value, ttl)
		return err
	}
	s.fails("Put of a value too large", s.store.Put(ctx, k, huge, 0))
	s.fails("PutNew of a value too large", putNew(k, huge, 0))
	s.fails("PutField of a value too large", s.store.PutField(ctx, m, "f", huge, 0))
	s.fails("Put under a key too long", s.store.Put(ctx, longKey, nil, 0))
	s.fails("PutNew under a key too long", putNew(longKey, nil, 0))
	s.fails("PutField of a name too long", s.store.PutField(ctx, m, longKey.String(), nil, 0))
	s.fails("Put with a life below 0", s.store.Put(ctx, k, nil, -1))
	s.fails("PutNew with a life below 0", putNew(k, nil, -1))
	s.fails("PutField with a life below 0", s.store.PutField(ctx, m, "f", nil, -1))
	s.wantMiss(k)
	s.wantMiss(longKey)
	s.wantFields(m, map[string]string{})

	longest := cache.Name("value", strings.Repeat("\xff", cache.MaxKey-len("value")))
	s.put(longest, "1", 0)
	s.want(longest, "1")
	name := strings.Repeat("\xfe", cache.MaxKey)
	s.putField(longestMap(), name, "1", long)
	s.wantFields(longestMap(), map[string]string{name: "1"})
}

// longestMap is a map's key of the greatest length.
func longestMap() cache.Key {
	return cache.Name("map", strings.Repeat("\xff", cache.MaxKey-len("map")))
}

func testPutNew(_ *testing.T, s suite) {
	k := cache.Name("value", "a")
	s.putNew(k, "first", 0, "first")
	s.putNew(k, "second", 0, "first")
	s.want(k, "first")
	s.put(k, "third", 0)
	s.putNew(k, "fourth", 0, "third")
	empty := cache.Name("value", "empty")
	s.putNew(empty, "", 0, "")
	s.putNew(empty, "late", 0, "")
	s.want(empty, "")
}

// testPutIf checks that a value is replaced only where it is the one expected, with a new
// life, and that a writer who asks twice is told the same twice.
func testPutIf(t *testing.T, s suite) {
	putIf := func(k cache.Key, old, value string, ttl time.Duration, want bool) {
		t.Helper()
		if got, err := s.store.PutIf(t.Context(), k, []byte(old), []byte(value), ttl); err != nil || got != want {
			t.Fatalf("PutIf(%q, %.20q, %.20q) = %t, %v, want %t", k, old, value, got, err, want)
		}
	}
	k, m, none := cache.Name("value", "a"), cache.Name("map", "a"), cache.Name("value", "none")
	putIf(none, "", "1", 0, false)
	s.wantMiss(none)
	large := strings.Repeat("large ", 1000)
	s.put(k, "", long)
	putIf(k, "x", "1", 0, false)
	s.want(k, "")
	putIf(k, "", "1", 0, true)
	putIf(k, "", "1", 0, true)
	putIf(k, "1", large, 0, true)
	putIf(k, "1", "2", 0, false)
	s.want(k, large)
	putIf(k, large, "2", short, true)
	time.Sleep(2 * short)
	s.wantMiss(k)
	putIf(k, "2", "3", 0, false)
	s.putField(m, "f", "1", 0)
	_, err := s.store.PutIf(t.Context(), m, []byte("1"), []byte("2"), 0)
	s.mistaken("PutIf of a map", err)
	_, err = s.store.PutIf(t.Context(), k, nil, nil, -1)
	s.fails("PutIf with a ttl below 0", err)
	s.wantFields(m, map[string]string{"f": "1"})
}

func testDelete(t *testing.T, s suite) {
	ctx := t.Context()
	k, m := cache.Name("value", "a"), cache.Name("map", "a")
	neighbour := cache.Name("map", "a", "f")
	s.put(k, "1", 0)
	s.putField(m, "f", "1", 0)
	s.putField(m, "g", "1", long)
	s.putField(neighbour, "f", "1", 0)
	for range 2 { // deleting what is gone is no error
		for _, k := range []cache.Key{k, m} {
			if err := s.store.Delete(ctx, k); err != nil {
				t.Fatalf("Delete(%q): %v", k, err)
			}
		}
	}
	s.wantMiss(k)
	s.wantFields(m, map[string]string{})
	s.wantFields(neighbour, map[string]string{"f": "1"})
	s.putNew(k, "2", 0, "2")
	s.putField(m, "h", "2", 0)
	s.wantFields(m, map[string]string{"h": "2"})
}

func testMap(t *testing.T, s suite) {
	ctx := t.Context()
	m := cache.Name("map", "a")
	s.wantFields(m, map[string]string{})
	s.putField(m, "f", "1", 0)
	s.putField(m, "g", "", long)
	s.putField(m, "f", "2", long)
	s.wantFields(m, map[string]string{"f": "2", "g": ""})
	for range 2 {
		if err := s.store.DeleteField(ctx, m, "f"); err != nil {
			t.Fatal(err)
		}
	}
	s.wantFields(m, map[string]string{"g": ""})
	if err := s.store.DeleteField(ctx, m, "g"); err != nil {
		t.Fatal(err)
	}
	s.wantFields(m, map[string]string{})
	s.put(m, "a map without fields does not exist", 0)
	if err := s.store.DeleteField(ctx, cache.Name("map", "none"), "f"); err != nil {
		t.Errorf("DeleteField of a map that is not there: %v", err)
	}
}

func testOddFields(_ *testing.T, s suite) {
	m := cache.Name("map", "a")
	want := make(map[string]string)
	for _, name := range odd {
		s.putField(m, name, "value of "+name, 0)
		want[name] = "value of " + name
	}
	s.wantFields(m, want)
}

// testKinds checks that a value is never taken for a map, nor a map for a value.
func testKinds(t *testing.T, s suite) {
	ctx := t.Context()
	k, m := cache.Name("value", "a"), cache.Name("map", "a")
	s.put(k, "1", 0)
	s.putField(m, "f", "1", 0)
	_, err := s.store.Get(ctx, m)
	s.mistaken("Get of a map", err)
	s.mistaken("Put over a map", s.store.Put(ctx, m, []byte("2"), 0))
	_, err = s.store.PutNew(ctx, m, []byte("2"), 0)
	s.mistaken("PutNew over a map", err)
	_, err = s.store.Fields(ctx, k)
	s.mistaken("Fields of a value", err)
	s.mistaken("PutField of a value", s.store.PutField(ctx, k, "f", []byte("2"), 0))
	s.mistaken("DeleteField of a value", s.store.DeleteField(ctx, k, "f"))
	s.want(k, "1")
	s.wantFields(m, map[string]string{"f": "1"})
}

func testValueExpires(_ *testing.T, s suite) {
	k, n, o, p := cache.Name("value", "k"), cache.Name("value", "n"), cache.Name("value", "o"), cache.Name("value", "p")
	tiny, large := cache.Name("value", "tiny"), cache.Name("value", "large")
	s.put(k, "1", short)
	s.putNew(n, "1", short, "1")
	s.put(o, "1", short)
	s.put(o, "2", 0) // a Put sets the life anew
	s.put(p, "1", 0)
	s.put(p, "2", short)
	s.put(tiny, "1", 1)
	s.put(large, string(bytes.Repeat([]byte("large "), 1000)), short)
	time.Sleep(2 * short)
	s.wantMiss(k)
	s.wantMiss(n)
	s.want(o, "2")
	s.wantMiss(p)
	s.wantMiss(tiny)
	s.wantMiss(large)
	s.putNew(k, "3", 0, "3")
	s.putField(n, "f", "3", 0) // nothing is left of what has expired, not even its type
	s.wantFields(n, map[string]string{"f": "3"})
}

func testMapExpires(_ *testing.T, s suite) {
	m, n, o := cache.Name("map", "m"), cache.Name("map", "n"), cache.Name("map", "o")
	for _, k := range []cache.Key{m, n, o} {
		s.putField(k, "f", "1", short)
		s.putField(k, "g", "1", short)
	}
	time.Sleep(2*short + short/2)
	s.wantFields(m, map[string]string{})
	s.putField(n, "h", "2", long)
	s.wantFields(n, map[string]string{"h": "2"})
	s.put(o, "2", 0)
	s.want(o, "2")
}

// testMapLife checks that setting a field can make a map's life longer and not shorter.
func testMapLife(t *testing.T, s suite) {
	for _, test := range []struct {
		name  string
		lives []time.Duration
	}{
		{"long then short", []time.Duration{long, short}},
		{"short then long", []time.Duration{short, long}},
		{"ever then short", []time.Duration{0, short}},
		{"short then ever", []time.Duration{short, 0}},
		{"ever then long then short", []time.Duration{0, long, short}},
	} {
		for _, life := range test.lives {
			s.putField(cache.Name("map", test.name), "f", test.name, life)
		}
	}
	time.Sleep(2 * short)
	for _, name := range []string{"long then short", "short then long", "ever then short", "short then ever", "ever then long then short"} {
		s.wantFields(cache.Name("map", name), map[string]string{"f": name})
	}
	deleted := cache.Name("map", "deleted") // its life ends with its last field
	s.putField(deleted, "f", "1", 0)
	if err := s.store.DeleteField(t.Context(), deleted, "f"); err != nil {
		t.Fatal(err)
	}
	s.putField(deleted, "f", "1", short)
	time.Sleep(2 * short)
	s.wantFields(deleted, map[string]string{})
}
