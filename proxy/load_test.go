package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
)

// waiting are clients that wait, without a goroutine of their own.
type waiting struct {
	conns   []net.Conn
	readers []*bufio.Reader
}

// wait sends n requests to addr, the i-th for path(i), and reads of each answer the
// headers and first bytes that it is sure to get before the decision, if any.
func wait(t *testing.T, addr string, n int, path func(int) (string, int64)) *waiting {
	t.Helper()
	w := &waiting{}
	t.Cleanup(w.close)
	for i := range n {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := path(i)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: gateway\r\n\r\n", p)
		w.conns, w.readers = append(w.conns, conn), append(w.readers, bufio.NewReaderSize(conn, 16))
	}
	for i, r := range w.readers {
		_, sure := path(i)
		if sure < 0 {
			continue
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("client %d: %v %v", i, resp, err)
		}
		if _, err := io.CopyN(io.Discard, resp.Body, sure); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	return w
}

func (w *waiting) close() {
	for _, c := range w.conns {
		c.Close()
	}
}

// cost returns goroutines and bytes in use now.
func cost() (goroutines int, memory int64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), int64(m.HeapAlloc + m.StackInuse)
}

// A client that waits costs the goroutines and the memory of its connection, as with any
// handler that waits, and no more: for a manifest, for a config's headers, for a layer
// held at its floor, and for one that upstream doesn't send.
func TestWaitingIsCheap(t *testing.T) {
	const clients = 400
	// What a handler costs that does nothing but wait after its first bytes.
	idle := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100000")
		w.Write(make([]byte, 1000))
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer idle.Close()
	goroutines, memory := cost()
	w := wait(t, idle.Listener.Addr().String(), clients, func(int) (string, int64) { return "/", 1000 })
	g, m := cost()
	goroutines, memory = g-goroutines, m-memory
	w.close()

	tests := []struct {
		name string
		path func(*image) (string, int64)
	}{
		{"a manifest", func(img *image) (string, int64) { return manifestPath("acme/app", img.digest.String()), -1 }},
		{"a config", func(img *image) (string, int64) { return blobPath("acme/app", img.config), -1 }},
		{"a held layer", func(img *image) (string, int64) {
			return blobPath("acme/app", img.layers[0]), floorOf(img.layers[0].Size, false) - 300
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, func(l *lab, _ *policy.Config) {
				l.gateway.Gate.HeaderWait, l.gateway.Gate.Drip = time.Minute, time.Minute
			})
			img := l.push("acme/app", "one", 300_000, 100)
			l.engine.hold()
			l.want(200, "", "GET", manifestPath("acme/app", "one"))
			for _, d := range append(img.layers, img.config) {
				l.eventually("it is there", func() bool {
					b, err := l.gateway.Blobs.Open(d.Digest)
					if err != nil {
						return false
					}
					defer b.Close()
					return b.Committed()
				})
			}
			if tt.name == "a manifest" { // of an image whose pull has just begun
				l.gateway.Gate.ManifestWait = time.Minute
				img = l.push("acme/app", "two", 100)
				l.get("GET", manifestPath("acme/app", "two"), 50*time.Millisecond) // and hangs up
				l.eventually("it begins", func() bool { n, _ := l.origin.Served(img.layers[0].Digest); return n == 1 })
			}
			before, used := cost()
			path, sure := tt.path(img)
			w := wait(t, strings.TrimPrefix(l.url, "http://"), clients, func(int) (string, int64) { return path, sure })
			defer w.close()
			var g int
			var m int64
			if sure < 0 {
				l.eventually("all wait", func() bool { g, m = cost(); return g-before >= clients*2-clients/10 })
				time.Sleep(100 * time.Millisecond) // and have done what they do before
			}
			g, m = cost()
			t.Logf("%d clients: %d goroutines, %d bytes each; a handler that only waits: %d, %d", clients, g-before, (m-used)/clients, goroutines, memory/clients)
			if g-before > goroutines+clients/10 {
				t.Errorf("%d goroutines for %d clients, a handler that only waits has %d", g-before, clients, goroutines)
			}
			if (m-used)/clients > memory/clients+64<<10 {
				t.Errorf("%d bytes a client, a handler that only waits has %d", (m-used)/clients, memory/clients)
			}
		})
	}
}

// whole pulls an image as a client of three parallel layers does, until all of it is
// there, and returns how long that took.
func (l *lab) whole(img *image) time.Duration {
	began := time.Now()
	l.want(200, "", "GET", manifestPath(img.repo, img.digest.String()))
	var layers sync.WaitGroup
	for _, d := range append([]ocispec.Descriptor{img.config}, img.layers...) {
		layers.Go(func() {
			if r := l.get("GET", blobPath(img.repo, d), time.Minute); r.status != 200 || r.err != nil || digest.FromBytes(r.body) != d.Digest {
				l.Errorf("blob of %d bytes: %d %s, %d bytes, %v", d.Size, r.status, r.message(), len(r.body), r.err)
			}
		})
	}
	layers.Wait()
	return time.Since(began)
}

// A denial cuts one held response of each client at once, and the others soon after; over
// HTTP/2 too, and a promise is a promise there. Two clients behind one address are told
// apart by what they fetch twice. Who still waits for headers reads the reason at once.
func TestCut(t *testing.T) {
	const delay, slack = time.Second, 900 * time.Millisecond // less than the delay, so that first and second are told apart
	for _, tt := range []struct {
		layers, clients int
		http2           bool
	}{{3, 1, false}, {3, 1, true}, {6, 1, false}, {6, 1, true}, {3, 2, false}, {6, 2, true}} {
		t.Run(fmt.Sprintf("%d layers, %d clients, HTTP/2 %v", tt.layers, tt.clients, tt.http2), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(l *lab, _ *policy.Config) {
				l.gateway.Gate.CutDelay, l.gateway.Gate.HeaderWait = delay, patience
			})
			srv := httptest.NewUnstartedServer(l.gateway)
			srv.EnableHTTP2 = tt.http2
			srv.StartTLS()
			defer srv.Close()
			var sizes []int
			for i := range tt.layers {
				sizes = append(sizes, 300_000+i)
			}
			bad := l.push("acme/app", "bad", sizes...)
			l.engine.condemn(bad.digest)
			l.engine.hold()
			l.want(200, "", "GET", manifestPath("acme/app", "bad"))
			var held sync.WaitGroup
			held.Add(tt.clients * tt.layers)
			var mu sync.Mutex
			ends := make([][]time.Time, tt.clients) // of each client's responses
			var all sync.WaitGroup
			var refused time.Time
			all.Go(func() {
				l.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", bad.config))
				refused = time.Now()
			})
			for i := range tt.clients {
				transport := srv.Client().Transport.(*http.Transport).Clone()
				defer transport.CloseIdleConnections()
				for _, d := range bad.layers {
					all.Go(func() {
						end := l.cutOff(&http.Client{Transport: transport}, srv.URL, d, held.Done)
						mu.Lock()
						defer mu.Unlock()
						ends[i] = append(ends[i], end)
					})
				}
			}
			held.Wait()
			time.Sleep(50 * time.Millisecond) // for the config's request, which shows no sign of waiting
			decided := time.Now()
			l.engine.release()
			all.Wait()
			if d := refused.Sub(decided); d > slack {
				t.Errorf("who waits for headers is told after %v", d)
			}
			for _, e := range ends {
				slices.SortFunc(e, time.Time.Compare)
				first, second, last := e[0].Sub(decided), e[1].Sub(decided), e[len(e)-1].Sub(decided)
				if first > slack || second < delay || last > 2*time.Second {
					t.Errorf("cut after %v, %v, and at last %v", first, second, last)
				}
			}
		})
	}
}

// cutOff reads a held layer until it is cut, and returns when that was.
func (l *lab) cutOff(client *http.Client, url string, d ocispec.Descriptor, held func()) time.Time {
	resp, err := client.Get(url + blobPath("acme/app", d))
	held()
	if err != nil {
		l.Error(err)
		return time.Time{}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if floor := floorOf(d.Size, false); err == nil || int64(len(b)) > floor {
		l.Errorf("%s: %d of %d bytes, floor %d, %v", resp.Proto, len(b), d.Size, floor, err)
	}
	return time.Now()
}
