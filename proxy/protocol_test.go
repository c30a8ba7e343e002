package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// An exchange is a request, and what must come back.
type exchange struct {
	what   string
	method string // "" is GET
	path   string
	header []string // "Name: value", of the request; a name may come twice
	status int
	want   []string // "Name: value", of the answer; "Name:" is one that must not be there
	body   []byte   // exactly, where it isn't nil
	says   string   // in the code and message of an error
}

// check sends e, compares, and sends it again as HEAD, whose headers must be the same.
func (l *lab) check(e exchange) {
	l.Helper()
	if e.method == "" {
		e.method = http.MethodGet
	}
	r := l.ask(e.method, e.path, e.header...)
	if r.status != e.status || r.err != nil {
		l.Errorf("%s: %s %s: %d %s %v, want %d", e.what, e.method, e.path, r.status, r.message(), r.err, e.status)
	}
	for _, h := range e.want {
		name, value, _ := strings.Cut(h, ":")
		if got := strings.Join(r.header.Values(name), " + "); got != strings.TrimSpace(value) {
			l.Errorf("%s: %s is %q, want %q", e.what, name, got, strings.TrimSpace(value))
		}
	}
	if e.body != nil && !bytes.Equal(r.body, e.body) {
		l.Errorf("%s: got %d bytes (%.60q), want %d", e.what, len(r.body), r.body, len(e.body))
	}
	if e.status >= 400 {
		l.isError(e, r)
	}
	if e.method == http.MethodGet && !slices.ContainsFunc(e.header, func(h string) bool { return strings.HasPrefix(h, "Range:") }) {
		l.sameByHead(e, r)
	}
}

// isError checks that an answer is one error in the registry's JSON.
func (l *lab) isError(e exchange, r reply) {
	l.Helper()
	var doc struct {
		Errors []struct {
			Code, Message string
			Detail        any
		}
	}
	dec := json.NewDecoder(bytes.NewReader(r.body))
	dec.DisallowUnknownFields()
	switch err := dec.Decode(&doc); {
	case err != nil || len(doc.Errors) != 1 || dec.More():
		l.Errorf("%s: no error in the registry's JSON: %q", e.what, r.body)
	case !strings.Contains(r.message(), e.says) || doc.Errors[0].Message == "":
		l.Errorf("%s: says %q, want %q in it", e.what, r.message(), e.says)
	}
	if ct := r.header.Get("Content-Type"); ct != "application/json" || r.header.Get("Docker-Content-Digest") != "" || r.header.Get("ETag") != "" {
		l.Errorf("%s: an error has the headers %v", e.what, r.header)
	}
}

func (l *lab) sameByHead(e exchange, get reply) {
	l.Helper()
	head := l.ask(http.MethodHead, e.path, e.header...)
	for _, r := range []reply{get, head} {
		r.header.Del("Date")
	}
	if head.status != get.status || len(head.body) > 0 {
		l.Errorf("%s: HEAD is answered %d with %d bytes, GET %d", e.what, head.status, len(head.body), get.status)
	}
	if diff := cmp.Diff(get.header, head.header); diff != "" {
		l.Errorf("%s: headers of GET and HEAD differ (-get +head):\n%s", e.what, diff)
	}
}

// ask is get with headers that may come more than once.
func (l *lab) ask(method, path string, header ...string) reply {
	l.Helper()
	req, err := http.NewRequestWithContext(l.Context(), method, l.url+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, b, err}
}

// Ranges and preconditions of an allowed image's layer and manifest.
func TestContent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 200_000)
	l.scanned(img)
	layer := img.layers[0]
	path, all, size := blobPath("acme/app", layer), img.bytes[layer.Digest], len(img.bytes[layer.Digest])
	etag := `"` + layer.Digest.String() + `"`
	other := `"` + img.digest.String() + `"`
	whole := []string{fmt.Sprint("Content-Length: ", size), "Content-Range:", "Accept-Ranges: bytes", "Content-Type: application/octet-stream",
		"Docker-Content-Digest: " + layer.Digest.String(), "ETag: " + etag, "Content-Encoding:"}
	part := func(from, to int) []string {
		return []string{fmt.Sprint("Content-Length: ", to-from), fmt.Sprintf("Content-Range: bytes %d-%d/%d", from, to-1, size),
			"Docker-Content-Digest: " + layer.Digest.String(), "ETag: " + etag}
	}
	none := []string{fmt.Sprintf("Content-Range: bytes */%d", size), "X-Content-Type-Options:"}
	unchanged := []string{"ETag: " + etag, "Docker-Content-Digest: " + layer.Digest.String(), "Content-Length:", "Content-Type:"}
	ranged := func(spec string, more ...string) []string { return append([]string{"Range: bytes=" + spec}, more...) }

	manifest := manifestPath("acme/app", "one")
	raw := l.ask("GET", manifest).body
	tests := []exchange{
		{what: "a blob", path: path, status: 200, want: whole, body: all},
		{what: "a blob for one who takes compressed answers", path: path, header: []string{"Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"}, status: 200, want: whole, body: all},
		{what: "a blob for one who wants another type", path: path, header: []string{"Accept: application/json"}, status: 200, want: whole, body: all},
		{what: "bytes a-b", path: path, header: ranged("500-1499"), status: 206, want: part(500, 1500), body: all[500:1500]},
		{what: "one byte", path: path, header: ranged("0-0"), status: 206, want: part(0, 1), body: all[:1]},
		{what: "bytes a-", path: path, header: ranged("500-"), status: 206, want: part(500, size), body: all[500:]},
		{what: "bytes -n", path: path, header: ranged("-500"), status: 206, want: part(size-500, size), body: all[size-500:]},
		{what: "more at the end than there is", path: path, header: ranged("-9999999"), status: 206, want: part(0, size), body: all},
		{what: "an end past the last byte", path: path, header: ranged(fmt.Sprintf("%d-%d", size-10, size)), status: 206, want: part(size-10, size), body: all[size-10:]},
		{what: "an end far past the last byte", path: path, header: ranged("2000-99999999"), status: 206, want: part(2000, size), body: all[2000:]},
		{what: "a start past the end", path: path, header: ranged(fmt.Sprintf("%d-", size)), status: 416, want: none, says: "RANGE_INVALID: the content has none of the bytes"},
		{what: "several ranges past the end", path: path, header: ranged("9999999-, 8888888-"), status: 416, want: none, says: "RANGE_INVALID"},
		{what: "ranges that can't be read", path: path, header: ranged("x-y"), status: 416, says: "RANGE_INVALID"},
		{what: "a range that ends before it starts", path: path, header: ranged("9-3"), status: 416, says: "RANGE_INVALID"},
		{what: "ranges that are more than the whole", path: path, header: ranged("0-,0-"), status: 200, want: whole, body: all},
		{what: "a range of another unit", path: path, header: []string{"Range: lines=1-2"}, status: 200, want: whole, body: all},
		{what: "a range by HEAD", method: "HEAD", path: path, header: ranged("500-1499"), status: 200, want: whole},
		{what: "a range by HEAD past the end", method: "HEAD", path: path, header: ranged("99999999-"), status: 200, want: whole},

		{what: "If-None-Match", path: path, header: []string{"If-None-Match: " + etag}, status: 304, want: unchanged, body: []byte{}},
		{what: "a weak If-None-Match", path: path, header: []string{"If-None-Match: W/" + etag}, status: 304, want: unchanged},
		{what: "a list of If-None-Match", path: path, header: []string{"If-None-Match: " + other + ", W/" + etag}, status: 304, want: unchanged},
		{what: "any If-None-Match", path: path, header: []string{"If-None-Match: *"}, status: 304, want: unchanged},
		{what: "another If-None-Match", path: path, header: []string{"If-None-Match: " + other}, status: 200, want: whole, body: all},
		{what: "an If-None-Match without quotes", path: path, header: []string{"If-None-Match: " + layer.Digest.String()}, status: 200, want: whole},
		{what: "If-Match", path: path, header: []string{"If-Match: " + etag}, status: 200, want: whole},
		{what: "another If-Match", path: path, header: []string{"If-Match: " + other}, status: 412, says: "DIGEST_INVALID"},
		{what: "If-Range", path: path, header: ranged("5-9", "If-Range: "+etag), status: 206, want: part(5, 10), body: all[5:10]},
		{what: "another If-Range", path: path, header: ranged("5-9", "If-Range: "+other), status: 200, want: whole, body: all},
		{what: "a weak If-Range", path: path, header: ranged("5-9", "If-Range: W/"+etag), status: 200, want: whole, body: all},
		{what: "If-None-Match before a range", path: path, header: ranged("5-9", "If-None-Match: "+etag), status: 304},

		{what: "part of a manifest", path: manifest, header: ranged("1-4"), status: 206, body: raw[1:5]},
		{what: "a manifest's range past the end", path: manifest, header: ranged("99999-"), status: 416, want: []string{fmt.Sprintf("Content-Range: bytes */%d", len(raw))}, says: "RANGE_INVALID"},
	}
	for _, tt := range tests {
		l.check(tt)
	}
	l.severalRanges(path, all)
}

// Ranges are as exact while the blob still arrives.
func TestRangesWhileArriving(t *testing.T) {
	t.Parallel()
	l := newLab(t, fronts(proxytest.Origin{Bandwidth: 2 << 20}), func(_ *lab, c *policy.Config) { c.Mode = policy.Off })
	img := l.push("acme/app", "one", 1<<20)
	layer := img.layers[0]
	path, all := blobPath("acme/app", layer), img.bytes[layer.Digest]
	l.want(200, "", "GET", manifestPath("acme/app", "one"))
	size := len(all)
	tests := []exchange{
		{what: "all", path: path, status: 200, body: all},
		{what: "the first", path: path, header: []string{"Range: bytes=0-99"}, status: 206, body: all[:100]},
		{what: "the last", path: path, header: []string{"Range: bytes=-100"}, status: 206, body: all[size-100:]},
		{what: "from the middle", path: path, header: []string{fmt.Sprintf("Range: bytes=%d-", size/2)}, status: 206, body: all[size/2:]},
		{what: "beyond", path: path, header: []string{fmt.Sprintf("Range: bytes=%d-", size)}, status: 416, want: []string{fmt.Sprintf("Content-Range: bytes */%d", size)}, says: "RANGE_INVALID"},
		{what: "unchanged", path: path, header: []string{`If-None-Match: "` + layer.Digest.String() + `"`}, status: 304},
	}
	var wg sync.WaitGroup
	began := time.Now()
	for _, tt := range tests {
		wg.Go(func() { l.check(tt) })
	}
	wg.Go(func() { l.severalRanges(path, all) })
	wg.Wait()
	if times, n := l.origin.Served(layer.Digest); times != 1 || n != int64(size) || time.Since(began) < 300*time.Millisecond {
		t.Errorf("upstream sent %d bytes in %d answers, all in %v", n, times, time.Since(began))
	}
}

// severalRanges asks for ranges of a blob at once.
func (l *lab) severalRanges(path string, all []byte) {
	l.Helper()
	r := l.ask("GET", path, "Range: bytes=0-9, 100-199, -5")
	media, params, err := mime.ParseMediaType(r.header.Get("Content-Type"))
	if r.status != 206 || err != nil || media != "multipart/byteranges" {
		l.Errorf("several ranges: %d %v", r.status, r.header)
		return
	}
	parts := multipart.NewReader(bytes.NewReader(r.body), params["boundary"])
	n := len(all)
	for _, want := range [][2]int{{0, 10}, {100, 200}, {n - 5, n}} {
		p, err := parts.NextPart()
		if err != nil {
			l.Error(err)
			return
		}
		b, err := io.ReadAll(p)
		if err != nil || !bytes.Equal(b, all[want[0]:want[1]]) || p.Header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, n) {
			l.Errorf("part %v: %d bytes, %v, %v", want, len(b), p.Header, err)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		l.Errorf("after the last part: %v", err)
	}
}

// Manifests go out as they are, by tag and digest alike, whatever Accept says: see
// serveManifest. Clients look at Content-Type themselves.
func TestManifestContent(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 1000)
	l.scanned(img)
	index := l.index("acme/app", "multi", l.descriptor(img, "amd64"))
	const ociImage, ociIndex = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	const dockerImage, dockerList = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"
	desc, _ := l.origin.Descriptor("acme/app", "one")
	raw := l.ask("GET", manifestPath("acme/app", "one")).body
	typed := func(mediaType string, d digest.Digest) []string {
		return []string{"Content-Type: " + mediaType, "Docker-Content-Digest: " + d.String(), `ETag: "` + d.String() + `"`, "Warning:", "Vary:", "OCI-Namespace:"}
	}
	for _, accept := range [][]string{
		nil,
		{"Accept: */*"},
		{"Accept: " + ociImage + ", " + ociIndex + ", " + dockerImage + ", " + dockerList},
		{"Accept: " + dockerImage, "Accept: " + ociIndex, "Accept: " + dockerList, "Accept: " + ociImage}, // containers/image
		{"Accept: " + dockerList + ";q=0.9, " + ociImage + ";q=0.1, */*;q=0"},
		{"Accept: " + dockerImage}, // none of what there is
		{"Accept: application/json"},
		{"Accept: ,;=not,a/list"},
	} {
		for _, ref := range []string{"one", img.digest.String()} {
			l.check(exchange{what: fmt.Sprint("an image for ", accept), path: manifestPath("acme/app", ref), header: accept, status: 200, want: typed(desc.MediaType, img.digest), body: raw})
		}
		l.check(exchange{what: fmt.Sprint("an index for ", accept), path: manifestPath("acme/app", "multi"), header: accept, status: 200, want: typed(ociIndex, index)})
	}
	for _, h := range []string{`"` + img.digest.String() + `"`, `W/"` + img.digest.String() + `"`, `"x", "` + img.digest.String() + `"`, "*"} {
		l.check(exchange{what: "If-None-Match: " + h, path: manifestPath("acme/app", "one"), header: []string{"If-None-Match: " + h}, status: 304, want: []string{"Docker-Content-Digest: " + img.digest.String()}, body: []byte{}})
	}
	for _, q := range l.origin.Requests() {
		if q.Kind == proxytest.KindManifest && (!strings.Contains(q.Accept, ociImage) || !strings.Contains(q.Accept, ociIndex) || !strings.Contains(q.Accept, dockerImage) || !strings.Contains(q.Accept, dockerList)) {
			t.Errorf("upstream was asked for %s with Accept: %s", q.Reference, q.Accept)
		}
	}
}

// A manifest that is not decided is never vouched for by a 304.
func TestNoNotModifiedBeforeDecision(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.engine.hold()
	img := l.push("acme/app", "one", 1000)
	for _, method := range []string{"HEAD", "GET"} {
		l.check(exchange{what: "pending", method: method, path: manifestPath("acme/app", "one"), header: []string{`If-None-Match: "` + img.digest.String() + `"`}, status: 200})
	}
}

// Whatever is no read of the API is refused in the registry's JSON, without a word to
// upstream.
func TestRefusals(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	long := strings.Repeat("a/", 128) + "a"
	d := "sha256:" + strings.Repeat("a", 64)
	readOnly := []string{"Allow: GET, HEAD"}
	tests := []exchange{
		{what: "an upload", method: "POST", path: "/v2/acme/app/blobs/uploads/", status: 405, want: readOnly, says: "UNSUPPORTED: this gateway only serves pulls"},
		{what: "a mount", method: "POST", path: "/v2/acme/app/blobs/uploads/?mount=" + d + "&from=acme/other", status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "a chunk", method: "PATCH", path: "/v2/acme/app/blobs/uploads/1", status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "a manifest pushed", method: "PUT", path: "/v2/acme/app/manifests/one", status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "a manifest deleted", method: "DELETE", path: "/v2/acme/app/manifests/" + d, status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "a blob deleted", method: "DELETE", path: "/v2/acme/app/blobs/" + d, status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "options", method: "OPTIONS", path: "/v2/", status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "a method of its own", method: "BREW", path: "/v2/acme/app/manifests/one", status: 405, want: readOnly, says: "UNSUPPORTED"},
		{what: "an upload's progress", path: "/v2/acme/app/blobs/uploads/1", status: 404, says: "UNSUPPORTED"},
		{what: "the catalogue", path: "/v2/_catalog", status: 404, says: "UNSUPPORTED"},
		{what: "no kind", path: "/v2/acme", status: 404, says: "UNSUPPORTED"},
		{what: "an unknown kind", path: "/v2/acme/app/things/one", status: 404, says: "UNSUPPORTED"},
		{what: "no reference", path: "/v2/acme/app/manifests/", status: 404, says: "MANIFEST_UNKNOWN: not a valid tag"},
		{what: "no name", path: "/v2//manifests/one", status: 400, says: "NAME_INVALID"},
		{what: "no name at all", path: "/v2/manifests/one", status: 404, says: "UNSUPPORTED"},
		{what: "tags of nothing", path: "/v2/tags/list", status: 404, says: "UNSUPPORTED"},
		{what: "a name in capitals", path: "/v2/Acme/manifests/one", status: 400, says: "NAME_INVALID"},
		{what: "a name with a space", path: "/v2/ac%20me/manifests/one", status: 400, says: "NAME_INVALID"},
		{what: "a name that climbs", path: "/v2/acme/%2e%2e/app/manifests/one", status: 400, says: "NAME_INVALID"},
		{what: "a name that is too long", path: "/v2/" + long + "/manifests/one", status: 400, says: "NAME_INVALID"},
		{what: "a path that is too long", path: "/v2/" + strings.Repeat("a/", 20_000) + "tags/list", status: 400, says: "NAME_INVALID"},
		{what: "a tag that is too long", path: "/v2/acme/app/manifests/" + strings.Repeat("a", 129), status: 404, says: "MANIFEST_UNKNOWN: not a valid tag"},
		{what: "a tag of other letters", path: "/v2/acme/app/manifests/%C3%A9", status: 404, says: "MANIFEST_UNKNOWN: not a valid tag: ?"},
		{what: "a short digest", path: "/v2/acme/app/manifests/sha256:12", status: 400, says: "DIGEST_INVALID"},
		{what: "a digest of another algorithm", path: "/v2/acme/app/blobs/md5:" + strings.Repeat("a", 32), status: 400, says: "DIGEST_INVALID"},
		{what: "a digest in capitals", path: "/v2/acme/app/blobs/sha256:" + strings.Repeat("A", 64), status: 400, says: "DIGEST_INVALID"},
		{what: "a blob by tag", path: "/v2/acme/app/blobs/one", status: 400, says: "DIGEST_INVALID"},
		{what: "referrers of a tag", path: "/v2/acme/app/referrers/one", status: 400, says: "DIGEST_INVALID"},
		{what: "a blob of no manifest", path: "/v2/acme/app/blobs/" + d, status: 404, says: "BLOB_UNKNOWN"},
		{what: "n that is no number", path: "/v2/acme/app/tags/list?n=many", status: 400, says: "UNSUPPORTED: n must be"},
		{what: "n below 0", path: "/v2/acme/app/tags/list?n=-1", status: 400, says: "UNSUPPORTED: n must be"},
		{what: "n that is too large a number", path: "/v2/acme/app/tags/list?n=99999999999999999999", status: 400, says: "UNSUPPORTED: n must be"},
		{what: "a query that can't be read", path: "/v2/acme/app/manifests/one?x=%zz", status: 400, says: "UNSUPPORTED: the query"},
		{what: "an upstream hidden in such a query", path: "/v2/acme/app/manifests/one?ns=evil.example;x", status: 400, says: "UNSUPPORTED: the query"},
		{what: "two upstreams", path: "/v2/acme/app/manifests/one?ns=cgr.test&ns=evil.example", status: 400, says: "UNSUPPORTED: ns is given more than once"},
		{what: "an upstream that is none of ours", path: "/v2/acme/app/manifests/one?ns=evil.example", status: 403, want: []string{"OCI-Namespace:"}, says: "DENIED: this gateway does not front evil.example"},
		{what: "outside of the API", path: "/v1/", status: 404, says: "UNSUPPORTED"},
		{what: "the ping", path: "/v2/", status: 200, want: []string{"Content-Type: application/json", "Docker-Distribution-Api-Version: registry/2.0"}, body: []byte("{}")},
		{what: "the ping without a slash", path: "/v2", status: 200, body: []byte("{}")},
	}
	for _, tt := range tests {
		l.check(tt)
	}
	if asked := l.origin.Requests(); len(asked) > 0 {
		t.Errorf("upstream was asked %d times, first %+v", len(asked), asked[0])
	}
	for _, tt := range []exchange{
		{what: "a tag that upstream lacks", path: manifestPath("acme/app", "two"), status: 404, says: "MANIFEST_UNKNOWN"},
		{what: "a digest that upstream lacks", path: manifestPath("acme/app", d), status: 404, says: "MANIFEST_UNKNOWN"},
		{what: "tags of a repository that upstream lacks", path: "/v2/acme/none/tags/list", status: 404, says: "NAME_UNKNOWN"},
		{what: "no tags of it either", path: "/v2/acme/none/tags/list?n=0", status: 404, says: "NAME_UNKNOWN"},
	} {
		l.check(tt)
	}
}

// An image all of whose digests are sha512: as its tag's digest, manifest, config, layer.
func TestSHA512(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	o := odd(t, "sha512")
	o.Push(l.origin, "acme/app")
	byTag := exchange{what: "by tag", path: manifestPath("acme/app", o.Name), status: 200, body: o.Manifest,
		want: []string{"Docker-Content-Digest: " + o.Digest.String(), `ETag: "` + o.Digest.String() + `"`}}
	l.eventually("a verdict", func() bool { return l.ask("GET", byTag.path).status == 200 })
	l.check(byTag)
	byDigest := byTag
	byDigest.path = manifestPath("acme/app", o.Digest.String())
	l.check(byDigest)
	for d, b := range o.Blobs {
		l.eventually("all of "+d.String(), func() bool { return bytes.Equal(l.ask("GET", "/v2/acme/app/blobs/"+d.String()).body, b) })
		l.check(exchange{what: "a blob", path: "/v2/acme/app/blobs/" + d.String(), status: 200, body: b, want: []string{"Docker-Content-Digest: " + d.String()}})
	}
	r := l.ask("GET", manifestPath("acme/app", digest.SHA512.FromString("x").String()))
	if r.status != 404 || !strings.HasPrefix(r.message(), "MANIFEST_UNKNOWN") {
		t.Errorf("another sha512 digest: %d %s", r.status, r.message())
	}
}

// The namespace that a client names comes back with every kind of answer.
func TestNamespace(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 1000)
	l.scanned(img)
	for _, path := range []string{manifestPath("acme/app", "one"), manifestPath("acme/app", img.digest.String()), blobPath("acme/app", img.layers[0]),
		"/v2/acme/app/tags/list", "/v2/acme/app/referrers/" + img.digest.String(), "/v2/acme/app/_chainguard/history/one"} {
		l.check(exchange{what: path, path: path + "?ns=cgr.test", status: 200, want: []string{"OCI-Namespace: cgr.test"}})
		l.check(exchange{what: path, path: path, status: 200, want: []string{"OCI-Namespace:"}})
	}
	l.check(exchange{what: "none such", path: manifestPath("acme/app", "two") + "?ns=cgr.test", status: 404, want: []string{"OCI-Namespace: cgr.test"}, says: "MANIFEST_UNKNOWN"})
}

// In warn mode what would be denied comes with a warning, on the manifest and its blobs.
func TestWarning(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(_ *lab, c *policy.Config) { c.Mode = policy.Warn })
	img := l.push("acme/app", "one", 1000)
	l.engine.condemn(img.digest)
	l.scanned(img)
	for _, path := range []string{manifestPath("acme/app", "one"), blobPath("acme/app", img.layers[0])} {
		var w string
		l.eventually("a warning", func() bool { w = l.ask("HEAD", path).header.Get("Warning"); return w != "" })
		if !strings.HasPrefix(w, `299 - "`) || !strings.Contains(w, "CVE-2021-44228") || !strings.HasSuffix(w, `"`) || len(w) > 4096 {
			t.Errorf("%s: Warning %q", path, w)
		}
		l.check(exchange{what: path, path: path, status: 200, want: []string{"Warning: " + w}})
	}
}
