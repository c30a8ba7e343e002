package proxy

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// What upstream said of a blob's length is known as long as the blob is on its way,
// however many others come and go meanwhile, and no longer.
func TestAnnouncedWhileOnItsWay(t *testing.T) {
	t.Parallel()
	blobs := map[string][]byte{}
	descriptor := func(b []byte) ocispec.Descriptor {
		d := digest.FromBytes(b)
		blobs[d.String()] = b
		return ocispec.Descriptor{Digest: d, Size: int64(len(b))}
	}
	slow := descriptor(bytes.Repeat([]byte("slow"), 1000))
	var others []ocispec.Descriptor
	for i := range 20 {
		others = append(others, descriptor(fmt.Append(nil, "other ", i)))
	}
	more := make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		b := blobs[name]
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		w.Write(b[:len(b)/2])
		if name == slow.Digest.String() {
			http.NewResponseController(w).Flush()
			<-more
		}
		w.Write(b[len(b)/2:])
	}))
	defer origin.Close()
	s, err := spool.Open(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	g := &Gateway{
		Upstreams: []Upstream{{Name: "cgr.test", Registry: &upstream.Registry{Name: "cgr.test", URL: origin.URL}}},
		Store:     &cache.Memory{}, Blobs: s, Gate: DefaultGate(), Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	fetch := func(d ocispec.Descriptor) *spool.Blob {
		t.Helper()
		b, err := g.fetchBlob(Repo{"cgr.test", "acme/app"}, d, nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := fetch(slow)
	defer b.Close()
	h := &held{g: g, blob: b}
	if _, err := b.Await(t.Context(), 0); err != nil || !h.announced() {
		t.Fatalf("announced %v, %v", h.announced(), err)
	}
	for _, d := range others {
		o := fetch(d)
		if err := o.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		o.Close()
	}
	if !h.announced() {
		t.Error("the length of a blob on its way was forgotten")
	}
	close(more)
	if err := b.Wait(t.Context()); err != nil || !h.announced() {
		t.Errorf("in the end: announced %v, %v", h.announced(), err)
	}
	g.sized.Range(func(key, _ any) bool {
		t.Errorf("the length of %v is kept, and all are there", key)
		return true
	})
}
