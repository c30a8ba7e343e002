package sbom

import (
	"container/list"
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/anchore/syft/syft/artifact"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
)

// Bounds of what a Cataloguer remembers of the images that it catalogued.
const (
	maxMemo    = 64 << 20 // bytes, about: a Debian's packages take 6 MB
	maxMemoOne = 16 << 20 // of one cataloguer's outcome on one image
	maxTraces  = 12       // of one name: each may be tried for an image
)

// A memo remembers what cataloguers found, with the trace of what each asked of the
// image that it found it in. Where another image answers the same, a cataloguer would
// find the same, and need not run. Its zero value is ready; it may be used
// concurrently.
type memo struct {
	mu    sync.Mutex               // guards all below; what an outcome holds never changes
	known map[string]*list.List    // of *outcome, by what was catalogued, the one used last first
	order list.List                // of *outcome, the one used last first
	at    map[*outcome]listedTwice // of each outcome
	bytes int
}

// An outcome is what a cataloguer returned without an error, for a trace.
type outcome struct {
	what          string
	steps         []step
	packages      []pkg.Package
	relationships []artifact.Relationship
	size          int
}

// listedTwice is where an outcome stands in the lists of a memo.
type listedTwice struct{ known, order *list.Element }

// catalogue has c catalogue what v shows of an image, under the name what, or finds
// what it would return. It reports whether c strayed from what v shows it in parts: then
// its outcome is no use.
func (m *memo) catalogue(ctx context.Context, c pkg.Cataloger, what string, v view) ([]pkg.Package, []artifact.Relationship, error, bool) {
	for _, o := range m.outcomes(what) {
		if found, ok := same(o.steps, v); ok {
			m.use(o)
			packages, relationships, _ := copyFound(o.packages, o.relationships, func(l file.Location) file.LocationData {
				if at, ok := found[placeOf(l)]; ok {
					return at.LocationData
				}
				return l.LocationData
			})
			return packages, relationships, nil, false
		}
	}
	rec := newRecorder(v)
	packages, relationships, err := c.Catalog(ctx, rec)
	for path, e := range rec.seen.all() {
		v.seen.add(path, e)
	}
	if steps, ok := rec.trace(); ok && err == nil {
		m.keep(what, steps, packages, relationships)
	}
	return packages, relationships, err, rec.strays
}

// outcomes returns those of one name, the one used last first.
func (m *memo) outcomes(what string) []*outcome {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.known[what]
	if all == nil {
		return nil
	}
	out := make([]*outcome, 0, all.Len())
	for e := all.Front(); e != nil; e = e.Next() {
		out = append(out, e.Value.(*outcome))
	}
	return out
}

// use puts o first.
func (m *memo) use(o *outcome) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.at[o]; ok {
		m.known[o.what].MoveToFront(at.known)
		m.order.MoveToFront(at.order)
	}
}

// keep remembers an outcome, and forgets what is past the bounds.
func (m *memo) keep(what string, steps []step, packages []pkg.Package, relationships []artifact.Relationship) {
	o := &outcome{what: what, steps: steps}
	var ok bool
	o.packages, o.relationships, ok = copyFound(packages, relationships, func(l file.Location) file.LocationData { return l.LocationData })
	if !ok {
		return
	}
	var w weigher
	o.size = 1<<10 + w.weigh(reflect.ValueOf(steps), 0) + w.weigh(reflect.ValueOf(packages), 0) +
		len(relationships)*2*int(reflect.TypeFor[pkg.Package]().Size()) // metadata is shared with the packages
	if w.strange || o.size > maxMemoOne {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known, m.at = map[string]*list.List{}, map[*outcome]listedTwice{}
	}
	all := m.known[what]
	if all == nil {
		all = list.New()
		m.known[what] = all
	}
	m.at[o] = listedTwice{all.PushFront(o), m.order.PushFront(o)}
	m.bytes += o.size
	if all.Len() > maxTraces {
		m.forget(all.Back().Value.(*outcome))
	}
	for m.bytes > maxMemo {
		m.forget(m.order.Back().Value.(*outcome))
	}
}

// forget drops an outcome. m.mu is held.
func (m *memo) forget(o *outcome) {
	at, all := m.at[o], m.known[o.what]
	delete(m.at, o)
	m.order.Remove(at.order)
	if all.Remove(at.known); all.Len() == 0 {
		delete(m.known, o.what)
	}
	m.bytes -= o.size
}

// copyFound copies what a cataloguer returned as deep as syft changes it afterwards,
// with each location put where at says. It reports whether all of it is known to be
// safe to use again.
func copyFound(packages []pkg.Package, relationships []artifact.Relationship, at func(file.Location) file.LocationData) ([]pkg.Package, []artifact.Relationship, bool) {
	byID := map[artifact.ID]pkg.Package{}
	out := make([]pkg.Package, len(packages))
	for i, p := range packages {
		out[i] = copyPackage(p, at)
		byID[p.ID()] = out[i]
	}
	rels := slices.Clone(relationships)
	for i, r := range rels {
		for _, end := range []*artifact.Identifiable{&rels[i].From, &rels[i].To} {
			switch v := (*end).(type) {
			case pkg.Package:
				// Only the ID of a relationship's end counts from here on.
				p, ok := byID[v.ID()]
				if !ok {
					return nil, nil, false
				}
				*end = p
			case file.Coordinates:
			default:
				return nil, nil, false
			}
		}
		if r.Data != nil {
			return nil, nil, false
		}
	}
	return out, rels, true
}

// copyPackage copies p but for its metadata, which syft doesn't change once the
// cataloguer has returned.
func copyPackage(p pkg.Package, at func(file.Location) file.LocationData) pkg.Package {
	p.Locations = copyLocations(p.Locations, at)
	p.CPEs = slices.Clip(slices.Clone(p.CPEs))
	if !p.Licenses.Empty() {
		licences := p.Licenses.ToUnorderedSlice()
		for i := range licences {
			licences[i].URLs = slices.Clip(slices.Clone(licences[i].URLs))
			licences[i].Locations = copyLocations(licences[i].Locations, at)
		}
		p.Licenses = pkg.NewLicenseSet(licences...)
	}
	return p
}

func copyLocations(set file.LocationSet, at func(file.Location) file.LocationData) file.LocationSet {
	if set.Empty() {
		return file.LocationSet{}
	}
	var out file.LocationSet
	for _, l := range set.ToUnorderedSlice() {
		out.Add(file.Location{LocationData: at(l), LocationMetadata: file.LocationMetadata{Annotations: maps.Clone(l.Annotations)}})
	}
	return out
}

// A weigher estimates how many bytes a value holds, and notices what must not be shared.
type weigher struct {
	strange bool // it holds what can change or end: a function, a channel
}

func (w *weigher) weigh(v reflect.Value, depth int) int {
	size := int(v.Type().Size())
	if depth > 60 {
		w.strange = true
		return size
	}
	switch v.Kind() {
	case reflect.String:
		size += v.Len()
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			size += w.weigh(v.Elem(), depth+1)
		}
	case reflect.Slice, reflect.Array:
		size = 24
		for i := range v.Len() {
			size += w.weigh(v.Index(i), depth+1)
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			size += w.weigh(it.Key(), depth+1) + w.weigh(it.Value(), depth+1)
		}
	case reflect.Struct:
		size = 0
		for i := range v.NumField() {
			size += w.weigh(v.Field(i), depth+1)
		}
	case reflect.Func, reflect.Chan, reflect.UnsafePointer:
		w.strange = w.strange || !v.IsNil()
	}
	return size
}
