package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A client opens an allowed layer and reads nothing of it. What it pins in the spool is
// free again once its patience is over, so that others' images have room.
func TestClientThatReadsNothing(t *testing.T) {
	t.Parallel()
	const quota = 30 << 20
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Blobs.Close()
		s, err := spool.Open(t.TempDir(), quota)
		if err != nil {
			t.Fatal(err)
		}
		l.gateway.Blobs = s
		l.gateway.Gate.SendPatience = 500 * time.Millisecond
		l.gateway.Gate.RetryAfter = 10 * time.Millisecond
	})
	img := l.allow("acme/app", "one", 20<<20)
	conn, err := net.Dial("tcp", l.url[len("http://"):])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: gate.test\r\n\r\n", blobPath("acme/app", img.layers[0]))
	if _, err := io.ReadFull(conn, make([]byte, 15)); err != nil { // the status line: it is being served
		t.Fatal(err)
	}
	other := l.push("acme/other", "two", 20<<20)
	l.eventually("there is room again", func() bool {
		return l.get("GET", manifestPath("acme/other", "two"), patience).status == 200 &&
			len(l.get("GET", blobPath("acme/other", other.layers[0]), patience).body) == int(other.layers[0].Size)
	})
}

// Lists are read from upstream a few at a time, since each may be large.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.push("acme/app", "one", 100)
	var mu sync.Mutex // guards the counts
	var inside, most int
	full := make(chan struct{})
	l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindTags}.Matches, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		inside++
		if inside > most {
			most = inside
			if most == 16 {
				close(full)
			}
		}
		mu.Unlock()
		<-full
		next.ServeHTTP(w, r)
		mu.Lock()
		inside--
		mu.Unlock()
	})
	var clients sync.WaitGroup
	for range 40 {
		clients.Go(func() {
			if r := l.get("GET", "/v2/acme/app/tags/list", patience); r.status != 200 {
				t.Errorf("%d %s", r.status, r.message())
			}
		})
	}
	clients.Wait()
	if most != 16 {
		t.Errorf("upstream was asked %d times at once", most)
	}
}
