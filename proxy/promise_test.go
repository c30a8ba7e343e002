package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
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

// A thief asks for a blob in a random way and writes down what it gets.
func (l *lab) thief(ctx context.Context, rng *rand.Rand, led *ledger, img *image, d ocispec.Descriptor) {
	size := d.Size
	k := rng.Int64N(size)
	ranges := []string{
		"", "", "bytes=0-", fmt.Sprintf("bytes=%d-", k), fmt.Sprintf("bytes=%d-", size-1), fmt.Sprintf("bytes=%d-%d", k, size-1),
		fmt.Sprintf("bytes=-%d", 1+rng.Int64N(size)), fmt.Sprintf("bytes=%d-%d", max(0, size-10), size+1000),
		fmt.Sprintf("bytes=0-%d,%d-%d", k, k, size-1), "bytes=-1", fmt.Sprintf("bytes=%d-%d", k, k), "bytes=" + strconv.FormatInt(max(0, size-64<<10), 10) + "-",
	}
	var header []string
	if r := ranges[rng.IntN(len(ranges))]; r != "" {
		header = []string{"Range", r}
	}
	switch etag := `"` + d.Digest.String() + `"`; rng.IntN(8) {
	case 0:
		header = append(header, "If-Range", etag)
	case 1:
		header = append(header, "If-Range", `"another"`)
	case 2:
		header = append(header, "If-None-Match", etag)
	case 3:
		header = append(header, "If-Match", `"another"`, "If-None-Match", "*")
	}
	l.steal(ctx, led, img, d, header...)
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

// No blob that only pending or denied images list ever passes its floor, whatever a
// caller asks for, over however many connections, before, during and after the scan.
func TestPromise(t *testing.T) {
	l := newLab(t)
	denied := l.push("acme/app", "bad", 3<<20, 300_000, 70_000, 1000)
	denied2 := l.push("acme/app", "small", 5000, 200_000)
	l.engine.condemn(denied.digest)
	l.engine.condemn(denied2.digest)
	l.engine.hold()
	for _, tag := range []string{"bad", "small"} {
		if r := l.get("GET", "/v2/acme/app/manifests/"+tag, 5*time.Second); r.status != 200 {
			t.Fatalf("manifest of a pending image: %d %s", r.status, r.message())
		}
	}
	led := &ledger{got: map[digest.Digest][]interval{}}
	ctx, cancel := context.WithCancel(t.Context())
	var thieves sync.WaitGroup
	for seed := range uint64(16) {
		thieves.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 7))
			for ctx.Err() == nil {
				img := []*image{denied, denied2}[rng.IntN(2)]
				blobs := append([]ocispec.Descriptor{img.config}, img.layers...)
				once, stop := context.WithTimeout(ctx, time.Duration(rng.IntN(150))*time.Millisecond)
				l.thief(once, rng, led, img, blobs[rng.IntN(len(blobs))])
				stop()
			}
		})
	}
	// A patient one on each blob, who is held until the decision.
	var patient sync.WaitGroup
	for _, img := range []*image{denied, denied2} {
		for _, d := range append([]ocispec.Descriptor{img.config}, img.layers...) {
			patient.Go(func() { l.steal(ctx, led, img, d) })
		}
	}
	time.Sleep(1500 * time.Millisecond) // of stealing while pending: an amount of work, not a wait for something
	l.engine.release()
	patient.Wait()
	time.Sleep(300 * time.Millisecond) // and while denied
	cancel()
	thieves.Wait()

	some := false
	for _, img := range []*image{denied, denied2} {
		for i, d := range append([]ocispec.Descriptor{img.config}, img.layers...) {
			floor := floorOf(d.Size, i == 0)
			if end := led.beyond(d.Digest); end > floor {
				t.Errorf("blob %d of %d bytes: received up to %d, floor is %d", i, d.Size, end, floor)
			}
			some = some || led.covered(d.Digest) > d.Size/2
		}
	}
	if !some {
		t.Error("no thief got half of any blob: the test has shown nothing")
	}
	for _, img := range []*image{denied, denied2} {
		for _, path := range []string{"/manifests/" + img.digest.String(), "/blobs/" + img.config.Digest.String(), "/blobs/" + img.layers[0].Digest.String()} {
			if r := l.get("GET", "/v2/acme/app"+path, 5*time.Second); r.status != 403 || !strings.HasPrefix(r.message(), "DENIED: blocked by policy") {
				t.Errorf("%s after the decision: %d %s", path, r.status, r.message())
			}
		}
	}
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
