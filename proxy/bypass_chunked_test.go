package proxy_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const bigFile = "opt/data.bin"

// bigData is what the lazily read layers hold.
func bigData() []byte {
	b := make([]byte, 300_000)
	rng := rand.NewChaCha8(sha256.Sum256([]byte("lazy")))
	rng.Read(b)
	return b
}

// bigTar is a root file system with one file that matters.
func (l *lab) bigTar() *io.SectionReader {
	l.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{{Name: "opt/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: bigFile, Typeflag: tar.TypeReg, Mode: 0o644, Size: 300_000}} {
		if err := w.WriteHeader(&h); err != nil {
			l.Fatal(err)
		}
	}
	w.Write(bigData())
	if err := w.Close(); err != nil {
		l.Fatal(err)
	}
	return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len()))
}

// lazyLayer builds a layer whose table of contents stands at its end, as stargz does or
// as zstd:chunked does.
func (l *lab) lazyLayer(chunked bool) packed {
	l.Helper()
	p := packed{mediaType: ocispec.MediaTypeImageLayerGzip, annotations: map[string]string{}}
	options := []estargz.Option{estargz.WithChunkSize(32 << 10)}
	if chunked {
		p.mediaType = ocispec.MediaTypeImageLayerZstd
		options = append(options, estargz.WithCompression(&zstdPair{
			&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: p.annotations}, &zstdchunked.Decompressor{}}))
	}
	blob, err := estargz.Build(l.bigTar(), options...)
	if err != nil {
		l.Fatal(err)
	}
	defer blob.Close()
	if p.data, err = io.ReadAll(blob); err != nil {
		l.Fatal(err)
	}
	p.diffID = blob.DiffID()
	p.annotations[estargz.TOCJSONDigestAnnotation] = blob.TOCDigest().String()
	return p
}

type zstdPair struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

// A lazy reader reads a layer in bounded ranges, as snapshotters do, and notes what came.
type lazyReader struct {
	l    *lab
	led  *ledger
	d    ocispec.Descriptor
	path string
	wait time.Duration
}

func (r *lazyReader) ReadAt(p []byte, at int64) (int, error) {
	got := r.l.get("GET", r.path, r.wait, "Range", fmt.Sprintf("bytes=%d-%d", at, at+int64(len(p))-1))
	if got.status/100 == 2 {
		r.led.add(r.d.Digest, at, at+int64(len(got.body)))
	}
	if got.status != 206 || len(got.body) != len(p) {
		return 0, errors.Join(fmt.Errorf("status %d, %d bytes, %s", got.status, len(got.body), got.message()), got.err)
	}
	return copy(p, got.body), nil
}

// open reads a layer's table of contents as a snapshotter does: by the footer.
func (r *lazyReader) open() (*estargz.Reader, error) {
	return estargz.Open(io.NewSectionReader(r, 0, r.d.Size), estargz.WithDecompressors(&estargz.GzipDecompressor{}, &zstdchunked.Decompressor{}))
}

// content reads the file that matters.
func (r *lazyReader) content() ([]byte, error) {
	toc, err := r.open()
	if err != nil {
		return nil, err
	}
	f, err := toc.OpenFile(bigFile)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(f)
}

// Snapshotters read the table of contents at the end of an eStargz or zstd:chunked
// layer, by its footer or by the manifest's annotations, and then pieces from anywhere:
// they never need a blob's end. They get nothing of a denied image, nothing of a
// pending one before its decision, and all of it afterwards.
func TestLazyLayers(t *testing.T) {
	t.Parallel()
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("zstd:chunked %v", chunked), func(t *testing.T) {
			t.Parallel()
			for _, bad := range []bool{false, true} {
				l := newLab(t)
				img := l.pushPacked("acme/app", "lazy", ociConfig, l.lazyLayer(chunked))
				if bad {
					l.engine.condemn(img.digest)
				}
				l.engine.hold()
				l.want(200, "", "GET", manifestPath("acme/app", "lazy"))
				led := newLedger()
				r := &lazyReader{l, led, img.layers[0], blobPath("acme/app", img.layers[0]), 150 * time.Millisecond}
				if _, err := r.open(); err == nil {
					t.Error("the table of contents could be read before the decision")
				}
				for at := int64(0); at < r.d.Size; at += 40_000 { // the pieces themselves, blindly
					r.ReadAt(make([]byte, min(40_000, r.d.Size-at)), at)
				}
				if chunked {
					l.podman(t, r, false)
				}
				if n := led.covered(r.d.Digest); n != 0 {
					t.Errorf("%d bytes came in pieces before the decision", n)
				}
				// One that is patient is held over the decision.
				r.wait = patience
				var client sync.WaitGroup
				client.Go(func() {
					b, err := r.content()
					if bad == (err == nil) || err == nil && !bytes.Equal(b, bigData()) {
						t.Errorf("bad %v: %d bytes, %v", bad, len(b), err)
					}
				})
				time.Sleep(100 * time.Millisecond) // let it wait
				l.engine.release()
				client.Wait()
				l.scanned(img)
				if chunked {
					l.podman(t, r, !bad)
				}
				if bad {
					l.kept(led, img)
					if _, err := r.open(); err == nil || !strings.Contains(err.Error(), "CVE-2021-44228") {
						t.Errorf("a denied layer: %v", err)
					}
				}
			}
		})
	}
}

// podman reads a zstd:chunked layer as containers/storage does: the table of contents
// by the manifest's annotation, then all chunks with many ranges in one request.
func (l *lab) podman(t *testing.T, r *lazyReader, allowed bool) {
	t.Helper()
	var offset, packed, unpacked, kind int64
	if _, err := fmt.Sscanf(r.d.Annotations[zstdchunked.ManifestPositionAnnotation], "%d:%d:%d:%d", &offset, &packed, &unpacked, &kind); err != nil {
		t.Fatal(err)
	}
	toc := make([]byte, packed)
	if _, err := r.ReadAt(toc, offset); allowed == (err != nil) {
		t.Errorf("table of contents by annotation: %v", err)
	}
	if allowed && digest.FromBytes(toc).String() != r.d.Annotations[zstdchunked.ManifestChecksumAnnotation] {
		t.Error("another table of contents than the annotation says")
	}
	var ranges []string
	for at := int64(0); at+30_000 < offset; at += 60_000 {
		ranges = append(ranges, fmt.Sprintf("%d-%d", at, at+29_999))
	}
	got := l.get("GET", r.path, r.wait, "Range", "bytes="+strings.Join(ranges, ","))
	if !allowed {
		if got.status/100 == 2 && len(got.body) > 0 {
			t.Errorf("many ranges: %d, %d bytes", got.status, len(got.body))
		}
		return
	}
	_, params, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if err != nil || got.status != 206 {
		t.Fatalf("many ranges: %d, %v", got.status, err)
	}
	parts := multipart.NewReader(bytes.NewReader(got.body), params["boundary"])
	for _, want := range ranges {
		part, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(part)
		if cr := part.Header.Get("Content-Range"); len(b) != 30_000 || !strings.HasPrefix(cr, "bytes "+want+"/") {
			t.Errorf("part %s: %d bytes, %s", want, len(b), cr)
		}
	}
}
