package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What manifest and config say of an image, and what they must not: a variable's value is
// often a secret, and would stand in every decision's record.
func TestDescribeTells(t *testing.T) {
	const manifest = `{"annotations":{"org.opencontainers.image.base.name":"cgr.dev/acme/base:1"},
		"layers":[{"size":100,"digest":"sha256:1"},{"size":23,"digest":"sha256:2"},{"size":-5}]}`
	const config = `{"os":"linux","architecture":"amd64","config":{"Env":["PATH=/bin","TOKEN=hunter2=x","BARE","PATH=/usr/bin"],"Labels":{"org.opencontainers.image.base.digest":"sha256:3"}}}`
	var i Image
	i.Describe([]byte(manifest), []byte(config))
	if diff := cmp.Diff([]string{"BARE", "PATH", "TOKEN"}, i.Env); diff != "" {
		t.Error(diff)
	}
	if i.Size != 123 || i.Layers != 3 {
		t.Errorf("size %d, %d layers", i.Size, i.Layers)
	}
	// One source names the base: two together could name a base that neither does.
	if i.Base == nil || *i.Base != (Base{Name: "cgr.dev/acme/base:1"}) {
		t.Errorf("base %+v", i.Base)
	}
	var huge Image
	huge.Describe([]byte(`{"layers":[{"size":9223372036854775807},{"size":9223372036854775807},{"size":1}]}`), nil)
	if huge.Size != maxSize {
		t.Errorf("size %d", huge.Size)
	}
	var none Image
	none.Describe([]byte(`{"layers":[]}`), []byte(`{}`))
	if none.Base != nil || none.Env != nil || none.Size != 0 {
		t.Errorf("%+v", none)
	}
}
