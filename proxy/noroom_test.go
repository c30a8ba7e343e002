package proxy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluicegate/sluice/cache/spool"
	"github.com/sluicegate/sluice/policy"
)

// The spool is too small for an image: that is said, with the settings to change, and
// nobody is sent to ask for a waiver of a scan that failed. A waiver of such doesn't let
// the image through unseen either.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	const waivers = "waivers: [{id: W-1, owner: a, reason: b, expires: 2099-01-01, scope: {policy: scan_failed}}]"
	small := func(l *lab, c *policy.Config) {
		l.gateway.Gate.HeaderWait = patience
		l.gateway.Blobs.Close()
		var err error
		if l.gateway.Blobs, err = spool.Open(filepath.Join(l.dir, "small"), 50_000); err != nil {
			l.Fatal(err)
		}
		c.WaiverFile = filepath.Join(l.dir, "waivers.yaml")
		if err := os.WriteFile(c.WaiverFile, []byte(waivers), 0o600); err != nil {
			l.Fatal(err)
		}
	}
	t.Run("for an image", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, small)
		img := l.push("acme/app", "one", 100_000, 100_000)
		r := l.scanned(img)
		for _, want := range []string{"no_room", "spool.blobs_quota", "operator"} {
			if r.status != 403 || !strings.Contains(r.message(), want) || strings.Contains(r.message(), "waiver") {
				t.Errorf("%d %s, want %q in it", r.status, r.message(), want)
			}
		}
	})
	t.Run("for a blob of an allowed one", func(t *testing.T) {
		t.Parallel()
		l := newLab(t)
		img := l.allow("acme/app", "one", 100_000, 100_000)
		other := l.another(small)
		other.want(503, "spool.blobs_quota", "GET", blobPath("acme/app", img.layers[0]))
	})
}
