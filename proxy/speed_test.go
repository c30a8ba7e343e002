package proxy_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A counting Store counts what is asked of it, each of which is a way to Redis and back.
type counting struct {
	cache.Store
	mu  sync.Mutex // guards ops
	ops map[string]int
}

func (s *counting) count(op string, k cache.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops[op+" "+string(k.Kind())]++
}

func (s *counting) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ops = map[string]int{}
}

// took returns how many operations there were, and of what.
func (s *counting) took() (n int, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, op := range slices.Sorted(maps.Keys(s.ops)) {
		n += s.ops[op]
		list = append(list, fmt.Sprintf("%s ×%d", op, s.ops[op]))
	}
	return n, strings.Join(list, ", ")
}

func (s *counting) Get(ctx context.Context, k cache.Key) ([]byte, error) {
	s.count("get", k)
	return s.Store.Get(ctx, k)
}

func (s *counting) Put(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) error {
	s.count("put", k)
	return s.Store.Put(ctx, k, value, ttl)
}

func (s *counting) PutNew(ctx context.Context, k cache.Key, value []byte, ttl time.Duration) ([]byte, error) {
	s.count("put new", k)
	return s.Store.PutNew(ctx, k, value, ttl)
}

func (s *counting) Delete(ctx context.Context, k cache.Key) error {
	s.count("delete", k)
	return s.Store.Delete(ctx, k)
}

func (s *counting) Fields(ctx context.Context, k cache.Key) (map[string][]byte, error) {
	s.count("fields", k)
	return s.Store.Fields(ctx, k)
}

func (s *counting) PutField(ctx context.Context, k cache.Key, field string, value []byte, ttl time.Duration) error {
	s.count("put field", k)
	return s.Store.PutField(ctx, k, field, value, ttl)
}

func (s *counting) DeleteField(ctx context.Context, k cache.Key, field string) error {
	s.count("delete field", k)
	return s.Store.DeleteField(ctx, k, field)
}

// newCountingLab is a lab whose Store counts.
func newCountingLab(t *testing.T, changes ...change) (*lab, *counting) {
	t.Helper()
	s := &counting{ops: map[string]int{}}
	return newLab(t, append([]change{func(l *lab, _ *policy.Config) {
		s.Store = l.gateway.Store
		l.gateway.Store, l.gateway.Scanner.Store = s, s
	}}, changes...)...), s
}

// A warm request writes nothing and reads little: what can never change is remembered,
// and what others may have changed is read once.
func TestWarmRequestsReadLittle(t *testing.T) {
	t.Parallel()
	l, store := newCountingLab(t)
	alone, child := l.push("acme/app", "alone", 300_000), l.push("acme/app", "", 300_001)
	index := l.index("acme/app", "index", l.descriptor(child, "amd64"))
	for _, img := range []*image{alone, child} {
		l.scanned(img)
	}
	l.want(200, "", "GET", manifestPath("acme/app", "index"))
	l.want(200, "", "GET", manifestPath("acme/app", "alone"))
	for _, c := range []struct {
		name, method, path string
		most               int
	}{
		{"manifest by digest", "GET", manifestPath("acme/app", alone.digest.String()), 4},
		{"manifest by digest, HEAD", "HEAD", manifestPath("acme/app", alone.digest.String()), 4},
		{"manifest by tag", "GET", manifestPath("acme/app", "alone"), 5},
		{"config", "GET", blobPath("acme/app", alone.config), 5},
		{"layer", "GET", blobPath("acme/app", alone.layers[0]), 5},
		{"layer, HEAD", "HEAD", blobPath("acme/app", alone.layers[0]), 5},
		{"index", "GET", manifestPath("acme/app", index.String()), 9},
		{"child of an index", "GET", manifestPath("acme/app", child.digest.String()), 6},
		{"layer of an index", "GET", blobPath("acme/app", child.layers[0]), 7},
	} {
		l.want(200, "", c.method, c.path)
		store.reset()
		l.want(200, "", c.method, c.path)
		if n, what := store.took(); n > c.most || strings.Contains(what, "put") {
			t.Errorf("%s: %d operations, at most %d would do: %s", c.name, n, c.most, what)
		}
	}
}

// What is decided asks upstream for nothing, whatever is asked for and however often, and
// after a restart too; by tag, once in a tag's life.
func TestDecidedAsksUpstreamForNothing(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
	})
	img := l.push("acme/app", "1", 300_000, 5000)
	l.scanned(img)
	l.want(200, "", "GET", manifestPath("acme/app", "1"))
	paths := []string{manifestPath("acme/app", img.digest.String()), blobPath("acme/app", img.config), blobPath("acme/app", img.layers[0]), blobPath("acme/app", img.layers[1])}
	l.want(200, "", "GET", paths[2])
	ask := func(l *lab) {
		for i := range 1000 {
			l.want(200, "", []string{"GET", "HEAD"}[i%2], paths[i/2%len(paths)])
		}
	}
	l.origin.ResetCounts()
	ask(l)
	next := l.restarted()
	ask(next)
	if got := l.origin.Requests(); len(got) != 0 {
		t.Errorf("upstream was asked %d times, first for %+v", len(got), got[0])
	}
	for range 3 {
		for range 100 {
			next.want(200, "", "GET", manifestPath("acme/app", "1"))
		}
		clock.Add(int64(l.gateway.Gate.TagTTL + time.Second))
	}
	if got := l.origin.Requests(); len(got) != l.origin.Count(proxytest.Request{Kind: proxytest.KindManifest, Method: "HEAD", Reference: "1"}) || len(got) > 3 {
		t.Errorf("a tag asked for in three of its lives: upstream was asked %d times: %+v", len(got), got)
	}
}

// restarted ends the gateway and starts another one over the same store, engine and disk.
func (l *lab) restarted() *lab {
	l.Helper()
	l.gateway.Drain()
	if err := l.gateway.Close(l.Context()); err != nil {
		l.Fatal(err)
	}
	if err := l.gateway.Blobs.Close(); err != nil {
		l.Fatal(err)
	}
	return l.another(func(n *lab, _ *policy.Config) {
		n.gateway.Blobs.Close()
		n.gateway.Blobs = openSpool(l.T, l.dir+"/blobs")
		n.gateway.Now = l.gateway.Now
	})
}

// A tapped connection notes from what its body was sent.
type tapped struct {
	net.Conn
	sent *atomic.Pointer[string]
}

// ReadFrom is what net/http calls to have the kernel send a file. The *net.TCPConn below
// sends a file, and a limited part of one, and nothing else, without copying.
func (c tapped) ReadFrom(r io.Reader) (int64, error) {
	under := r
	if l, ok := r.(*io.LimitedReader); ok {
		under = l.R
	}
	what := fmt.Sprintf("%T", under)
	c.sent.Store(&what)
	return c.Conn.(io.ReaderFrom).ReadFrom(r)
}

type tap struct {
	net.Listener
	sent *atomic.Pointer[string]
}

func (t tap) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tapped{c, t.sent}, nil
}

// A blob that is there is sent by the kernel from its file, whole or in part, also the
// rest of one that was held.
func TestBlobsAreSentFromTheirFile(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
	var sent atomic.Pointer[string]
	srv := httptest.NewUnstartedServer(l.gateway)
	srv.Listener = tap{srv.Listener, &sent}
	srv.Start()
	defer srv.Close()
	l.url = srv.URL
	img := l.push("acme/app", "1", 300_000)
	layer := blobPath("acme/app", img.layers[0])
	check := func(name string, status int, want []byte, header ...string) {
		t.Helper()
		sent.Store(nil)
		r := l.want(status, "", "GET", layer, header...)
		if string(r.body) != string(want) {
			t.Errorf("%s: %d bytes, want %d", name, len(r.body), len(want))
		}
		none := "nothing"
		if got := *cmp.Or(sent.Load(), &none); got != fmt.Sprintf("%T", (*os.File)(nil)) {
			t.Errorf("%s: sent from %s", name, got)
		}
	}
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "1"))
	time.AfterFunc(50*time.Millisecond, l.engine.release)
	all := img.bytes[img.layers[0].Digest]
	check("held", 200, all)
	check("whole", 200, all)
	check("range", 206, all[1000:200_001], "Range", "bytes=1000-200000")
	check("suffix", 206, all[len(all)-5000:], "Range", "bytes=-5000")
	check("resumed", 206, all[7:], "Range", "bytes=7-")
}
