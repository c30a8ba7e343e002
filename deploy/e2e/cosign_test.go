//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/proxy/proxytest"
)

// A signer is cosign with a pair of keys.
type signer struct {
	dir, program string
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	c := &signer{dir: tempDir(t), program: slowToBuild(t, "cosign", "cosign")}
	if r := c.run(t, "generate-key-pair", "--output-key-prefix", c.key()); !r.ok() {
		t.Fatalf("cosign generate-key-pair: %s", r.out)
	}
	return c
}

func (c *signer) key() string { return filepath.Join(c.dir, "key") }

func (c *signer) run(t *testing.T, args ...string) result {
	t.Helper()
	return run(t, []string{"COSIGN_PASSWORD=", "HOME=" + c.dir}, "", append([]string{c.program}, args...)...)
}

// sign puts a signature beside an image in the registry itself.
func (c *signer) sign(t *testing.T, ref string, args ...string) {
	t.Helper()
	args = append([]string{"sign", "--key", c.key() + ".key", "--use-signing-config=false", "--tlog-upload=false", "--allow-http-registry", "--yes"}, args...)
	if r := c.run(t, append(args, ref)...); !r.ok() {
		t.Fatalf("cosign sign %s: exit status %d\n%s", ref, r.status, r.out)
	}
}

// verify checks a signature by one of the keys.
func (c *signer) verify(t *testing.T, ref string) result {
	t.Helper()
	return c.run(t, "verify", "--key", c.key()+".pub", "--insecure-ignore-tlog=true", "--allow-http-registry", ref)
}

// signatures has cosign sign in the registry and verify through a gateway, in all its
// ways: a tag beside the image's, and a bundle that refers to the image, which it finds
// by the referrers API or, where the registry has none, by the fallback tag.
func (s *scene) signatures(t *testing.T) {
	ours, other := newSigner(t), newSigner(t)
	modern, err := proxytest.Start(proxytest.Origin{})
	if err != nil {
		t.Fatal(err)
	}
	defer modern.Close()
	modernHost := strings.TrimPrefix(modern.URL(), "http://")
	must(t, "crane", "copy", "--insecure", s.back+"/"+s.small.ref, modernHost+"/"+s.small.ref)

	g := s.newGateway(t, "gate: {negative_ttl: 0s}") // they are signed while we look
	g.edit(t, "realm_hosts: []}]", "realm_hosts: []}, {name: modern.test, url: \""+modern.URL()+"\"}]")
	g.start(t)
	for _, way := range []struct {
		name          string
		host, through string
		i             *image
		args          []string
		tags          int // that the signature adds
	}{
		{"tag", s.back, g.host + "/cgr.dev", s.big, []string{"--new-bundle-format=false"}, 1},
		{"fallback tag", s.back, g.host + "/cgr.dev", s.small, nil, 1},
		{"referrers", modernHost, g.host + "/modern.test", s.small, nil, 0},
	} {
		t.Run(way.name, func(t *testing.T) {
			at := way.i.repo() + "@" + way.i.manifest.String()
			if r := ours.verify(t, way.through+"/"+at); r.ok() {
				t.Errorf("verified before it was signed:\n%s", r.out)
			}
			ours.sign(t, way.host+"/"+at, way.args...)
			for _, ref := range []string{way.host + "/" + at, way.through + "/" + at, way.through + "/" + way.i.ref} {
				if r := ours.verify(t, ref); !r.ok() {
					t.Errorf("cosign verify %s: exit status %d\n%s", ref, r.status, last(r.out, 12))
				}
				if r := other.verify(t, ref); r.ok() {
					t.Errorf("verified by another's key:\n%s", r.out)
				}
			}
			if n := strings.Count(must(t, "crane", "ls", "--insecure", way.host+"/"+way.i.repo()), "sha256-"); n != way.tags {
				t.Errorf("the signature added %d tags, want %d: it went another way", n, way.tags)
			}
		})
	}
	t.Run("denied", func(t *testing.T) {
		ours.sign(t, s.back+"/"+s.bad.repo()+"@"+s.bad.manifest.String())
		r := ours.verify(t, g.host+"/cgr.dev/"+s.bad.ref)
		seen := saw(r.out, s.bad)
		s.screens.add(screen{"cosign verify", "known", seen, last(r.out, 1)})
		if r.ok() || seen != reason {
			t.Errorf("cosign verify of a denied image: exit status %d\n%s", r.status, r.out)
		}
	})
}
