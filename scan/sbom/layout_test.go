package sbom

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan/hostile"
	"github.com/sluicegate/sluice/scan/layer"
)

// Where runtimes put an entry in different places because of a lower layer, it is told;
// where the lower layer is out of the way for all of them, it is not.
func TestAmbiguities(t *testing.T) {
	link := func(b *hostile.Tar) { b.Dir("usr/").Dir("usr/lib/").Symlink("lib", "usr/lib") }
	below := func(b *hostile.Tar) { b.File("lib/f", "") }
	tests := map[string]struct {
		layers []func(*hostile.Tar)
		want   []string
	}{
		"a link below":                      {[]func(*hostile.Tar){link, below}, []string{"/lib"}},
		"a link two layers below":           {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File("usr/f", "") }, below}, []string{"/lib"}},
		"a file below":                      {[]func(*hostile.Tar){func(b *hostile.Tar) { b.File("lib", "") }, below}, []string{"/lib"}},
		"a hard link below":                 {[]func(*hostile.Tar){func(b *hostile.Tar) { b.File("f", "").Link("lib", "f") }, below}, []string{"/lib"}},
		"deeper":                            {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File("lib/a/b/c", "") }}, []string{"/lib"}},
		"a link in a link":                  {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.Dir("usr/").Dir("usr/lib/").Symlink("usr/lib/x", "..") }, func(b *hostile.Tar) { b.File("usr/lib/x/f", "") }}, []string{"/usr/lib/x"}},
		"a whiteout":                        {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File("lib/.wh.f", "") }}, []string{"/lib"}},
		"a hidden directory":                {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File("lib/.wh..wh..opq", "") }}, []string{"/lib"}},
		"its directory comes late":          {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File("lib/f", "").Dir("lib/") }}, []string{"/lib"}},
		"its directories come one by one":   {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File("lib/a/f", "").Dir("lib/").Dir("lib/a/") }}, []string{"/lib"}},
		"told once, where it begins":        {[]func(*hostile.Tar){link, below, func(b *hostile.Tar) { b.File("lib/g", "") }}, []string{"/lib"}},
		"its directory comes first":         {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.Dir("lib/").File("lib/f", "") }}, nil},
		"its directory came in between":     {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.Dir("lib/") }, below}, nil},
		"the link was removed":              {[]func(*hostile.Tar){link, func(b *hostile.Tar) { b.File(".wh.lib", "") }, below}, nil},
		"what it is in was removed":         {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("a/").Symlink("a/lib", "..") }, func(b *hostile.Tar) { b.File(".wh.a", "") }, func(b *hostile.Tar) { b.File("a/lib/f", "") }}, nil},
		"what it is in was hidden":          {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("a/").Symlink("a/lib", "..") }, func(b *hostile.Tar) { b.Dir("a/").File("a/.wh..wh..opq", "") }, func(b *hostile.Tar) { b.File("a/lib/f", "") }}, nil},
		"what it is in is a file by now":    {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("a/").Symlink("a/lib", "..") }, func(b *hostile.Tar) { b.File("a", "") }, func(b *hostile.Tar) { b.Dir("a/").File("a/lib/f", "") }}, nil},
		"nothing below":                     {[]func(*hostile.Tar){below, below}, nil},
		"/var/run, as most base images are": {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("run/").Dir("var/").Symlink("var/run", "../run") }, func(b *hostile.Tar) { b.File("var/run/ko/f", "") }}, nil},
		"/var/run, where /run leads on":     {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Symlink("run", "lib").Dir("var/").Symlink("var/run", "../run") }, func(b *hostile.Tar) { b.File("var/run/f", "") }}, []string{"/var/run"}},
		"/var/run, where a link in it does": {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("run/").Symlink("run/d", "/lib").Dir("var/").Symlink("var/run", "../run") }, func(b *hostile.Tar) { b.File("var/run/d/f", "") }}, []string{"/var/run"}},
		"/var/run, removed again":           {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("var/").Symlink("var/run", "/run") }, func(b *hostile.Tar) { b.File("var/run/f", "") }, func(b *hostile.Tar) { b.Dir("var/").File("var/.wh.run", "") }}, []string{"/var/run"}},
		"/var/run, a link again":            {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("var/").Symlink("var/run", "/run") }, func(b *hostile.Tar) { b.File("var/run/f", "") }, func(b *hostile.Tar) { b.Dir("var/").Symlink("var/run", "/run") }}, []string{"/var/run"}},
		"/var/run, and its directory late":  {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("var/").Symlink("var/run", "/run") }, func(b *hostile.Tar) { b.File("var/run/f", "").Dir("var/run/") }}, []string{"/var/run"}},
		"/var/run to somewhere else":        {[]func(*hostile.Tar){func(b *hostile.Tar) { b.Dir("var/").Symlink("var/run", "lib") }, func(b *hostile.Tar) { b.File("var/run/dpkg/status", "") }}, []string{"/var/run"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, fill := range tt.layers {
				var b hostile.Tar
				fill(&b)
				layers = append(layers, b.End())
			}
			s := sampleOf(t, name, imageOf(t, layers...))
			var got []string
			for _, p := range catalogue(t, s, nil).Problems {
				if p.Kind != layer.AmbiguousLayout || p.Detail == "" || p.Layer == "" {
					t.Errorf("%+v", p)
				}
				got = append(got, p.Path)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is told of one image is bounded.
func TestManyAmbiguities(t *testing.T) {
	var lower, upper hostile.Tar
	for i := range 500 {
		lower.Symlink(fmt.Sprint("l", i), "/")
		upper.File(fmt.Sprintf("l%d/f", i), "")
	}
	s := sampleOf(t, "many", imageOf(t, lower.End(), upper.End()))
	if n := len(catalogue(t, s, nil).Problems); n != maxLayouts {
		t.Errorf("%d are told", n)
	}
}
