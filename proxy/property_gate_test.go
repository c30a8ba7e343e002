package proxy_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/redis"
)

// run plays a program in a world of its own, whose replicas have the Stores that open
// returns, and holds what every caller has received against the model after each step.
func run(tb testing.TB, c *cast, open func() cache.Store, data []byte) {
	tb.Helper()
	steps := decode(data)
	w := newWorld(tb, c, open)
	defer w.end()
	fail := func(when string, err error) {
		tb.Helper()
		tb.Fatalf("%s: %v\nThe program:\n%s", when, err, strings.Join(texts(steps), "\n"))
	}
	for i, s := range steps {
		err := s.do(w, s)
		if err == nil {
			err = w.check()
		}
		if err != nil {
			fail(fmt.Sprintf("step %d", i+1), err)
		}
	}
	if err := w.finale(); err != nil {
		fail("at the end", err)
	}
}

// The gate keeps its promise in any order of anything: see model.
func TestGateProperty(t *testing.T) { play(t, inMemory) }

// So it does where replicas share a Redis, and each has copies of what it read there.
func TestGatePropertyShared(t *testing.T) {
	server := startRedis(t, "")
	var worlds atomic.Int64
	play(t, func(tb testing.TB) func() cache.Store {
		prefix := fmt.Sprintf("world%d:", worlds.Add(1))
		return func() cache.Store {
			store, err := redis.Open(tb.Context(), redis.Config{URL: "redis://" + server.addr, Prefix: prefix})
			if err != nil {
				tb.Fatal(err)
			}
			return cache.NewLocal(store, cache.LocalConfig{Fixed: []cache.Kind{"manifest", "config", "sbom", "packages", "verdict", "baselayers"}})
		}
	})
}

// inMemory is one Store for a world, without copies.
func inMemory(testing.TB) func() cache.Store {
	store := unclosed{&cache.Memory{}}
	return func() cache.Store { return store }
}

// unclosed outlives the replica that has it.
type unclosed struct{ cache.Store }

func (unclosed) Close() error { return nil }

// play runs the stories, and random programs for some time, each in a world of its own.
func play(t *testing.T, share func(testing.TB) func() cache.Store) {
	c := newCast(t)
	before := runtime.NumGoroutine()
	budget := 6 * time.Second
	if testing.Short() {
		budget = time.Second
	}
	end := time.Now().Add(budget)
	told := stories()
	var programs atomic.Int64
	var workers sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) { // which wait, most of the time
		workers.Go(func() {
			for !t.Failed() {
				n := int(programs.Add(1))
				switch {
				case n <= len(told):
					t.Run(fmt.Sprintf("story %d", n), func(t *testing.T) { run(t, c, share(t), told[n-1]) })
				case time.Now().Before(end):
					t.Run(fmt.Sprintf("seed %d", n), func(t *testing.T) { run(t, c, share(t), program(uint64(n))) })
				default:
					return
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d programs", programs.Load())
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before+3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
}

// program returns the bytes of a random program.
func program(seed uint64) []byte {
	b := make([]byte, 5*maxSteps)
	rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "program %d", seed))).Read(b)
	return b
}

// stories are programs of tricks that chance would be long in finding. Images stand for
// their places in the cast.
func stories() [][]byte {
	const (
		good, bad, inner, flip, waived, twin, thief = 0, 1, 2, 3, 4, 5, 7

		byGuest, atSecond, get, elsewhere = 1, 4, 8, 64
		byDigest                          = 1
	)
	return [][]byte{
		story( // all but a shared layer by a decoy, then the manifest, then the shared layer
			"pause", 0, 0, 0, 0, "decoy", 1, byGuest|get, byDigest, 0, "blobs", bad, byGuest|get, 0, 0, "manifest", twin, byGuest|get, byDigest, 0,
			"manifest", bad, byGuest|get, byDigest, 0, "settle", good, 0, 0, 0, "blobs", good, byGuest|get, 0, 0, "manifest", bad, byGuest|get, byDigest, 0),
		story( // a waiver that runs out, one that is taken back, and a restart
			"manifest", waived, get, byDigest, 0, "waiver", waived, 0, 0, 0, "settle", waived, 0, 0, 0, "time", 1, 0, 0, 0, "settle", waived, 0, 0, 0,
			"restart", 0, 0, 0, 0, "blobs", waived, get, 0, 0, "blobs", waived, byGuest|get|atSecond, 0, 0),
		story( // a verdict that changes, while the new one is long in coming
			"settle", flip, 0, 0, 0, "pause", 0, 0, 0, 0, "database", flip, 1, 1, 0, "manifest", flip, byGuest|get, byDigest, 0, "time", 3, 0, 0, 0,
			"manifest", flip, byGuest|get, byDigest, 0, "blobs", flip, byGuest|get, 0, 0, "watch", 0, 0, 0, 0, "settle", flip, 0, 0, 0,
			"pause", 0, 0, 0, 0, "database", good, 0, 0, 0, "manifest", flip, byGuest|get, byDigest, 0, "blobs", flip, byGuest|get, 0, 0, "restart", 0, 0, 0, 0,
			"blobs", flip, byGuest|get, 0, 0, "database", flip, 1, 0, 0, "manifest", flip, byGuest|get|atSecond, byDigest, 0, "resume", 0, 0, 0, 0),
		story( // streams that are held while the gateway is restarted, and then denied
			"pause", 0, 0, 0, 0, "manifest", bad, get, byDigest, 0, "blobs", bad, get, 0, 0, "blobs", bad, get|atSecond, 6, 0, "blobs", bad, get, 14, 0,
			"watch", 0, 0, 0, 0, "restart", 0, 0, 0, 0, "blobs", bad, get, 0, 0, "blobs", bad, get, 9, 128, "blobs", bad, get, 8, 128, "blobs", bad, get, 12, 128, "watch", 0, 0, 0, 0,
			"resume", 0, 0, 0, 0),
		story( // an allowed image has the config of a denied one among its layers
			"waiver", thief, 4, 2, 0, "settle", thief, 0, 0, 0, "settle", bad, 0, 0, 0, "blobs", bad, get, 0, 0, "blobs", bad, byGuest|get, 0, 0, "watch", 0, 0, 0, 0),
		story( // a blob that another repository has, and this one only lists
			"settle", inner, 0, 0, 0, "decoy", 2, get, byDigest, 0, "blobs", inner, get|elsewhere, 0, 0, "blobs", inner, byGuest|get|elsewhere|atSecond, 0, 0, "watch", 0, 0, 0, 0),
	}
}

// story writes a program: the name of each operation, and its four operands.
func story(steps ...any) (program []byte) {
	ops := operations()
	for _, x := range steps {
		switch x := x.(type) {
		case string:
			program = append(program, byte(slices.IndexFunc(ops, func(s step) bool { return s.name == x })))
		case int:
			program = append(program, byte(x))
		}
	}
	return program
}

// The same, with programs that a fuzzer finds.
func FuzzGate(f *testing.F) {
	c := newCast(f)
	for _, s := range append(stories(), program(1), program(2)) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) { run(t, c, inMemory(t), data) })
}
