package proxy_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sluicegate/sluice/policy"
)

// A client that waits for its config and holds a layer is told twice that its image is
// denied, by a 403 and by a reset, and its user sees what it reads first. It has to be
// the one with the reason: containerd and regctl showed the reset every now and then.
func TestReasonComesBeforeTheCut(t *testing.T) {
	const delay = time.Second
	l := newLab(t, func(l *lab, _ *policy.Config) {
		l.gateway.Gate.CutDelay, l.gateway.Gate.HeaderWait = delay, patience
	})
	bad := l.push("acme/app", "bad", 300_000)
	l.engine.condemn(bad.digest)
	l.engine.hold()
	l.want(200, "", "GET", manifestPath("acme/app", "bad"))
	var held, all sync.WaitGroup
	held.Add(1)
	var refused, cut time.Time
	all.Go(func() {
		l.want(403, "CVE-2021-44228", "GET", blobPath("acme/app", bad.config))
		refused = time.Now()
	})
	all.Go(func() { cut = l.cutOff(http.DefaultClient, l.url, bad.layers[0], held.Done) })
	held.Wait()
	time.Sleep(50 * time.Millisecond) // for the config's request, which shows no sign of waiting
	decided := time.Now()
	l.engine.release()
	all.Wait()
	if after := cut.Sub(decided); cut.Before(refused) || after < delay/10 || after > delay {
		t.Errorf("cut %v after the decision, told why after %v", after, refused.Sub(decided))
	}
}
