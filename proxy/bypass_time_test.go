package proxy_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/scan"
)

// brief has the gateway live by a clock, and remember for a second of the Store's time
// what it remembers for ten days of that clock.
func brief(c *clock) change {
	return func(l *lab, p *policy.Config) {
		l.gateway.Now, p.Now = c.now, c.now
		l.gateway.Gate.RelationTTL = time.Second
	}
}

// An image that was last allowed is served for a quarter of an hour while it is matched
// with a new database, and no longer for all the matches that fail in that time.
func TestMatchesThatFailProlongNothing(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t, func(l *lab, c *policy.Config) {
		l.gateway.Now, c.Now = clock.now, clock.now
		l.gateway.Gate.RetryAfter = time.Millisecond
	})
	img := l.allow("acme/app", "one", 1000)
	matches := &matchOneByOne{Engine: l.engine, let: make(chan struct{})}
	defer close(matches.let) // and all of them, so that the gateway can close
	l.scanner.replace(matches)
	l.engine.renew()
	l.want(200, "", "HEAD", manifestPath("acme/app", "one"))
	clock.add(14 * time.Minute)
	l.want(200, "", "HEAD", manifestPath("acme/app", "one"))
	l.engine.fail(context.DeadlineExceeded) // that match fails, and another begins
	matches.let <- struct{}{}
	clock.add(5 * time.Minute)
	for range 5 {
		time.Sleep(20 * time.Millisecond) // more than RetryAfter
		r := l.get("GET", blobPath("acme/app", img.config), 300*time.Millisecond)
		if r.status/100 == 2 && digest.FromBytes(r.body) == img.config.Digest {
			t.Error("served 19 minutes after the database came")
		}
	}
}

// matchOneByOne ends a match for each time that it is let.
type matchOneByOne struct {
	scan.Engine
	let chan struct{}
}

func (m *matchOneByOne) Match(ctx context.Context, sbom []byte, db scan.Database) (*scan.Matches, error) {
	select {
	case <-m.let:
		return m.Engine.Match(ctx, sbom, db)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// What a waiver allowed ends with it, in the middle of a pull and for each door; what
// was open may finish.
func TestWaiverEndsInMidSession(t *testing.T) {
	t.Parallel()
	var clock clock
	l := newLab(t)
	bad := l.deny("acme/app", "bad", 400_000, 300_000)
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	next := l.another(waive(l, bad.digest, end), func(n *lab, c *policy.Config) { n.gateway.Now, c.Now = clock.now, clock.now })
	next.want(200, "", "GET", manifestPath("acme/app", "bad"))
	next.want(200, "", "GET", blobPath("acme/app", bad.config))
	next.want(200, "", "GET", blobPath("acme/app", bad.layers[0]))
	clock.add(time.Until(end) - 5*time.Second)
	next.want(200, "", "HEAD", manifestPath("acme/app", "bad"))
	clock.add(6 * time.Second)
	next.refused(bad)
	next.want(403, "", "GET", blobPath("acme/app", bad.layers[1]), "Range", "bytes=100-")
	next.want(403, "", "GET", blobPath("acme/app", bad.layers[0]), "Range", "bytes=-5")
}

// A client was cut at the floor of a denied image. A waiver lets it go on where it
// stood: the rest is asked for, and it comes exact.
func TestWaiverLetsAClientResume(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.push("acme/app", "bad", 400_000)
	d := bad.layers[0]
	l.engine.condemn(bad.digest)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	part := l.get("GET", blobPath("acme/app", d), 300*time.Millisecond)
	n := len(part.body)
	if floor := floorOf(d.Size, false); n == 0 || int64(n) > floor {
		t.Fatalf("%d bytes before the decision, floor is %d", n, floor)
	}
	l.engine.release()
	l.scanned(bad)
	for _, header := range [][]string{{"Range", "bytes=" + itoa(n) + "-"}, {"Range", "bytes=" + itoa(n) + "-", "If-Range", `"` + d.Digest.String() + `"`}} {
		l.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", d), header...)
	}
	next := l.another(waive(l, bad.digest, time.Now().Add(time.Hour)))
	rest := next.want(206, "", "GET", blobPath("acme/app", d), "Range", "bytes="+itoa(n)+"-")
	if want := "bytes " + itoa(n) + "-" + itoa(int(d.Size)-1) + "/" + itoa(int(d.Size)); rest.header.Get("Content-Range") != want || rest.header.Get("Content-Length") != itoa(int(d.Size)-n) {
		t.Errorf("Content-Range %q, Content-Length %q", rest.header.Get("Content-Range"), rest.header.Get("Content-Length"))
	}
	if digest.FromBytes(append(part.body, rest.body...)) != d.Digest {
		t.Error("the parts are not the layer")
	}
}

// A database swap while an image is denied opens none of its doors, however many come
// in a row, and whether the match is slow, fails, or there is suddenly no database.
func TestDatabaseSwapsWhileDenied(t *testing.T) {
	t.Parallel()
	var missing atomic.Bool
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Scanner.Database = func(ctx context.Context) (scan.Database, error) {
			if missing.Load() {
				return scan.Database{}, scan.ErrDatabaseMissing
			}
			return l.engine.database(ctx)
		}
	})
	bad := l.deny("acme/app", "bad", 400_000, 900)
	slow := &slowMatch{Engine: l.engine, gate: make(chan struct{})}
	l.scanner.replace(slow)
	led := newLedger()
	steal := func() {
		for _, d := range bad.blobs() {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			l.steal(ctx, led, bad, d)
			l.steal(ctx, led, bad, d, "Range", "bytes=70000-")
			cancel()
		}
		l.refused(bad)
	}
	l.engine.renew()
	steal()
	l.engine.renew()
	steal()
	l.engine.fail(context.DeadlineExceeded)
	close(slow.gate)
	steal()
	l.engine.renew()
	steal()
	missing.Store(true)
	steal()
	missing.Store(false)
	l.engine.fail(nil)
	steal()
	l.kept(led, bad)
}

// An image is denied, and what led to that has long been forgotten when somebody asks
// again: it is scanned again, and nobody is told that it is fine meanwhile.
func TestDeniedAndItsVerdictForgotten(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	bad := l.deny("acme/app", "bad", 400_000, 900)
	l.index("acme/app", "multi", l.descriptor(bad, "amd64"))
	l.engine.hold()
	l.scanner.replace(&upgraded{l.engine})
	for range 3 {
		l.want(403, "", "HEAD", manifestPath("acme/app", "bad"))
		l.want(403, "denied before", "GET", manifestPath("acme/app", "bad"))
		l.want(403, "", "HEAD", manifestPath("acme/app", "multi"))
		l.want(403, "", "GET", blobPath("acme/app", bad.layers[0]))
	}
	l.engine.release()
	l.eventually("it is denied for what it is", func() bool {
		return strings.Contains(l.get("GET", manifestPath("acme/app", "bad"), patience).message(), "CVE-2021-44228")
	})
}

// An upgraded engine is of another version: nothing that the old one found counts.
type upgraded struct{ scan.Engine }

func (u *upgraded) Recipe() scan.Recipe {
	r := u.Engine.Recipe()
	r.Syft += "+"
	return r
}

// A blob whose images are all gone, from upstream and from memory, is released by
// nobody: not by default, and not by an artifact that lists it too.
func TestImageGone(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Gate.RelationTTL = 400 * time.Millisecond })
	bad := l.push("acme/app", "bad", 300_000)
	l.engine.condemn(bad.digest)
	l.scanned(bad)
	l.origin.Delete("acme/app", bad.digest.String())
	config, layer := bad.config, bad.layers[0]
	config.MediaType, layer.MediaType = "application/x", "application/x"
	for i := range 20 { // each keeps the relation alive, and not the image's manifest
		l.artifact("acme/app", fmt.Sprint("decoy", i), l.empty("acme/app"), config, layer, ocispec.Descriptor{MediaType: "application/x", Digest: config.Digest, Size: config.Size, Annotations: map[string]string{"n": fmt.Sprint(i)}})
		l.want(200, "", "GET", manifestPath("acme/app", fmt.Sprint("decoy", i)))
		time.Sleep(50 * time.Millisecond)
		for _, d := range append(bad.layers, bad.config) {
			if r := l.get("GET", blobPath("acme/app", d), patience); r.status != 403 && r.status != 404 {
				t.Fatalf("a blob of a denied image that is gone: %d", r.status)
			}
		}
	}
}
