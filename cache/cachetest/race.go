package cachetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sluicegate/sluice/cache"
)

const racers = 32

// race runs do in many goroutines at once and waits for them.
func race(do func(i int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range racers {
		all.Go(func() { <-start; do(i) })
	}
	close(start)
	all.Wait()
}

// testPutNewRace checks that of many who put, one does, and all learn which.
func testPutNewRace(t *testing.T, s suite) {
	for round := range 5 {
		k := cache.Name("value", fmt.Sprint(round))
		got := make([]string, racers)
		race(func(i int) {
			value, err := s.store.PutNew(t.Context(), k, fmt.Append(nil, "value ", i), long)
			if err != nil {
				t.Errorf("PutNew: %v", err)
			}
			got[i] = string(value)
		})
		for i := range got {
			s.want(k, got[i])
		}
	}
}

// testPutRace checks that a reader sees one of the written values, whole.
func testPutRace(t *testing.T, s suite) {
	k := cache.Name("value", "a")
	value := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 10_000+i) }
	s.put(k, string(value(0)), 0)
	race(func(i int) {
		for range 5 {
			if err := s.store.Put(t.Context(), k, value(i), long); err != nil {
				t.Errorf("Put: %v", err)
				return
			}
			got, err := s.store.Get(t.Context(), k)
			if err != nil || len(got) == 0 || !bytes.Equal(got, value(int(got[0]))) {
				t.Errorf("Get = %d bytes, %v, want one of the values", len(got), err)
				return
			}
		}
	})
}

// testPutFieldRace checks that no field is lost, whoever writes beside it, and that
// each writer sees its own.
func testPutFieldRace(t *testing.T, s suite) {
	m := cache.Name("map", "a")
	want := make(map[string]string)
	for i := range racers {
		for j := range 4 {
			want[fmt.Sprint(i, "/", j)] = fmt.Sprint("value ", i)
		}
	}
	race(func(i int) {
		for j := range 4 {
			name := fmt.Sprint(i, "/", j)
			if err := s.store.PutField(t.Context(), m, name, fmt.Append(nil, "value ", i), long); err != nil {
				t.Errorf("PutField: %v", err)
				return
			}
			if err := s.store.PutField(t.Context(), m, "gone "+name, nil, 0); err != nil {
				t.Errorf("PutField: %v", err)
				return
			}
			if err := s.store.DeleteField(t.Context(), m, "gone "+name); err != nil {
				t.Errorf("DeleteField: %v", err)
				return
			}
			fields, err := s.store.Fields(t.Context(), m)
			if err != nil || string(fields[name]) != want[name] {
				t.Errorf("Fields()[%q] = %q, %v after it was set", name, fields[name], err)
				return
			}
		}
	})
	s.wantFields(m, want)
}

// testMixed runs every method on few keys at once: nothing may fail but by a miss,
// and nothing may be read that nobody wrote.
func testMixed(t *testing.T, s suite) {
	ctx := t.Context()
	race(func(i int) {
		for j := range 8 {
			k := cache.Name("value", fmt.Sprint((i+j)%3))
			m := cache.Name("map", fmt.Sprint((i+j)%3))
			got, err := s.store.Get(ctx, k)
			if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && string(got) != k.String() {
				t.Errorf("Get(%q) = %q, %v", k, got, err)
			}
			fields, err := s.store.Fields(ctx, m)
			if err != nil || len(fields) > 1 || len(fields) == 1 && string(fields["f"]) != m.String() {
				t.Errorf("Fields(%q) = %q, %v", m, fields, err)
			}
			_, errNew := s.store.PutNew(ctx, k, []byte(k.String()), long)
			err = errors.Join(errNew,
				s.store.Put(ctx, k, []byte(k.String()), 0),
				s.store.PutField(ctx, m, "f", []byte(m.String()), long),
				s.store.Delete(ctx, k),
				s.store.DeleteField(ctx, m, "f"),
				s.store.Delete(ctx, m),
				s.store.Ping(ctx))
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// testPutIfRace checks that of many who count, none is lost.
func testPutIfRace(t *testing.T, s suite) {
	k := cache.Name("value", "count")
	s.put(k, "0", long)
	race(func(i int) {
		for range 3 {
			for {
				old, err := s.store.Get(t.Context(), k)
				n, _, _ := strings.Cut(string(old), " ")
				count, bad := strconv.Atoi(n)
				if err != nil || bad != nil {
					t.Errorf("Get = %q, %v", old, err)
					return
				}
				done, err := s.store.PutIf(t.Context(), k, old, fmt.Append(nil, count+1, " by ", i), long)
				if err != nil {
					t.Errorf("PutIf: %v", err)
					return
				}
				if done {
					break
				}
			}
		}
	})
	got, err := s.store.Get(t.Context(), k)
	if n, _, _ := strings.Cut(string(got), " "); err != nil || n != fmt.Sprint(3*racers) {
		t.Errorf("%d counted up to %q, %v", 3*racers, got, err)
	}
}
