package proxy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluicegate/sluice/policy"
	"github.com/sluicegate/sluice/proxy"
	"github.com/sluicegate/sluice/proxy/auth"
	"github.com/sluicegate/sluice/scan"
)

// An image that is refused for its manifest, so that there is no verdict to be had, is
// answered as one that is denied: the answer is no, and not that there is none.
func TestAnswerForARefusedManifest(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	o := odd(t, "manifests-beside-layers")
	o.Push(l.origin, "acme/app")
	for _, ref := range []string{"acme/app:" + o.Name, "cgr.test/acme/app@" + o.Digest.String()} {
		a, err := l.gateway.Answer(t.Context(), auth.Caller{}, ref, "linux/amd64", time.Now().Add(patience))
		if err != nil || !a.Decision.Blocks() || a.Scan.State != scan.Failed || len(a.Decision.Violations) != 1 ||
			!strings.Contains(a.Decision.Violations[0].Message, "mixes an image") || !strings.HasPrefix(a.Image.Reference, "cgr.test/acme/app") {
			t.Errorf("%s: %+v, %v", ref, a, err)
		}
	}
}

// What is not the gateway's own refusal stays what it is.
func TestAnswerForAnImageThatUpstreamRefuses(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(l *lab, _ *policy.Config) { l.gateway.Upstreams[0].Registry.Credentials = nil })
	l.push("acme/app", "one", 1000)
	a, err := l.gateway.Answer(t.Context(), auth.Caller{}, "acme/app:one", "linux/amd64", time.Now().Add(patience))
	if e := (*proxy.Error)(nil); !errors.As(err, &e) || !strings.Contains(e.Message, "sluice connection test") {
		t.Errorf("%+v, %v", a, err)
	}
}

// An index without an image for a platform says what it has instead.
func TestAnswerForAnIndexWithoutTheImage(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	img := l.push("acme/app", "one", 1000)
	bare := l.descriptor(img, "")
	bare.Platform = nil
	for want, children := range map[string][]ocispec.Descriptor{
		"its index is empty":          {},
		"its index names no platform": {bare},
		"it has linux/arm64":          {l.descriptor(img, "arm64")},
	} {
		d := l.index("acme/app", "", children...)
		_, err := l.gateway.Answer(t.Context(), auth.Caller{}, "acme/app@"+d.String(), "linux/amd64", time.Now().Add(patience))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
}
