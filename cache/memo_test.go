package cache_test

import (
	"testing"

	"github.com/sluicegate/sluice/cache"
)

func TestMemo(t *testing.T) {
	var m cache.Memo[string, int]
	const quarter = 8 << 20
	has := func(want ...string) {
		t.Helper()
		for _, k := range []string{"a", "b", "c", "d", "e", "huge"} {
			_, got := m.Get(k)
			wanted := false
			for _, w := range want {
				wanted = wanted || w == k
			}
			if got != wanted {
				t.Errorf("%s: kept %t, want %t", k, got, wanted)
			}
		}
	}
	has()
	m.Put("huge", 1, quarter+1)
	has()
	for _, k := range []string{"a", "b", "c", "d"} {
		m.Put(k, 1, quarter)
	}
	has("a", "b", "c", "d")
	m.Put("d", 2, quarter) // takes the place of what was there
	if v, _ := m.Get("d"); v != 2 {
		t.Errorf("d is %d", v)
	}
	has("a", "b", "c", "d")
	m.Put("d", 2, quarter/5)
	m.Put("e", 3, quarter/5*4)
	has("a", "b", "c", "d", "e")
	m.Put("a", 4, quarter)
	has("a", "b", "c", "d", "e")
	m.Put("huge", 6, quarter)
	has("huge")
}
