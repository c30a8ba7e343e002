package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A ledger adds up the bytes of each blob that one caller has received, over all of
// its connections.
type ledger struct {
	mu  sync.Mutex // guards got
	got map[digest.Digest][]interval
}

type interval struct{ from, to int64 }

func (l *ledger) add(d digest.Digest, from, to int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to > from {
		l.got[d] = append(l.got[d], interval{from, to})
	}
}

// beyond returns the highest position of a blob that was received.
func (l *ledger) beyond(d digest.Digest) (end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.got[d] {
		end = max(end, i.to)
	}
	return end
}

// covered returns how many different bytes of a blob were received.
func (l *ledger) covered(d digest.Digest) (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	is := slices.Clone(l.got[d])
	slices.SortFunc(is, func(a, b interval) int { return int(a.from - b.from) })
	at := int64(0)
	for _, i := range is {
		if from := max(i.from, at); i.to > from {
			n += i.to - from
			at = i.to
		}
	}
	return n
}

// floorOf is the promise in the words of the design, computed apart from the code
// under test.
func floorOf(size int64, config bool) int64 {
	if config {
		return min(64, size)
	}
	keep := max(64<<10, size/32)
	return max(0, size-keep)
}

// steal sends one request for a blob and notes what arrives, checked to be the blob's
// own bytes, until the response ends or ctx does.
func (l *lab) steal(ctx context.Context, led *ledger, img *image, d ocispec.Descriptor, header ...string) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(l.url, "http://"))
	if err != nil {
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req, _ := http.NewRequest(http.MethodGet, l.url+"/v2/"+img.repo+"/blobs/"+d.Digest.String(), nil)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if req.Write(conn) != nil {
		return
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		return
	}
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusNotModified {
		l.Error("304 for a blob that is not released")
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return
	}
	content := img.bytes[d.Digest]
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "multipart/") {
		l.Error("a pending blob was answered in several parts")
		return
	}
	from := int64(0)
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil && resp.StatusCode == http.StatusPartialContent {
		l.Errorf("206 without a Content-Range: %q", resp.Header.Get("Content-Range"))
	}
	if !bytes.Equal(body, content[from:from+int64(len(body))]) {
		l.Errorf("bytes %d to %d of %s are not the blob's", from, from+int64(len(body)), d.Digest)
	}
	led.add(d.Digest, from, from+int64(len(body)))
}

// An allowed image arrives complete, held at the floor while it is pending, and each
// blob is fetched from upstream once.
func TestAllowed(t *testing.T) {
	l := newLab(t)
	img := l.push("acme/app", "good", 2<<20, 200_000, 100)
	l.engine.hold()
	if r := l.get("GET", "/v2/acme/app/manifests/good", 5*time.Second); r.status != 200 || digest.FromBytes(r.body) != img.digest {
		t.Fatalf("manifest: %d %s", r.status, r.message())
	}
	var clients sync.WaitGroup
	for _, d := range append([]ocispec.Descriptor{img.config}, img.layers...) {
		for range 3 {
			clients.Go(func() {
				r := l.get("GET", "/v2/acme/app/blobs/"+d.Digest.String(), 20*time.Second)
				if r.err != nil || digest.FromBytes(r.body) != d.Digest {
					t.Errorf("blob of %d bytes: got %d, %v", d.Size, len(r.body), r.err)
				}
			})
		}
	}
	time.Sleep(200 * time.Millisecond) // let them reach the floor
	l.engine.release()
	clients.Wait()
	for _, d := range append([]ocispec.Descriptor{img.config}, img.layers...) {
		if n, _ := l.origin.Served(d.Digest); n != 1 {
			t.Errorf("blob %s was fetched %d times", d.Digest, n)
		}
	}
	for _, q := range l.origin.Leaks() {
		t.Errorf("the pull token's authority went to the blob host: %v", q)
	}
}

// Who resumes at the held offset gets the rest once the image is allowed, and never
// before; one byte at a time yields no more than all at once.
func TestResume(t *testing.T) {
	l := newLab(t)
	img := l.push("acme/app", "one", 200_000)
	d := img.layers[0]
	floor := floorOf(d.Size, false)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	part := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond)
	if n := int64(len(part.body)); n == 0 || n > floor {
		t.Fatalf("%d bytes before the decision, floor is %d", n, floor)
	}
	rest := "bytes=" + itoa(len(part.body)) + "-"
	var clients sync.WaitGroup
	for at := floor; at < d.Size; at += 4096 {
		clients.Go(func() {
			for _, r := range []string{"bytes=" + itoa(int(at)) + "-", "bytes=" + itoa(int(at)) + "-" + itoa(int(at)), "bytes=-" + itoa(int(d.Size-at))} {
				if got := l.get("GET", blobPath("acme/app", d), 150*time.Millisecond, "Range", r); len(got.body) > 0 && got.status/100 == 2 {
					t.Errorf("%s: %d bytes of the held tail", r, len(got.body))
				}
			}
		})
	}
	clients.Wait()
	if got := l.get("GET", blobPath("acme/app", d), 150*time.Millisecond, "Range", rest); int64(len(part.body)+len(got.body)) > floor {
		t.Errorf("resumed past the floor: %d + %d", len(part.body), len(got.body))
	}
	l.engine.release()
	got := l.want(206, "", "GET", blobPath("acme/app", d), "Range", rest)
	if digest.FromBytes(append(part.body, got.body...)) != d.Digest {
		t.Error("the parts are not the layer")
	}
	l.want(416, "", "GET", blobPath("acme/app", d), "Range", "bytes="+itoa(int(d.Size))+"-")
	if r := l.want(206, "", "GET", blobPath("acme/app", d), "Range", "bytes=0-1,5-6"); !strings.HasPrefix(r.header.Get("Content-Type"), "multipart/") {
		t.Errorf("two ranges: %s", r.header.Get("Content-Type"))
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
