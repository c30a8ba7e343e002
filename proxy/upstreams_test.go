package proxy_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/proxy/upstream"
)

// second adds the upstream two.test to a lab, an origin with a token of its own, and
// stores the origin in *two.
func second(two **proxytest.Server, changes ...func(*proxy.Upstream)) change {
	return func(l *lab, _ *policy.Config) {
		origin, err := proxytest.Start(proxytest.Origin{Username: "other", Password: "other-secret", BlobRedirect: true})
		if err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { origin.Close() })
		*two = origin
		u := proxy.Upstream{Name: "two.test", Registry: &upstream.Registry{
			Name: "two.test", URL: origin.URL(),
			Credentials: func(context.Context) (upstream.Credentials, error) {
				return upstream.Credentials{Username: "other", Password: "other-secret"}, nil
			},
		}}
		for _, c := range changes {
			c(&u)
		}
		l.gateway.Upstreams = append(l.gateway.Upstreams, u)
	}
}

// from has a lab push to another of its origins.
func (l *lab) from(origin *proxytest.Server) *lab {
	other := *l
	other.origin = origin
	return &other
}

// Two registries have repositories of the same names, with other images in them. What is
// asked says whose is meant, nothing of one is had through the other, and neither sees
// the other's credentials.
func TestTwoUpstreams(t *testing.T) {
	t.Parallel()
	var two *proxytest.Server
	l := newLab(t, second(&two))
	mine := l.push("acme/app", "one", 1000)
	yours := l.from(two).push("acme/app", "one", 1001)
	for path, img := range map[string]*image{
		"acme/app":                       mine,
		"acme/app?ns=cgr.test":           mine,
		"cgr.test/acme/app":              mine,
		"acme/app?ns=two.test":           yours,
		"two.test/acme/app":              yours,
		"two.test/acme/app?":             yours,
		"acme/app?x=1&ns=two.test&n=100": yours,
	} {
		name, query, _ := strings.Cut(path, "?")
		at := func(rest string) string { return "/v2/" + name + rest + "?" + query }
		l.check(exchange{what: path, path: at("/manifests/one"), status: 200, want: []string{"Docker-Content-Digest: " + img.digest.String()}})
		l.eventually(path+" is whole", func() bool { return l.ask("GET", at("/blobs/"+img.config.Digest.String())).status == 200 })
		for d, b := range img.bytes {
			l.check(exchange{what: path, path: at("/blobs/" + d.String()), status: 200, body: b})
		}
		other := mine
		if img == mine {
			other = yours
		}
		l.check(exchange{what: path, path: at("/manifests/" + other.digest.String()), status: 404, says: "MANIFEST_UNKNOWN"})
		l.check(exchange{what: path, path: at("/blobs/" + other.layers[0].Digest.String()), status: 404, says: "BLOB_UNKNOWN"})
		l.check(exchange{what: path, path: at("/tags/list"), status: 200, body: fmt.Appendf(nil, `{"name":%q,"tags":["one"]}`, name)})
	}
	l.apart(two)
}

// apart checks that no credential of one origin reached the other.
func (l *lab) apart(two *proxytest.Server) {
	l.Helper()
	seen := map[string]bool{}
	for origin, user := range map[*proxytest.Server]string{l.origin: "puller:pull-token-secret", two: "other:other-secret"} {
		own := map[string]bool{}
		for _, q := range origin.Requests() {
			kind, text, _ := strings.Cut(q.Authorization, " ")
			if b, err := base64.StdEncoding.DecodeString(text); kind == "Basic" && (err != nil || string(b) != user) {
				l.Errorf("the origin of %s got the credentials %s", user, b)
			}
			own[q.Authorization] = q.Authorization != ""
		}
		if len(own) < 3 {
			l.Errorf("the origin of %s saw only the credentials %v", user, own)
		}
		for a, is := range own {
			if is && seen[a] {
				l.Errorf("both origins got %s", a)
			}
			seen[a] = seen[a] || is
		}
		if leaks := origin.Leaks(); len(leaks) > 0 {
			l.Errorf("credentials on a blob host: %v", leaks)
		}
	}
}

// Chainguard's organisations have names that look like hosts. Only the first element, and
// only a configured name, is one.
func TestNamesThatLookLikeHosts(t *testing.T) {
	t.Parallel()
	var two *proxytest.Server
	l := newLab(t, second(&two))
	for _, repo := range []string{"example.com/python", "two.test/python", "cgr.test/python"} {
		l.push(repo, "one", 1000)
	}
	l.from(two).push("python", "one", 1000)
	for _, tt := range []struct {
		path   string
		origin *proxytest.Server
		repo   string
	}{
		{"example.com/python/manifests/one", l.origin, "example.com/python"},
		{"cgr.test/example.com/python/manifests/one", l.origin, "example.com/python"},
		{"example.com/python/manifests/one?ns=cgr.test", l.origin, "example.com/python"},
		{"cgr.test/two.test/python/manifests/one", l.origin, "two.test/python"},
		{"two.test/python/manifests/one?ns=cgr.test", l.origin, "two.test/python"},
		{"cgr.test/cgr.test/python/manifests/one", l.origin, "cgr.test/python"},
		{"cgr.test/python/manifests/one?ns=cgr.test", l.origin, "cgr.test/python"},
		{"two.test/python/manifests/one", two, "python"},
	} {
		want, _ := tt.origin.Descriptor(tt.repo, "one")
		l.check(exchange{what: tt.path, path: "/v2/" + tt.path, status: 200, want: []string{"Docker-Content-Digest: " + want.Digest.String()}})
	}
	before := len(l.origin.Requests()) + len(two.Requests())
	for _, ns := range []string{"evil.example", "127.0.0.1:1", l.origin.Host(), "two.test.", "TWO.test", "two.test/x", "two.test%00", "https://two.test"} {
		l.check(exchange{what: "ns " + ns, path: "/v2/acme/app/manifests/one?ns=" + ns, status: 403, says: "DENIED: this gateway does not front"})
	}
	if after := len(l.origin.Requests()) + len(two.Requests()); after != before {
		t.Errorf("%d requests went out for upstreams that are none", after-before)
	}
}

const allowAll = "package sluice.policies.all\n\nviolations := set()\n"

const denyAll = `package sluice.policies.all

violations contains {"policy": "closed", "message": "nothing is let in", "findings": [], "remediation": "Wait."}
`

// Each upstream's images are decided by its own policies; the verdict is the same, and
// so is the kill list. A change of one upstream's policies reaches it alone.
func TestPolicySets(t *testing.T) {
	t.Parallel()
	var two *proxytest.Server
	dir := t.TempDir()
	file, kill := filepath.Join(dir, "all.rego"), filepath.Join(t.TempDir(), "kill")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, allowAll)
	write(kill, "")
	own, err := policy.Open(t.Context(), policy.Config{Dir: dir, KillFile: kill})
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(_ *lab, c *policy.Config) { c.KillFile = kill }, second(&two, func(u *proxy.Upstream) { u.Policy = own }))
	follow(t, own, l.gateway.Policy)

	img := l.push("acme/app", "one", 100_000)
	l.engine.condemn(img.digest)
	l.engine.hold() // until its manifest, which is served while it is pending, is at both
	l.copyTo(two, img, "one")
	l.engine.release()
	layer := blobPath("acme/app", img.layers[0])
	l.eventually("a denial", func() bool { return l.ask("GET", manifestPath("acme/app", "one")).status == 403 })
	l.eventually("leave", func() bool {
		l.ask("GET", manifestPath("acme/app", "one")+"?ns=two.test")
		return l.ask("GET", layer+"?ns=two.test").status == 200
	})
	l.check(exchange{what: "denied here", path: manifestPath("acme/app", "one"), status: 403, says: "CVE-2021-44228"})
	l.check(exchange{what: "a layer denied here", path: layer, status: 403, says: "CVE-2021-44228"})
	l.check(exchange{what: "allowed there", path: manifestPath("acme/app", "one") + "?ns=two.test", status: 200})
	l.check(exchange{what: "a layer allowed there", path: layer + "?ns=two.test", status: 200, body: img.bytes[img.layers[0].Digest]})
	if n := l.engine.count(); n != 1 {
		t.Errorf("the image was scanned %d times", n)
	}

	write(file, denyAll)
	l.eventually("the change there", func() bool { return l.ask("GET", layer+"?ns=two.test").status == 403 })
	l.check(exchange{what: "denied there too", path: manifestPath("acme/app", "one") + "?ns=two.test", status: 403, says: "blocked by policy closed"})
	l.check(exchange{what: "as before here", path: manifestPath("acme/app", "one"), status: 403, says: "CVE-2021-44228"})
	write(file, "package sluice.policies.all\n\nviolations contains")
	l.eventually("a complaint", func() bool { return own.Status().LastError != "" })
	l.check(exchange{what: "with a bad file there", path: manifestPath("acme/app", "one") + "?ns=two.test", status: 403, says: "blocked by policy closed"})

	write(file, allowAll)
	l.eventually("leave again", func() bool { return l.ask("GET", layer+"?ns=two.test").status == 200 })
	write(kill, img.digest.String()+" # leaked key\n")
	for _, ns := range []string{"cgr.test", "two.test"} {
		for _, path := range []string{manifestPath("acme/app", "one"), layer, blobPath("acme/app", img.config)} {
			l.eventually(path+" is killed for "+ns, func() bool {
				r := l.ask("GET", path+"?ns="+ns)
				return r.status == 403 && strings.Contains(r.message(), "leaked key")
			})
		}
	}
}

// follow has engines follow their files until the test ends.
func follow(t *testing.T, engines ...*policy.Engine) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, len(engines))
	for _, e := range engines {
		go func() { done <- e.Run(ctx) }()
	}
	t.Cleanup(func() {
		stop()
		for range engines {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// copyTo pushes an image to another origin too.
func (l *lab) copyTo(origin *proxytest.Server, img *image, tag string) {
	l.Helper()
	for d, b := range img.bytes {
		origin.PutBlobAs(img.repo, d, bytes.Clone(b))
	}
	raw := l.ask("GET", manifestPath(img.repo, img.digest.String()))
	desc, _ := l.origin.Descriptor(img.repo, img.digest.String())
	if digest.FromBytes(raw.body) != img.digest {
		l.Fatalf("the manifest to copy: %d", raw.status)
	}
	origin.PutManifest(img.repo, tag, desc.MediaType, raw.body)
}

func (e *engine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scans
}

// A tag of one upstream is asked for each time, one of the other is not.
func TestTagTTLs(t *testing.T) {
	t.Parallel()
	var two *proxytest.Server
	never := time.Duration(0)
	l := newLab(t, second(&two, func(u *proxy.Upstream) { u.TagTTL = &never }))
	l.push("acme/app", "one", 1000)
	first := l.from(two).push("acme/app", "one", 1000)
	for range 3 {
		l.check(exchange{what: "remembered", method: "HEAD", path: manifestPath("acme/app", "one"), status: 200})
		l.check(exchange{what: "asked for", method: "HEAD", path: "/v2/two.test/acme/app/manifests/one", status: 200, want: []string{"Docker-Content-Digest: " + first.digest.String()}})
	}
	asked := proxytest.Request{Method: "HEAD", Kind: proxytest.KindManifest, Reference: "one", Status: 200}
	if a, b := l.origin.Count(asked), two.Count(asked); a != 1 || b != 3 {
		t.Errorf("the tags were asked for %d and %d times, want 1 and 3", a, b)
	}
	moved := l.from(two).push("acme/app", "one", 1001)
	l.check(exchange{what: "moved", path: "/v2/two.test/acme/app/manifests/one", status: 200, want: []string{"Docker-Content-Digest: " + moved.digest.String()}})
}

// What an upstream's globs refuse is refused in every way it can be asked for, though it
// was pulled before, and upstream hears nothing of it.
func TestAllowAndDeny(t *testing.T) {
	t.Parallel()
	var two *proxytest.Server
	l := newLab(t, second(&two))
	images := map[string]*image{}
	for _, repo := range []string{"acme/app", "acme/app/base", "acme/secret", "acme/secret/deep/down", "other/app", "example.com/python"} {
		images[repo] = l.push(repo, "one", 1000)
		l.scanned(images[repo])
	}
	l.copyTo(two, images["other/app"], "one")
	l.again(func(us []proxy.Upstream) {
		us[0].Allow, us[0].Deny = []string{"acme/**", "example.com/*"}, []string{"acme/secret*", "acme/secret/**"}
	})
	l.origin.ResetCounts()

	for repo, key := range map[string]string{
		"acme/secret": "refused by upstreams.deny", "acme/secret/deep/down": "refused by upstreams.deny",
		"other/app": "not listed in upstreams.allow", "never/seen": "not listed in upstreams.allow",
	} {
		img := cmpOr(images[repo], images["acme/app"])
		for _, prefix := range []string{"/v2/", "/v2/cgr.test/"} {
			for _, path := range []string{
				"/manifests/one", "/manifests/none", "/manifests/" + img.digest.String(), "/blobs/" + img.config.Digest.String(), "/blobs/" + img.layers[0].Digest.String(),
				"/tags/list", "/tags/list?n=1&last=a", "/referrers/" + img.digest.String(), "/_chainguard/history/one",
			} {
				l.check(exchange{what: repo, path: prefix + repo + path, status: 403, says: "DENIED: blocked by policy: the repository " + repo + " of cgr.test is " + key + " of this gateway's configuration; ask its operator"})
			}
		}
		for _, ref := range []string{repo + ":one", "cgr.test/" + repo, repo + "@" + img.digest.String()} {
			_, err := l.gateway.Answer(t.Context(), auth.Caller{}, ref, "linux/amd64", time.Now())
			if e := (*proxy.Error)(nil); !errors.As(err, &e) || e.Status != 403 || !strings.Contains(e.Message, key) {
				t.Errorf("the verdict on %s: %v", ref, err)
			}
		}
	}
	if asked := l.origin.Requests(); len(asked) > 0 {
		t.Errorf("upstream was asked %d times, first %+v", len(asked), asked[0])
	}
	for _, repo := range []string{"acme/app", "acme/app/base", "example.com/python"} {
		l.check(exchange{what: repo, path: manifestPath(repo, "one"), status: 200})
		l.check(exchange{what: repo, path: blobPath(repo, images[repo].layers[0]), status: 200, body: images[repo].bytes[images[repo].layers[0].Digest]})
	}
	l.check(exchange{what: "the same name elsewhere", path: "/v2/two.test/other/app/manifests/one", status: 200})
}

func cmpOr(a, b *image) *image {
	if a != nil {
		return a
	}
	return b
}

// again puts another gateway, of changed upstreams, on what the lab's gateway has stored.
func (l *lab) again(change func([]proxy.Upstream)) {
	l.Helper()
	old := l.gateway
	us := slices.Clone(old.Upstreams)
	change(us)
	g := &proxy.Gateway{
		Upstreams: us, Store: old.Store, Blobs: old.Blobs, Scanner: old.Scanner, Policy: old.Policy, Auth: old.Auth, Gate: old.Gate,
		Metrics: proxy.NewMetrics(prometheus.NewRegistry()), Log: old.Log,
	}
	if err := g.Start(); err != nil {
		l.Fatal(err)
	}
	srv := httptest.NewServer(g)
	l.gateway, l.url = g, srv.URL
	l.Cleanup(func() {
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := errors.Join(g.Close(ctx), old.Close(ctx)); err != nil {
			l.Error(err)
		}
	})
}
