package sbom

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	"github.com/google/go-cmp/cmp"
)

// perFile is a cataloguer that finds a package in each file that it searches for, and
// does something more with each.
type perFile struct {
	runs  *int
	types []string // searched for by type where there are any, in another order each time
	more  func(r file.Resolver, at file.Location) error
	all   bool // an error takes away what was found
}

func (perFile) Name() string { return "per-file" }

func (p perFile) Catalog(_ context.Context, r file.Resolver) (out []pkg.Package, _ []artifact.Relationship, errs error) {
	*p.runs++
	var found []file.Location
	var err error
	if len(p.types) > 0 {
		rand.Shuffle(len(p.types), func(i, j int) { p.types[i], p.types[j] = p.types[j], p.types[i] })
		found, err = r.FilesByMIMEType(p.types...)
	} else {
		found, err = r.FilesByGlob("**/package.json")
	}
	for _, l := range found {
		errs = errors.Join(errs, p.more(r, l))
		q := pkg.Package{Name: l.RealPath, Locations: file.NewLocationSet(l)}
		q.SetID()
		out = append(out, q)
	}
	if p.all && errs != nil {
		return nil, nil, errs
	}
	return out, nil, errors.Join(errs, err)
}

// TestByLayer: layer by layer it comes to the same, and where it could not, all is
// shown at once.
func TestByLayer(t *testing.T) {
	below, above := base(t), uppers(t)["a new package"]
	resolver := opened(t, below, above)
	fine := func(file.Resolver, file.Location) error { return nil }
	broken := func(_ file.Resolver, l file.Location) error {
		if strings.Contains(l.RealPath, "more") {
			return errors.New("a broken file")
		}
		return nil
	}
	tests := []struct {
		name        string
		types       []string
		more        func(file.Resolver, file.Location) error
		join        bool
		once, twice int // runs for an image, and for it again
	}{
		{name: "each by itself", more: fine, join: true, once: 3, twice: 4},
		{name: "by type", types: []string{"application/json", "text/plain", "application/octet-stream", "text/x-python", "inode/x-empty"}, more: fine, join: true, once: 3, twice: 4},
		{name: "looks up a path", join: true, once: 3, twice: 4, more: func(r file.Resolver, l file.Location) error {
			_, err := r.FilesByPath("/etc/os-release")
			return err
		}},
		{name: "searches for the same again", join: true, once: 3, twice: 6, more: func(r file.Resolver, l file.Location) error {
			if found, err := r.FilesByGlob("**/package.json"); err != nil || len(found) != 3 {
				return fmt.Errorf("sees %d of 3, %w", len(found), err)
			}
			return nil
		}},
		{name: "searches for something else", join: true, once: 3, twice: 6, more: func(r file.Resolver, l file.Location) error {
			_, err := r.FilesByMIMEType("text/plain")
			return err
		}},
		{name: "a broken file", more: broken, join: true, once: 3, twice: 5},
		{name: "a broken file that takes all away", more: broken}, // runs: up to which layer is first
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var runs, plainRuns int
			names := func(ps []pkg.Package, _ []artifact.Relationship, err error) (out []string) {
				for _, p := range ps {
					out = append(out, p.Name)
				}
				slices.Sort(out)
				return append(out, fmt.Sprint(err))
			}
			want := names(perFile{&plainRuns, tt.types, tt.more, !tt.join}.Catalog(t.Context(), resolver))
			if len(want) < 4 && tt.join {
				t.Fatalf("found only %v", want)
			}
			c := byLayer{perFile{&runs, tt.types, tt.more, !tt.join}, new(memo), tt.join}
			r := watchedResolver{resolver, new(errorList), new(searches)}
			if diff := cmp.Diff(want, names(c.Catalog(t.Context(), r))); diff != "" || tt.once > 0 && runs != tt.once {
				t.Errorf("%d runs, want %d (-all +by layer):\n%s", runs, tt.once, diff)
			}
			if diff := cmp.Diff(want, names(c.Catalog(t.Context(), r))); diff != "" || tt.once > 0 && runs != tt.twice {
				t.Errorf("again: %d runs, want %d (-all +by layer):\n%s", runs, tt.twice, diff)
			}
		})
	}
}

// TestRememberedInTheNewImage: what was found in one image can be opened in the next.
func TestRememberedInTheNewImage(t *testing.T) {
	below, above := base(t), uppers(t)["nothing"]
	var runs int
	fine := func(file.Resolver, file.Location) error { return nil }
	for _, c := range []pkg.Cataloger{remembered{perFile{&runs, nil, fine, false}, new(memo)}, byLayer{perFile{&runs, nil, fine, false}, new(memo), true}} {
		for _, r := range []file.Resolver{opened(t, below), opened(t, below, above)} {
			found, _, err := c.Catalog(t.Context(), watchedResolver{r, new(errorList), new(searches)})
			if err != nil || len(found) != 2 {
				t.Fatalf("%d packages, %v", len(found), err)
			}
			for _, p := range found {
				want, err := r.FilesByPath(p.Name)
				if got := p.Locations.ToSlice(); err != nil || len(got) != 1 || len(want) != 1 || got[0].Reference() != want[0].Reference() {
					t.Errorf("%s lies at %+v, which is of another image", p.Name, got)
				}
			}
		}
	}
	if runs != 1+2+1 { // all at once; the search and one layer; the search alone
		t.Errorf("%d runs", runs)
	}
}
