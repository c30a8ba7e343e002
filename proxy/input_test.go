package proxy_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest"
	"github.com/sluicegate/sluice/scan"
)

// recipe has a lab decide by some policies of the cookbook alone.
func recipe(t *testing.T, names ...string) change {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join("..", "policy", "cookbook", name+".rego"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".rego"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(_ *lab, c *policy.Config) { c.Dir, c.Timeout = dir, 10*time.Second }
}

// configured is a new image with what its config says.
func (l *lab) configured(config v1.Config) v1.Image {
	l.Helper()
	img, err := mutate.Config(l.random(2000), config)
	if err != nil {
		l.Fatal(err)
	}
	return img
}

// listing is an engine whose SBOMs say that an image holds one package, under the licence
// that the test names, and a finding in it.
type listing struct {
	*engine
	licenses map[digest.Digest]string
}

func (e listing) Begin(ctx context.Context, img scan.Image, diffIDs []digest.Digest) (scan.Session, error) {
	s, err := e.engine.Begin(ctx, img, diffIDs)
	return listed{s, e.licenses[img.Digest]}, err
}

type listed struct {
	scan.Session
	license string
}

func (s listed) Catalogue(ctx context.Context) (*scan.SBOM, error) {
	b, err := s.Session.Catalogue(ctx)
	if err == nil {
		b.JSON = fmt.Appendf(nil, `{"artifacts":[{"name":"db","version":"4.2","type":"deb","purl":"","licenses":[{"value":%q,"spdxExpression":%[1]q}]}]}`, s.license)
	}
	return b, err
}

// What is in an image is told to a policy that asks for it: at the first pull, and when
// the verdict is remembered.
func TestPackagesReachPolicies(t *testing.T) {
	t.Parallel()
	e := listing{newEngine(), map[digest.Digest]string{}}
	l := newLab(t, recipe(t, "license_denied", "package_denied"), func(l *lab, _ *policy.Config) { l.scanBy(e, e.database) })
	good, bad := l.push("acme/app", "good", 2000), l.push("acme/app", "bad", 3000)
	e.licenses[good.digest], e.licenses[bad.digest] = "MIT", "AGPL-3.0-only"
	for _, when := range []string{"first", "remembered"} {
		if r := l.scanned(good); r.status != 200 {
			t.Errorf("%s: %d %s", when, r.status, r.message())
		}
		if r := l.scanned(bad); r.status != 403 || !strings.Contains(r.message(), "AGPL-3.0-only in db 4.2") {
			t.Errorf("%s: %d %s", when, r.status, r.message())
		}
	}
}

// Whom an image runs as is in its config, also where the image isn't scanned again.
func TestConfigReachesPolicies(t *testing.T) {
	t.Parallel()
	l := newLab(t, recipe(t, "non_root"))
	root := l.pushImage("acme/app", "root", l.configured(v1.Config{User: "0:0"}))
	nobody := l.pushImage("acme/app", "nobody", l.configured(v1.Config{User: "65532"}))
	for range 2 {
		if r := l.scanned(root); r.status != 403 || !strings.Contains(r.message(), "runs as root") {
			t.Errorf("%d %s", r.status, r.message())
		}
		if r := l.scanned(nobody); r.status != 200 {
			t.Errorf("%d %s", r.status, r.message())
		}
	}
}

const (
	baseName   = "org.opencontainers.image.base.name"
	baseDigest = "org.opencontainers.image.base.digest"
)

func (l *lab) builtOn(name string, base digest.Digest) *image {
	l.Helper()
	return l.pushImage("acme/app", "", l.configured(v1.Config{Labels: map[string]string{baseName: name, baseDigest: base.String()}}))
}

// A base is compared with what its tag points at now, which upstream is asked for beside
// the pull, seldom, and only for a policy that wants to know.
func TestBaseIsOutdated(t *testing.T) {
	t.Parallel()
	clock := &clock{}
	l := newLab(t, recipe(t, "outdated_base"), func(l *lab, c *policy.Config) { l.gateway.Now, c.Now = clock.now, clock.now })
	base := l.push("acme/base", "1", 1000)
	app := l.builtOn("cgr.test/acme/base:1", base.digest)
	path := manifestPath("acme/app", app.digest.String())
	says := func(text string) func() bool {
		return func() bool {
			r := l.get("GET", path, patience)
			return r.status == 403 && strings.Contains(r.message(), text)
		}
	}
	allowed := func() bool { return l.get("GET", path, patience).status == 200 }
	l.scanned(app)
	l.eventually("the base is current", allowed)
	asked := func() int {
		return l.origin.Count(proxytest.Request{Kind: proxytest.KindManifest, Repository: "acme/base", Reference: "1"})
	}
	if n := asked(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
	clock.add(5 * time.Minute)
	allowed()
	if n := asked(); n != 1 {
		t.Errorf("upstream was asked %d times within ten minutes", n)
	}
	// The tag moves to an index that lists another child.
	other := l.push("acme/base", "", 1500)
	l.index("acme/base", "1", l.descriptor(other, "amd64"))
	clock.add(6 * time.Minute)
	l.eventually("the base has a newer build", says("has a newer build"))
	// And to one that lists the image's base.
	l.index("acme/base", "1", l.descriptor(other, "arm64"), l.descriptor(base, "amd64"))
	clock.add(11 * time.Minute)
	l.eventually("the base is a child of what is current", allowed)
	// And away.
	l.origin.Delete("acme/base", "1")
	clock.add(11 * time.Minute)
	l.eventually("nobody knows", says("is not known"))
}

// What an image says of its base is a stranger's word: it makes the gateway ask for
// nothing but a tag in a repository that its clients may read.
func TestBaseThatIsNone(t *testing.T) {
	t.Parallel()
	l := newLab(t, recipe(t, "outdated_base"), func(l *lab, _ *policy.Config) { l.gateway.Upstreams[0].Deny = []string{"secret/**"} })
	secret := l.push("secret/base", "1", 1000)
	for _, name := range []string{
		"cgr.test/secret/base:1", "evil.example/acme/base:1", "acme/base", "cgr.test/acme/../secret/base:1", "cgr.test/ACME", "cgr.test/acme/base:1:2", "cgr.test/", "//", "",
		"cgr.test/acme/base:" + strings.Repeat("1", 200), "cgr.test/acme/base?x=y:1",
	} {
		if r := l.scanned(l.builtOn(name, secret.digest)); r.status != 403 || !strings.Contains(r.message(), "blocked by policy outdated_base_unknown") {
			t.Errorf("%q: %d %s", name, r.status, r.message())
		}
	}
	for _, r := range l.origin.Requests() {
		if r.Repository != "acme/app" && r.Repository != "" {
			t.Errorf("upstream was asked for %s %s", r.Repository, r.Reference)
		}
	}
}

// Without a policy that wants to know nobody is asked.
func TestBaseIsNotAskedFor(t *testing.T) {
	t.Parallel()
	l := newLab(t, recipe(t, "non_root"))
	if r := l.scanned(l.builtOn("cgr.test/acme/base:1", digest.FromString("x"))); r.status != 403 {
		t.Errorf("%d %s", r.status, r.message())
	}
	for _, r := range l.origin.Requests() {
		if r.Repository == "acme/base" {
			t.Errorf("upstream was asked for %s %s", r.Repository, r.Reference)
		}
	}
}

// Anybody can write the name of an approved base into an image. It is built on that where
// it has its layers.
func TestBaseThatIsOnlyClaimed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := os.ReadFile(filepath.Join("..", "policy", "cookbook", "approved_base.rego"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "cgr.dev/chainguard/**", "cgr.test/acme/base:*", 1)
	if err := os.WriteFile(filepath.Join(dir, "approved.rego"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(_ *lab, c *policy.Config) { c.Dir, c.Timeout = dir, 10*time.Second })
	built := l.random(1000)
	base := l.pushImage("acme/base", "1", built)
	index := l.index("acme/base", "multi", l.descriptor(base, "amd64"))
	on := func(d digest.Digest, img v1.Image) *image {
		img, err := mutate.Config(img, v1.Config{Labels: map[string]string{baseName: "cgr.test/acme/base:1", baseDigest: d.String()}})
		if err != nil {
			t.Fatal(err)
		}
		return l.pushImage("acme/app", "", img)
	}
	more, err := l.random(500).Layers()
	if err != nil {
		t.Fatal(err)
	}
	app, err := mutate.AppendLayers(built, more...)
	if err != nil {
		t.Fatal(err)
	}
	says := func(img *image, status int, text string) func() bool {
		return func() bool {
			r := l.get("GET", manifestPath("acme/app", img.digest.String()), patience)
			return r.status == status && strings.Contains(r.message(), text)
		}
	}
	l.eventually("what is built on it", says(on(base.digest, app), 200, ""))
	l.eventually("what is built on a child of an index", says(on(index, app), 200, ""))
	l.eventually("what only says so", says(on(base.digest, l.random(1000)), 403, "has other layers"))
	l.eventually("what names a digest that is none", says(on("sha256:1", app), 403, "is not known"))
	l.eventually("what names a digest that isn't there", says(on(digest.FromString("x"), app), 403, "is not known"))
}
