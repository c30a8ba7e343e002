package proxy_test

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy/proxytest/sample"
)

func odd(t *testing.T, name string) sample.Oddity {
	t.Helper()
	list, err := oddities()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(o sample.Oddity) bool { return o.Name == name })
	if i < 0 {
		t.Fatalf("no oddity is called %q", name)
	}
	return list[i]
}

// oddities are made once: all of them take a second under the race detector.
var oddities = sync.OnceValues(sample.Oddities)

// Odd images that are fine, as far as the gateway and the stream guard go, and those
// that nothing would run. What syft and grype make of them is not asked here.
var oddAndFine = map[string]string{
	"cosign-bundle": "", "empty-layer": "an empty tar, to runtimes too", "symlink-loop": "syft's business", "cosign-signature": "", "empty-index": "it lists nothing", "gzip-as-plain": "runtimes go by the bytes",
	"helm-chart": "", "inline-data": "its content was scanned", "repeated-layer": "", "sbom": "", "sha512": "", "two-members": "", "wasm": "", "whiteout": "", "zero-layers": "",
}

// No odd image is taken for a clean one; each answer says what is wrong and what to do,
// and the gateway goes on.
func TestOddities(t *testing.T) {
	t.Parallel()
	list, err := oddities()
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.HeaderWait = patience })
	for _, o := range list {
		o.Push(l.origin, "odd/images")
	}
	for _, o := range list {
		t.Run(o.Name, func(t *testing.T) {
			for _, ref := range []string{o.Name, o.Digest.String()} {
				answer := l.get("GET", manifestPath("odd/images", ref), patience)
				if answer.status == 200 { // pending: the blobs tell
					answer = l.settled(o, ref)
				}
				_, fine := oddAndFine[o.Name]
				switch m := answer.message(); {
				case fine && answer.status != 200:
					t.Errorf("%s (%s): %d %s", ref, o.Why, answer.status, m)
				case fine:
				case answer.status/100 == 2:
					t.Errorf("%s (%s): served", ref, o.Why)
				case len(m) < 40 || len(m) > 330 || strings.Contains(m, l.dir) || strings.Contains(m, l.origin.Host()) || strings.Contains(m, "log says why"):
					t.Errorf("%s (%s): not a message for people: %q", ref, o.Why, m)
				default:
					t.Log(answer.status, m)
				}
			}
		})
	}
	good := l.push("acme/app", "good", 1000)
	if r := l.scanned(good); r.status != 200 {
		t.Errorf("a good image after them: %d %s", r.status, r.message())
	}
}

// settled asks for all blobs, each of which waits for the decision, and then for the
// manifest again.
func (l *lab) settled(o sample.Oddity, ref string) reply {
	for d := range o.Blobs {
		l.get("GET", "/v2/odd/images/blobs/"+d.String(), patience, "Range", "bytes=-1")
	}
	return l.get("GET", manifestPath("odd/images", ref), patience)
}
