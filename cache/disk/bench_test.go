package disk

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sluicegate/sluice/cache"
)

// BenchmarkOpen opens a store of 100,000 small entries, all of which are checked.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "store.db")
	s := mustOpen(b, path)
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			for j := range 1000 {
				if err := s.Put(b.Context(), cache.Recipe("value", fmt.Sprint(i, "/", j)), make([]byte, 200), 0); err != nil {
					b.Error(err)
				}
			}
		})
	}
	all.Wait()
	mustClose(b, s)
	for b.Loop() {
		mustClose(b, mustOpen(b, path))
	}
}

// BenchmarkPut has 64 writers put small values; each waits until its own is on the disk.
func BenchmarkPut(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if err := s.Put(b.Context(), cache.Recipe("value", fmt.Sprint(&pb, i)), make([]byte, 200), 0); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkGet(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "store.db"))
	k := cache.Name("value", "a")
	if err := s.Put(b.Context(), k, make([]byte, 200), 0); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := s.Get(b.Context(), k); err != nil {
			b.Fatal(err)
		}
	}
}
