package proxy_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Names for a denied image's parts that some reader might take for another's: other
// spellings of the path, of the method, of the upstream. None is answered with content,
// with a digest, or with anything that says it is fine.
func TestOtherSpellings(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.deny("acme/app", "sha256-"+strings.Repeat("0", 64), 400_000)
	good := l.allow("acme/app", "good", 5000)
	hex := bad.layers[0].Digest.Encoded()
	blob, tag := "/v2/acme/app/blobs/sha256:"+hex, manifestPath("acme/app", "sha256-"+strings.Repeat("0", 64))
	targets := []string{
		blob, tag,
		"/v2/acme%2Fapp/blobs/sha256:" + hex, "/v2/acme%2fapp/manifests/" + bad.digest.String(), "/v2/acme/app/blobs/sha256%3A" + hex, "/%76%32/acme/app/blobs/sha256:" + hex,
		"//v2/acme/app/blobs/sha256:" + hex, "/v2//acme/app/blobs/sha256:" + hex, "/v2/acme//app/blobs/sha256:" + hex, "/v2/acme/app//blobs/sha256:" + hex, "/v2/acme/app/blobs//sha256:" + hex,
		"/v2/./acme/app/blobs/sha256:" + hex, "/v2/acme/../acme/app/blobs/sha256:" + hex, "/v2/acme/%2e%2e/acme/app/blobs/sha256:" + hex, "/v2/../v2/acme/app/blobs/sha256:" + hex,
		"/v2/acme/app/blobs/../blobs/sha256:" + hex, "/v2/acme/other/../app/blobs/sha256:" + hex, "/v2/acme/app/manifests/../blobs/sha256:" + hex,
		"/v2/acme/app/blobs/sha256:" + hex + "/", "/v2/acme/app/blobs/sha256:" + hex + "%00", "/v2/acme/app/blobs/sha256:" + hex + "%20", "/v2/acme/app/blobs/sha256:" + hex + "?x", blob + "#x", blob + ";x",
		"/v2/acme/app/blobs/SHA256:" + hex, "/v2/acme/app/blobs/sha256:" + strings.ToUpper(hex), "/v2/acme/app/blobs/" + hex, "/v2/acme/app/blobs/sha256-" + hex, "/v2/acme/app/blobs/sha256+b64:" + hex,
		"/v2/Acme/app/blobs/sha256:" + hex, "/v2/ACME/APP/blobs/sha256:" + hex, "/V2/acme/app/blobs/sha256:" + hex, "/v2/acme/app/Blobs/sha256:" + hex, "/v1/acme/app/blobs/sha256:" + hex,
		"/v2/cgr.test/acme/app/blobs/sha256:" + hex, "/v2/cgr.test/cgr.test/acme/app/blobs/sha256:" + hex, "/v2/CGR.test/acme/app/blobs/sha256:" + hex,
		blob + "?ns=cgr.test", blob + "?ns=", blob + "?ns=cgr.test&ns=evil.example", blob + "?ns=evil.example&ns=cgr.test", blob + "?NS=evil.example", blob + "?ns=CGR.TEST", blob + "?ns=cgr.test%00", blob + "?ns=cgr.test;ns=x", blob + "?%",
		"/v2/acme/app/blobs/uploads/sha256:" + hex, "/v2/acme/app/manifests/sha256:" + hex, "/v2/acme/app/manifests/" + good.digest.String() + "/../" + bad.digest.String(),
		"/v2/acme/app/blobs/" + good.layers[0].Digest.String() + "," + bad.layers[0].Digest.String(), "/v2/acme/app/blobs/" + good.layers[0].Digest.String() + "%0a" + bad.layers[0].Digest.String(),
		"http://" + strings.TrimPrefix(l.url, "http://") + blob, "http://elsewhere.example" + blob,
	}
	for _, target := range targets {
		for _, method := range []string{"GET", "HEAD", "get", "Get", "POST", "PUT", "OPTIONS", "TRACE", "PROPFIND", "CONNECT"} {
			if method == "CONNECT" && !strings.HasPrefix(target, "/") {
				continue
			}
			for _, proto := range []string{"HTTP/1.1", "HTTP/1.0"} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				r := l.raw(ctx, method+" "+target+" "+proto, "Host: cgr.test", "X-HTTP-Method-Override: GET", "X-Original-URL: "+blob, "X-Rewrite-URL: "+blob, "X-Forwarded-Prefix: /x")
				cancel()
				if r.status/100 == 2 || r.status == 304 || r.header.Get("Docker-Content-Digest") != "" || len(r.body) > 2000 {
					t.Errorf("%s %s %s: %d, %d bytes", method, target, proto, r.status, len(r.body))
				}
			}
		}
	}
	if r := l.raw(t.Context(), "GET "+blobPath("acme/app", good.layers[0])+" HTTP/1.0"); r.status != 200 || digest.FromBytes(r.body) != good.layers[0].Digest {
		t.Errorf("a good layer over HTTP/1.0: %d", r.status)
	}
}

// Two Range headers, and other doubled or folded ones: what is sent before the decision
// stays below the floor.
func TestDoubledHeaders(t *testing.T) {
	t.Parallel()
	foil(t, func(ctx context.Context, l *lab, led *ledger, img *image) {
		for _, d := range []int{0, 1} {
			desc := img.blobs()[d]
			for _, lines := range [][]string{
				{"Range: bytes=0-10", "Range: bytes=0-"}, {"Range: bytes=0-", "Range: bytes=-1"}, {"Range: bytes=-1", "Range: bytes=0-"},
				{"range: bytes=0-", "RANGE: bytes=399000-"}, {"Range: bytes=0-", "If-Range: \"x\"", "If-Range: \"" + desc.Digest.String() + "\""},
				{"Content-Length: 0", "Range: bytes=-1"}, {"Request-Range: bytes=-1"}, {"Expect: 100-continue"}, {"Accept-Encoding: gzip"}, {"TE: trailers"}, {"Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"},
			} {
				short, cancel := context.WithTimeout(ctx, 120*time.Millisecond)
				r := l.raw(short, append([]string{"GET " + blobPath(img.repo, desc) + " HTTP/1.1", "Host: x"}, lines...)...)
				cancel()
				if r.status/100 != 2 {
					continue
				}
				at := strings.Index(string(img.bytes[desc.Digest]), string(r.body))
				if at < 0 {
					t.Errorf("%v: other bytes than the blob's", lines)
				}
				led.add(desc.Digest, int64(at), int64(at+len(r.body)))
			}
		}
	})
}

// What a HEAD tells of a pending blob is its size, of a denied one nothing.
func TestHeadOfABlob(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000, 900)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	l.want(200, "", "HEAD", manifestPath("acme/app", "bad"))
	for _, d := range bad.blobs() {
		r := l.want(200, "", "HEAD", blobPath("acme/app", d))
		if len(r.body) > 0 || r.header.Get("Content-Length") != itoa(int(d.Size)) {
			t.Errorf("a pending blob: %v", r.header)
		}
		for _, header := range []string{"bytes=0-0", "bytes=-1", "bytes=5-", "bytes=0-0,2-2", "x"} {
			if r := l.get("HEAD", blobPath("acme/app", d), patience, "Range", header); len(r.body) > 0 || r.status == http.StatusNotModified {
				t.Errorf("HEAD of %s: %d, %d bytes", header, r.status, len(r.body))
			}
		}
	}
	l.engine.release()
	l.scanned(bad)
	for _, d := range bad.blobs() {
		r := l.want(403, "", "HEAD", blobPath("acme/app", d))
		for _, h := range []string{"ETag", "Docker-Content-Digest", "Content-Range", "Accept-Ranges", "Last-Modified"} {
			if v := r.header.Get(h); v != "" {
				t.Errorf("a denied blob: %s: %s", h, v)
			}
		}
		if r.header.Get("Content-Length") == itoa(int(d.Size)) {
			t.Error("a denied blob tells its size")
		}
	}
}
