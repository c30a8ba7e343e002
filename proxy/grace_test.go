package proxy_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/policy"
)

// What was allowed by a waiver is not served on the strength of that once the waiver is
// over, or was taken away, just since a new database has made its verdict miss.
func TestGraceEndsWithTheWaiver(t *testing.T) {
	t.Parallel()
	for _, vanished := range []bool{false, true} {
		var clock clock
		file := filepath.Join(t.TempDir(), "waivers.json")
		expires := clock.now().Add(time.Hour)
		writeJSONFile(t, file, waivers(expires))
		l := newLab(t, func(l *lab, c *policy.Config) { l.gateway.Now, c.Now, c.WaiverFile = clock.now, clock.now, file })
		bad := l.push("acme/app", "bad", 100_000)
		l.engine.condemn(bad.digest)
		if r := l.scanned(bad); r.status != 200 {
			t.Fatalf("a waived image: %d %s", r.status, r.message())
		}
		if vanished {
			writeJSONFile(t, file, map[string]any{"waivers": []any{}})
			l = l.another(func(l *lab, c *policy.Config) { l.gateway.Now, c.Now, c.WaiverFile = clock.now, clock.now, file })
		} else {
			clock.add(2 * time.Hour)
		}
		slow := &slowMatch{Engine: l.engine, gate: make(chan struct{})}
		l.scanner.replace(slow)
		l.engine.renew()
		for i, d := range bad.blobs() {
			r := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond)
			if r.status == 200 && digest.FromBytes(r.body) == d.Digest {
				t.Errorf("vanished %v: blob %d of an image that only a waiver allowed is served whole", vanished, i)
			}
		}
		close(slow.gate)
		l.eventually("it is denied", func() bool { return l.get("GET", manifestPath("acme/app", "bad"), patience).status == 403 })
	}
}

func waivers(expires time.Time) map[string]any {
	return map[string]any{"waivers": []map[string]any{{"id": "w", "owner": "o", "reason": "r", "expires": expires, "scope": map[string]any{"advisory": "CVE-2021-44228"}}}}
}
