package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// The stories in bypass_*_test.go are tricks by which somebody might come by an image
// that policy denies. What each of them gets is added up in a ledger.

// A trick is one way to come by the blobs of an image. It ends with ctx at the latest.
type trick func(ctx context.Context, l *lab, led *ledger, img *image)

// foil plays a trick on an image that is known to be denied, and on one whose verdict
// comes while the trick is played. Neither may get a byte beyond a floor.
func foil(t *testing.T, play trick) {
	t.Helper()
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("known %v", known), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			led := newLedger()
			img := l.push("acme/app", "bad", 400_000, 90_000, 70_000, 900)
			l.engine.condemn(img.digest)
			if known {
				l.scanned(img)
			} else {
				l.engine.hold()
				l.want(200, "", "GET", manifestPath("acme/app", "bad"))
				l.playFor(200*time.Millisecond, play, led, img) // none of it sees the decision
				decided := time.AfterFunc(100*time.Millisecond, l.engine.release)
				defer decided.Stop()
			}
			l.playFor(patience, play, led, img)
			l.kept(led, img)
			l.refused(img)
			l.playFor(patience, play, led, img)
			l.kept(led, img)
		})
	}
}

func (l *lab) playFor(d time.Duration, play trick, led *ledger, img *image) {
	ctx, cancel := context.WithTimeout(l.Context(), d)
	defer cancel()
	play(ctx, l, led, img)
}

func newLedger() *ledger { return &ledger{got: map[digest.Digest][]interval{}} }

func (p *image) blobs() []ocispec.Descriptor {
	return append([]ocispec.Descriptor{p.config}, p.layers...)
}

// kept checks that no blob of an image passed its floor.
func (l *lab) kept(led *ledger, img *image) {
	l.Helper()
	for i, d := range img.blobs() {
		if end, floor := led.beyond(d.Digest), floorOf(d.Size, i == 0); end > floor {
			l.Errorf("blob %d of %d bytes: received up to %d, floor is %d", i, d.Size, end, floor)
		}
	}
}

// refused checks that an image is denied at each of its doors.
func (l *lab) refused(img *image) {
	l.Helper()
	for _, method := range []string{"GET", "HEAD"} {
		l.want(403, "", method, manifestPath(img.repo, img.digest.String()))
		for _, d := range img.blobs() {
			l.want(403, "", method, blobPath(img.repo, d))
		}
	}
}

func startOrigin(t *testing.T, o proxytest.Origin) *proxytest.Server {
	t.Helper()
	s, err := proxytest.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// besides gives a lab another upstream.
func besides(name string, origin *proxytest.Server) change {
	return func(l *lab, _ *policy.Config) {
		l.gateway.Upstreams = append(l.gateway.Upstreams, proxy.Upstream{Name: name, Registry: &upstream.Registry{Name: name, URL: origin.URL()}})
	}
}

// waitForUpstream has the gateway wait long enough for upstream's answer, which may be
// that it has no such blob, before it sends headers.
func waitForUpstream(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience }

// deny pushes an image and has it denied.
func (l *lab) deny(repo, tag string, sizes ...int) *image {
	l.Helper()
	img := l.push(repo, tag, sizes...)
	l.engine.condemn(img.digest)
	if r := l.scanned(img); r.status != 403 {
		l.Fatalf("a bad image: %d", r.status)
	}
	return img
}

// allow pushes an image and has it allowed.
func (l *lab) allow(repo, tag string, sizes ...int) *image {
	l.Helper()
	img := l.push(repo, tag, sizes...)
	if r := l.scanned(img); r.status != 200 {
		l.Fatalf("a good image: %d %s", r.status, r.message())
	}
	return img
}

// A packed layer is one as it lies in a registry.
type packed struct {
	mediaType   string
	data        []byte
	diffID      digest.Digest
	annotations map[string]string
}

// pushPacked pushes an image of given layers under a config type.
func (l *lab) pushPacked(repo, tag, configType string, layers ...packed) *image {
	l.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	p := &image{repo: repo, bytes: map[digest.Digest][]byte{}}
	for _, layer := range layers {
		d := ocispec.Descriptor{MediaType: layer.mediaType, Digest: l.origin.PutBlob(repo, layer.data), Size: int64(len(layer.data)), Annotations: layer.annotations}
		p.layers = append(p.layers, d)
		p.bytes[d.Digest] = layer.data
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.diffID)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		l.Fatal(err)
	}
	p.config = ocispec.Descriptor{MediaType: configType, Digest: l.origin.PutBlob(repo, raw), Size: int64(len(raw))}
	p.bytes[p.config.Digest] = raw
	p.digest = l.putJSON(repo, tag, ocispec.MediaTypeImageManifest, manifestOf(p.config, p.layers...))
	return p
}

func manifestOf(config ocispec.Descriptor, layers ...ocispec.Descriptor) ocispec.Manifest {
	return ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers}
}

// as returns a descriptor under another media type.
func as(mediaType string, ds ...ocispec.Descriptor) []ocispec.Descriptor {
	out := make([]ocispec.Descriptor, len(ds))
	for i, d := range ds {
		out[i] = ocispec.Descriptor{MediaType: mediaType, Digest: d.Digest, Size: d.Size}
	}
	return out
}

// raw sends a request letter by letter, and returns the answer to it.
func (l *lab) raw(ctx context.Context, lines ...string) reply {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(l.url, "http://"))
	if err != nil {
		return reply{err: err}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\nConnection: close\r\n\r\n"); err != nil {
		return reply{err: err}
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return reply{err: err}
	}
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b, err}
}

// layerBytes returns a layer as it is sent, and the digest of what it unpacks to.
func (l *lab) layerBytes(layer v1.Layer) ([]byte, digest.Digest) {
	l.Helper()
	r, err := layer.Compressed()
	if err != nil {
		l.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		l.Fatal(err)
	}
	diffID, err := layer.DiffID()
	if err != nil {
		l.Fatal(err)
	}
	return b, digest.Digest(diffID.String())
}
