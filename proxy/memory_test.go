package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/cache"
	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// silence answers nothing until the gateway has had enough.
func silence(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }

// An upstream that is silent makes one client wait, and not each; tags serve from memory
// at once, and what has moved meanwhile is seen soon after it is back.
func TestSilentUpstream(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) {
		gate := &l.gateway.Gate
		gate.TagTTL, gate.UpstreamTimeout, gate.RetryAfter = 0, 2*time.Second, 1500*time.Millisecond
	})
	first, second := l.push("acme/app", "one", 1000), l.push("acme/app", "two", 1000)
	l.scanned(first)
	l.scanned(second)
	for _, tag := range []string{"one", "two"} {
		l.want(200, "", "GET", manifestPath("acme/app", tag))
	}
	remove := l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, silence)
	if took, status := l.headersOf("GET", manifestPath("acme/app", "one")); status != 200 || took > 2*time.Second {
		t.Errorf("the first: %d after %v", status, took)
	}
	for range 5 {
		for _, tag := range []string{"one", "two"} {
			if took, status := l.headersOf("GET", manifestPath("acme/app", tag)); status != 200 || took > 500*time.Millisecond {
				t.Errorf("%s: %d after %v, want it at once", tag, status, took)
			}
		}
	}
	remove()
	moved := l.push("acme/app", "one", 1001)
	l.eventually("the tag has moved", func() bool {
		return l.get("HEAD", manifestPath("acme/app", "one"), patience).header.Get("Docker-Content-Digest") == moved.digest.String()
	})
}

// A tag is a fact about the image that it points at, and not about those that it has
// pointed at before.
func TestTagsFollow(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.TagTTL, l.gateway.Gate.NegativeTTL = 0, 0 })
	tags := func(img *image) []string {
		t.Helper()
		a, err := l.gateway.Answer(t.Context(), auth.Caller{}, "acme/app@"+img.digest.String(), "", time.Now().Add(patience))
		if err != nil {
			t.Fatal(err)
		}
		return a.Image.Tags
	}
	old := l.push("acme/app", "latest", 1000)
	l.origin.PutManifest("acme/app", "1.0", "application/vnd.docker.distribution.manifest.v2+json", l.scanned(old).body)
	l.want(200, "", "GET", manifestPath("acme/app", "latest"))
	l.want(200, "", "GET", manifestPath("acme/app", "1.0"))
	if got := tags(old); !slices.Equal(got, []string{"1.0", "latest"}) {
		t.Errorf("tags: %v", got)
	}
	young := l.push("acme/app", "latest", 1001)
	l.want(200, "", "GET", manifestPath("acme/app", "latest"))
	if got := tags(old); !slices.Equal(got, []string{"1.0"}) {
		t.Errorf("tags of what latest pointed at: %v", got)
	}
	if got := tags(young); !slices.Equal(got, []string{"latest"}) {
		t.Errorf("tags of what latest points at: %v", got)
	}
	l.origin.Delete("acme/app", "latest")
	l.want(404, "", "GET", manifestPath("acme/app", "latest"))
	if got := tags(young); len(got) != 0 {
		t.Errorf("tags of what no tag points at any more: %v", got)
	}
}

// What many manifests list doesn't grow without end, and no kind of manifest makes the
// gateway forget one of another kind.
func TestRelationsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 300_000)
	l.engine.condemn(bad.digest)
	l.scanned(bad)
	ctx, name := t.Context(), "cgr.test/acme/app"
	listing := cache.Name("listing", name, bad.layers[0].Digest.String())
	parents := cache.Name("parents", name, bad.digest.String())
	at := func(d time.Duration) []byte {
		b, _ := json.Marshal(time.Now().Add(d))
		return b
	}
	for i := range 700 {
		d := digest.FromString(fmt.Sprint(i)).String()
		if err := l.gateway.Store.PutField(ctx, listing, d, fmt.Appendf(nil, `{"layer":true,"artifact":true,"size":1,"at":%s}`, at(time.Duration(i)*time.Millisecond)), time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := l.gateway.Store.PutField(ctx, parents, d, at(time.Duration(i)*time.Millisecond), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	lapsed := digest.FromString("lapsed").String()
	if err := l.gateway.Store.PutField(ctx, parents, lapsed, at(-60*24*time.Hour), time.Hour); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		l.want(403, "", "GET", blobPath("acme/app", bad.layers[0]))
	}
	for _, key := range []cache.Key{listing, parents} {
		f, err := l.gateway.Store.Fields(ctx, key)
		if err != nil || len(f) > 300 || f[lapsed] != nil || key == listing && f[bad.digest.String()] == nil {
			t.Errorf("%s: %d fields, the image's own %q, %v", key.Kind(), len(f), f[bad.digest.String()], err)
		}
	}
}

// lines keeps what is logged.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// A pull writes one line, whoever waits for it and whatever comes of it.
func TestOneLine(t *testing.T) {
	t.Parallel()
	var log lines
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Log, l.gateway.Gate.ManifestWait = slog.New(slog.NewTextHandler(&log, nil)), patience
	})
	good, bad, broken := l.push("acme/app", "good", 1000), l.push("acme/app", "bad", 1000), l.push("acme/app", "broken", 1000)
	l.engine.condemn(bad.digest)
	l.origin.DeleteBlob("acme/app", broken.layers[0].Digest)
	for _, img := range []*image{good, bad, broken} {
		for range 3 {
			l.get("GET", manifestPath("acme/app", img.digest.String()), patience)
		}
		var n int
		l.eventually("its line is there", func() bool {
			log.mu.Lock()
			defer log.mu.Unlock()
			n = strings.Count(log.text.String(), img.digest.String())
			return strings.Contains(log.text.String(), "msg=pull image=cgr.test/acme/app@"+img.digest.String())
		})
		time.Sleep(20 * time.Millisecond)
		log.mu.Lock()
		if n = strings.Count(log.text.String(), "image=cgr.test/acme/app@"+img.digest.String()); n != 1 {
			t.Errorf("%d lines:\n%s", n, log.text.String())
		}
		log.mu.Unlock()
	}
}

// What upstream serves in the place of a blob is told with the blob's name.
func TestContentErrorNamesTheBlob(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.ManifestWait = patience })
	for name, fault := range map[string]proxytest.Fault{"corrupt": proxytest.Corrupt(100), "short": proxytest.Lengthen(-5), "gone": nil} {
		img := l.push("acme/app", name, 1000)
		d := img.layers[0]
		if fault == nil {
			l.origin.DeleteBlob("acme/app", d.Digest)
		} else {
			l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindStorage, Reference: d.Digest.String()}.Matches, fault)
		}
		r := l.want(403, d.Digest.String()[:23], "GET", manifestPath("acme/app", name))
		t.Log(r.message())
	}
}

// In warn mode the first pull of a bad image has its warning, and a slow scan delays
// nobody for longer than in enforce.
func TestFirstWarning(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, c *policy.Config) { c.Mode, l.gateway.Gate.ManifestWait = policy.Warn, time.Second })
	bad := l.push("acme/app", "bad", 1000)
	l.engine.condemn(bad.digest)
	if r := l.want(200, "", "GET", manifestPath("acme/app", "bad")); !strings.Contains(r.header.Get("Warning"), "CVE-2021-44228") {
		t.Errorf("Warning: %q", r.header.Get("Warning"))
	}
	l.engine.hold()
	l.push("acme/app", "slow", 1000)
	if took, status := l.headersOf("GET", manifestPath("acme/app", "slow")); status != 200 || took > patience/2 {
		t.Errorf("%d after %v", status, took)
	}
}
