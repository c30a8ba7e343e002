package proxy_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
)

// eager has a lab try again without delay what failed upstream, and wait for verdicts at
// the manifest.
func eager(l *lab, _ *policy.Config) {
	l.gateway.Upstreams[0].Registry.Backoff = time.Millisecond
	l.gateway.Gate.RetryAfter = 50 * time.Millisecond
	l.gateway.Gate.ManifestWait = 5 * time.Second
}

// direct puts an origin under a lab that serves its blobs itself, without a redirect.
func direct(l *lab, _ *policy.Config) {
	origin, err := proxytest.Start(proxytest.Origin{Username: "puller", Password: "pull-token-secret"})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { origin.Close() })
	l.origin, l.gateway.Upstreams[0].Registry.URL = origin, origin.URL()
}

// both is two faults at once: inner spoils the answer first.
func both(outer, inner proxytest.Fault) proxytest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		outer(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { inner(w, r, next) }))
	}
}

// A connection that breaks, in whatever way and at whatever byte, is made again, and what
// is missing is asked for from there on. No client notices.
func TestUpstreamBreaks(t *testing.T) {
	t.Parallel()
	const size = 300_000
	answer := "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 3000"
	type cut struct {
		name  string
		fault func(k int64) proxytest.Fault
		at    int64 // byte of the body, from its end where that is negative
		fin   bool
	}
	var cuts []cut
	for _, n := range []int{0, 1, 12, len(answer)} {
		for _, reset := range []bool{false, true} {
			cuts = append(cuts, cut{name: fmt.Sprintf("after %d bytes of the headers, reset %t", n, reset), fault: func(int64) proxytest.Fault { return proxytest.Raw(answer[:n], reset) }})
		}
	}
	for _, k := range []int64{0, 1, 65_536, 150_000, -1} {
		cuts = append(cuts, cut{fmt.Sprintf("FIN at byte %d", k), proxytest.Truncate, k, true}, cut{fmt.Sprintf("RST at byte %d", k), proxytest.Reset, k, false})
	}
	for _, from := range []string{"the registry", "its storage"} {
		for _, c := range cuts {
			t.Run(c.name+" from "+from, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, eager, func(l *lab, p *policy.Config) {
					if from == "the registry" {
						direct(l, p)
					}
				})
				img := l.push("acme/app", "one", size)
				d := img.layers[0]
				if c.at < 0 {
					c.at += d.Size
				}
				spoiled := proxytest.Request{Method: "GET", Kind: map[string]string{"the registry": proxytest.KindBlob, "its storage": proxytest.KindStorage}[from], Reference: d.Digest.String()}
				l.origin.Inject(1, spoiled.Matches, c.fault(c.at))
				l.whole(img)
				_, sent := l.origin.Served(d.Digest)
				if sent > 2*d.Size || c.fin && sent > d.Size { // a reset may lose what was sent
					t.Errorf("%d bytes were sent of a layer of %d: it was begun anew", sent, d.Size)
				}
				want := fmt.Sprintf("bytes=%d-", c.at)
				resumed := slices.ContainsFunc(l.origin.Requests(), func(q proxytest.Request) bool { return spoiled.Matches(q) && q.Range == want })
				if c.fin && c.at > 0 && !resumed {
					t.Errorf("nobody asked for %s", want)
				}
			})
		}
	}
}

// What goes wrong upstream and passes is overcome, and no client notices.
func TestUpstreamTrouble(t *testing.T) {
	t.Parallel()
	storage := func(img *image) func(proxytest.Request) bool {
		return proxytest.Request{Kind: proxytest.KindStorage, Reference: img.layers[0].Digest.String()}.Matches
	}
	manifests := proxytest.Request{Kind: proxytest.KindManifest}.Matches
	tests := []struct {
		name   string
		inject func(*lab, *image)
	}{
		{"503 for a blob", func(l *lab, img *image) { l.origin.Inject(1, storage(img), proxytest.Status(503, "UNAVAILABLE")) }},
		{"401 in the middle", func(l *lab, img *image) {
			l.origin.Inject(1, storage(img), func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				l.origin.RevokeTokens() // the rest needs a new one
				proxytest.Truncate(150_000)(w, r, next)
			})
		}},
		{"503 in the middle", func(l *lab, img *image) {
			l.origin.Inject(1, storage(img), proxytest.Truncate(150_000))
			l.origin.Inject(2, storage(img), proxytest.Status(503, "UNAVAILABLE"))
		}},
		{"429 in the middle", func(l *lab, img *image) {
			l.origin.Inject(1, storage(img), proxytest.Truncate(150_000))
			l.origin.Inject(1, storage(img), proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "1"))
		}},
		{"a range that is ignored", func(l *lab, img *image) {
			l.origin.Inject(1, storage(img), proxytest.Truncate(150_000))
			l.origin.Inject(1, storage(img), func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				r.Header.Del("Range")
				next.ServeHTTP(w, r)
			})
		}},
		{"another range", func(l *lab, img *image) {
			l.origin.Inject(1, storage(img), proxytest.Truncate(150_000))
			l.origin.Inject(1, storage(img), func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				r.Header.Set("Range", "bytes=7-")
				next.ServeHTTP(w, r)
			})
		}},
		{"a signature that has run out", func(l *lab, img *image) {
			l.origin.Inject(1, storage(img), proxytest.Truncate(150_000))
			l.origin.Inject(1, storage(img), proxytest.Status(403, "DENIED"))
		}},
		{"silence in the middle", func(l *lab, img *image) {
			l.gateway.Upstreams[0].Registry.IdleTimeout = 500 * time.Millisecond
			l.origin.Inject(1, storage(img), l.origin.Stall(150_000, nil))
		}},
		{"a byte now and then", func(l *lab, img *image) {
			l.gateway.Upstreams[0].Registry.IdleTimeout = 500 * time.Millisecond
			l.origin.Inject(1, storage(img), l.origin.Drip(1, 10*time.Millisecond))
		}},
		{"something behind the blob", func(l *lab, img *image) {
			d := img.layers[0]
			head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", d.Size)
			l.origin.Inject(0, storage(img), proxytest.Raw(head+string(img.bytes[d.Digest])+"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false))
		}},
		{"cookies", func(l *lab, _ *image) {
			l.origin.Inject(0, func(q proxytest.Request) bool { return q.Kind == proxytest.KindBlob }, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if r.Header.Get("Cookie") != "" {
					t.Error("a cookie came back")
				}
				proxytest.SetHeader("Set-Cookie", "a=b; Path=/")(w, r, next)
			})
		}},
		{"429 for a manifest", func(l *lab, _ *image) {
			l.origin.Inject(1, manifests, proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "1"))
		}},
		{"500 for a manifest", func(l *lab, _ *image) { l.origin.Inject(1, manifests, proxytest.Status(500, "UNKNOWN")) }},
		{"502 for a token", func(l *lab, _ *image) {
			l.origin.Inject(2, proxytest.Request{Kind: proxytest.KindToken}.Matches, proxytest.Status(502, "UNKNOWN"))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, eager)
			img := l.push("acme/app", "one", 300_000)
			tt.inject(l, img)
			l.want(200, "", "GET", manifestPath("acme/app", "one"))
			l.whole(img)
			if leaks := l.origin.Leaks(); len(leaks) > 0 {
				t.Errorf("the storage was sent credentials: %v", leaks)
			}
		})
	}
}

// An upstream that sends other bytes than a manifest names, in whatever guise, fails the
// image by cause. Nobody gets all of what came, nothing of it stays, and no room stays
// taken; once upstream is right the image passes.
func TestUpstreamLies(t *testing.T) {
	t.Parallel()
	chunked := proxytest.SetHeader("Content-Length", "")
	shorter := proxytest.Change(func(b []byte) []byte { return b[:len(b)-1] })
	longer := proxytest.Change(func(b []byte) []byte { return append(b, 0) })
	// Whoever asks for all of it again is cut off again: only a resume meets the fault.
	resumed := func(fault proxytest.Fault) proxytest.Fault {
		cut := proxytest.Truncate(150_000)
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Header.Get("Range") == "" {
				cut(w, r, next)
				return
			}
			fault(w, r, next)
		}
	}
	packed := proxytest.Change(func(b []byte) []byte {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(b)
		w.Close()
		return z.Bytes()
	})
	tests := []struct {
		name  string
		fault proxytest.Fault
		text  string
	}{
		{"a byte turned", proxytest.Corrupt(100), "something else"},
		{"the last byte turned", proxytest.Corrupt(300_000), "something else"},
		{"a byte turned after a resume", resumed(proxytest.Corrupt(10)), "something else"},
		{"shorter", shorter, "something else"},
		{"shorter without a length", both(chunked, shorter), "upstream"},
		{"longer", longer, "something else"},
		{"longer without a length", both(chunked, longer), "something else"},
		{"announced as longer", proxytest.Lengthen(5), "something else"},
		{"compressed", both(proxytest.SetHeader("Content-Encoding", "gzip"), packed), "something else"},
		{"compressed without a length", both(both(proxytest.SetHeader("Content-Encoding", "gzip"), chunked), packed), "upstream"},
		{"a range of something longer", resumed(proxytest.SetHeader("Content-Range", "bytes 150000-150001/9999999")), "upstream"},
		{"a range that isn't one", resumed(proxytest.SetHeader("Content-Range", "bytes 0-1/2")), "upstream failed"},
		{"part of what was not divided", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("Range", "bytes=0-")
			next.ServeHTTP(w, r)
		}, "upstream failed"},
		{"nothing", proxytest.Status(204, ""), "upstream failed"},
		{"a page to log in", proxytest.Body("text/html", []byte("<html>")), "something else"},
		{"headers without end", proxytest.SetHeader("X-Filler", strings.Repeat("x", 300_000)), "upstream failed"},
		{"a byte now and then, for ever", nil, "upstream failed"},
		{"redirects in circles", proxytest.Redirect(""), "upstream failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, eager, func(l *lab, _ *policy.Config) {
				l.gateway.Upstreams[0].Registry.IdleTimeout = time.Second
				l.gateway.Gate.ManifestWait = 20 * time.Second
			})
			img := l.push("acme/app", "one", 300_000)
			d := img.layers[0]
			storage := proxytest.Request{Kind: proxytest.KindStorage, Reference: d.Digest.String()}.Matches
			if tt.fault == nil {
				tt.fault = l.origin.Drip(1, 20*time.Millisecond)
			}
			mend := l.origin.Inject(0, storage, tt.fault)
			r := l.get("GET", manifestPath("acme/app", "one"), 30*time.Second)
			if r.status != 403 || !strings.Contains(r.message(), tt.text) {
				t.Errorf("manifest: %d %s", r.status, r.message())
			}
			if r := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond); int64(len(r.body)) >= d.Size && r.status == 200 {
				t.Errorf("all %d bytes were served", len(r.body))
			}
			if b, err := l.gateway.Blobs.Open(d.Digest); err == nil {
				if b.Committed() {
					t.Error("it was kept")
				}
				b.Close()
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			mend()
			l.eventually("the image passes", func() bool { return l.get("GET", manifestPath("acme/app", "one"), patience).status == 200 })
			l.whole(img)
			l.eventually("no room is taken", func() bool { return l.gateway.Blobs.Usage().Reserved == 0 })
		})
	}
}

// What stays wrong upstream is told as it is, soon, and with what to do.
func TestUpstreamErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		fault  proxytest.Fault
		status int
		text   string
		after  string // Retry-After
	}{
		{"429", proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "7"), 429, "HTTP 429", "7"},
		{"429 for long", proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "1800"), 429, "HTTP 429", "1800"},
		{"429 without end", proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "99999999"), 429, "HTTP 429", "3600"},
		{"429 without a time", proxytest.Status(429, "TOOMANYREQUESTS"), 429, "HTTP 429", "1"},
		{"503", proxytest.Status(503, "UNAVAILABLE"), 502, "HTTP 503", ""},
		{"503 with a time", proxytest.Status(503, "UNAVAILABLE", "Retry-After", "7"), 502, "HTTP 503", "7"},
		{"403", proxytest.Status(403, "DENIED"), 403, "pull token", ""},
		{"401", proxytest.Status(401, "UNAUTHORIZED"), 403, "pull token", ""},
		{"redirect loop", proxytest.Redirect(""), 502, "in circles", ""},
		{"cut off", proxytest.Truncate(0), 502, "try again", ""},
		{"no HTTP", proxytest.Raw("SSH-2.0-OpenSSH_9.2\r\n", false), 502, "try again", ""},
		{"headers without end", proxytest.SetHeader("X-Filler", strings.Repeat("x", 300_000)), 502, "try again", ""},
		{"other bytes", proxytest.Body(ocispec.MediaTypeImageManifest, []byte("{}")), 502, "something else", ""},
		{"compressed", both(proxytest.SetHeader("Content-Encoding", "gzip"), proxytest.Change(func([]byte) []byte { return []byte("\x1f\x8b\x08") })), 502, "something else", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, eager)
			img := l.push("acme/app", "one", 1000)
			l.origin.Inject(0, proxytest.Request{Kind: proxytest.KindManifest}.Matches, tt.fault)
			began := time.Now()
			r := l.want(tt.status, tt.text, "GET", manifestPath("acme/app", img.digest.String()))
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("told after %v", took)
			}
			if got := r.header.Get("Retry-After"); got != tt.after {
				t.Errorf("Retry-After %q, want %q", got, tt.after)
			}
			if r.header.Get("Content-Type") != "application/json" || len(r.message()) > 330 || strings.Contains(string(r.body), l.origin.Host()) {
				t.Errorf("%s: %s", r.header.Get("Content-Type"), r.body)
			}
		})
	}
}

// A registry that has had enough is left alone for as long as it says, by all clients.
func TestUpstreamHadEnough(t *testing.T) {
	t.Parallel()
	l := newLab(t, eager)
	img := l.push("acme/app", "one", 1000)
	mend := l.origin.Inject(0, proxytest.Request{Method: "GET", Kind: proxytest.KindManifest}.Matches, proxytest.Status(429, "TOOMANYREQUESTS", "Retry-After", "6"))
	for range 20 {
		r := l.want(429, "HTTP 429", "GET", manifestPath("acme/app", "one"))
		if r.header.Get("Retry-After") == "" {
			t.Error("clients are not told when to come back")
		}
	}
	if n := l.origin.Count(proxytest.Request{Method: "GET", Kind: proxytest.KindManifest}); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	mend()
	l.eventually("the image passes", func() bool { return l.get("GET", manifestPath("acme/app", "one"), patience).status == 200 })
	l.whole(img)
}

// A registry gets the pull token for itself and nobody else: not for a host that it
// redirects to, and not for a realm that is not its own. From https it leads to https.
func TestCredentialsStayHome(t *testing.T) {
	t.Parallel()
	other, err := proxytest.Start(proxytest.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tests := []struct {
		name  string
		kind  string
		fault proxytest.Fault
		text  string
	}{
		{"blob on another host", proxytest.KindBlob, proxytest.Redirect(other.URL() + "/v2/a/b/blobs/x"), "upstream"},
		{"manifest on another host", proxytest.KindManifest, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			proxytest.Redirect(other.URL()+r.URL.Path)(w, r, next)
		}, "not known"},
		{"realm on another host", proxytest.KindManifest, proxytest.Challenge(other.URL() + "/token"), "pull token"},
		{"realm with a password", proxytest.KindManifest, proxytest.Challenge(strings.Replace(other.URL(), "://", "://puller:pull-token-secret@", 1) + "/token"), "try again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, eager)
			img := l.push("acme/app", "one", 1000)
			l.want(200, "", "GET", "/v2/") // nothing to do with upstream
			l.origin.Inject(0, proxytest.Request{Kind: tt.kind}.Matches, tt.fault)
			other.ResetCounts()
			r := l.get("GET", manifestPath("acme/app", img.digest.String()), patience)
			if r.status == 200 || !strings.Contains(r.message(), tt.text) || bytes.Contains(r.body, []byte("pull-token-secret")) {
				t.Errorf("%d %s", r.status, r.body)
			}
			for _, q := range other.Requests() {
				if q.Authorized {
					t.Errorf("%s %s came with credentials", q.Method, q.Kind)
				}
			}
		})
	}
	t.Run("https to http", func(t *testing.T) {
		secure, err := proxytest.Start(proxytest.Origin{TLS: true, Username: "puller", Password: "pull-token-secret"})
		if err != nil {
			t.Fatal(err)
		}
		defer secure.Close()
		l := newLab(t, eager, func(l *lab, _ *policy.Config) {
			l.origin, l.gateway.Upstreams[0].Registry.URL, l.gateway.Upstreams[0].Registry.RootCAs = secure, secure.URL(), secure.Certificates()
		})
		img := l.push("acme/app", "one", 1000)
		secure.Inject(0, proxytest.Request{Kind: proxytest.KindBlob}.Matches, proxytest.Redirect(other.URL()+"/v2/a/b/blobs/x"))
		other.ResetCounts()
		l.want(403, "where it may not", "GET", manifestPath("acme/app", img.digest.String()))
		if n := len(other.Requests()); n > 0 {
			t.Errorf("%d requests without TLS", n)
		}
	})
}
