package configs

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestChanged(t *testing.T) {
	a, b := Default(), Default()
	a.Auth.Access = []Access{} // as a file with an empty list makes it
	if got := Changed(a, b); len(got) != 0 {
		t.Errorf("equal ones differ in %v", got)
	}
	b.Gate.Drip = time.Second
	b.Log.Level = "debug"
	b.Upstreams = append(b.Upstreams, Upstream{Name: "docker.io"})
	b.Auth.Access = []Access{{Repositories: []string{"**"}}}
	want := []string{"auth.access", "upstreams", "gate.drip", "log.level"}
	if d := cmp.Diff(want, Changed(a, b)); d != "" {
		t.Error(d)
	}
}
