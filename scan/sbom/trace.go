package sbom

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"

	stereofile "github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/syft/syft/file"
)

// How a cataloguer can search an image.
const (
	byPath = "path"
	byGlob = "glob"
	byMIME = "type"
	isPath = "exists"
)

// A question is one search of an image; its answer is where files lie.
type question struct {
	by   string
	what []string
}

// key names the question: no two have the same, but those for the same types in another
// order, which are answered the same.
func (q question) key() string {
	b, what := []byte(q.by), q.what
	if q.by == byMIME {
		what = slices.Sorted(slices.Values(what))
	}
	for _, w := range what {
		b = strconv.AppendInt(append(b, ' '), int64(len(w)), 10)
		b = append(append(b, ' '), w...)
	}
	return string(b)
}

// ask puts the question to an image.
func (q question) ask(r file.Resolver) ([]file.Location, error) {
	switch q.by {
	case byPath:
		return r.FilesByPath(q.what...)
	case byGlob:
		return r.FilesByGlob(q.what...)
	case byMIME:
		return r.FilesByMIMEType(q.what...)
	}
	if r.HasPath(q.what[0]) {
		return []file.Location{{}}, nil
	}
	return nil, nil
}

// A place is what a location says that doesn't depend on the image that it was found
// in: the layer, by its diff ID, the path in it, and the path that led there. In images
// that share the layer, equal places are the same bytes and the same metadata.
type place struct {
	file.Coordinates
	access string
	entry  stereofile.Path // where the layer has it
}

func placeOf(l file.Location) place {
	ref := l.Reference()
	return place{l.Coordinates, l.AccessPath, ref.RealPath}
}

func idOf(l file.Location) stereofile.ID {
	ref := l.Reference()
	return ref.ID()
}

// sum is a hash of an answer, in its order.
func sum(answer []file.Location) [32]byte {
	var b []byte
	for _, l := range answer {
		p := placeOf(l)
		for _, s := range []string{p.RealPath, p.FileSystemID, p.FullPath, p.access, string(p.entry)} {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
	}
	return sha256.Sum256(b)
}

// A step is a question with what it was answered.
type step struct {
	question
	answer [32]byte
}

// maxSteps bounds a trace; the cataloguer of a Debian with 600 packages takes 4,000.
const maxSteps = 100_000

// A recorder writes down what one cataloguer asks of an image: a trace. Whatever makes
// its outcome depend on more than the answers spoils the trace.
type recorder struct {
	view // with an errorList of the cataloguer's own

	mu      sync.Mutex // guards all below
	steps   []step
	asked   map[string]bool
	found   map[stereofile.ID]bool // files that an answer named
	spoiled bool
	strays  bool // it searched for more than it is shown in parts
}

var _ file.Resolver = (*recorder)(nil)

func newRecorder(v view) *recorder {
	v.seen = new(errorList)
	return &recorder{view: v, asked: map[string]bool{}, found: map[stereofile.ID]bool{}}
}

func (r *recorder) ask(by string, what ...string) ([]file.Location, error) {
	q := question{by, what}
	answer, err := q.ask(r.view)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range answer {
		r.found[idOf(l)] = true
	}
	key := q.key()
	if _, shown := r.only[key]; r.only != nil && (by == byGlob || by == byMIME) && (!shown || r.asked[key]) {
		r.strays, r.spoiled = true, true
	}
	switch {
	case err != nil || len(r.steps) == maxSteps:
		r.spoiled = true
	case !r.asked[key]:
		r.asked[key] = true
		r.steps = append(r.steps, step{question{by, slices.Clone(what)}, sum(answer)})
	}
	return answer, err
}

func (r *recorder) FilesByPath(paths ...string) ([]file.Location, error) {
	return r.ask(byPath, paths...)
}

func (r *recorder) FilesByGlob(patterns ...string) ([]file.Location, error) {
	return r.ask(byGlob, patterns...)
}

func (r *recorder) FilesByMIMEType(types ...string) ([]file.Location, error) {
	return r.ask(byMIME, types...)
}

func (r *recorder) HasPath(path string) bool {
	answer, _ := r.ask(isPath, path)
	return len(answer) > 0
}

func (r *recorder) RelativeFileByPath(_ file.Location, path string) *file.Location {
	return first(r.FilesByPath(path))
}

// FileContentsByLocation also asks where a link leads, as the resolver inside does.
func (r *recorder) FileContentsByLocation(l file.Location) (io.ReadCloser, error) {
	r.use(l)
	if m, err := r.Resolver.FileMetadataByLocation(l); err == nil && (m.Type == stereofile.TypeSymLink || m.Type == stereofile.TypeHardLink) {
		_, _ = r.FilesByPath(l.RealPath)
	}
	return r.view.FileContentsByLocation(l)
}

func (r *recorder) FileMetadataByLocation(l file.Location) (file.Metadata, error) {
	r.use(l)
	return r.view.FileMetadataByLocation(l)
}

// use notes that the bytes or the metadata of l count. They are known by its place only
// where an answer named it.
func (r *recorder) use(l file.Location) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.found[idOf(l)] {
		r.spoiled = true
	}
}

func (r *recorder) AllLocations(ctx context.Context) <-chan file.Location {
	r.mu.Lock()
	r.spoiled = true
	r.mu.Unlock()
	return r.view.AllLocations(ctx)
}

// trace returns the steps, false where the outcome may depend on more than them.
func (r *recorder) trace() ([]step, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.steps, !r.spoiled && len(r.seen.all()) == 0
}

// same asks the questions of a trace of another image. It returns false at the first
// answer that differs, else the locations that were found, by their places.
func same(steps []step, r view) (map[place]file.Location, bool) {
	found := map[place]file.Location{}
	for _, s := range steps {
		answer, err := s.ask(r)
		if err != nil || sum(answer) != s.answer {
			return nil, false
		}
		for _, l := range answer {
			found[placeOf(l)] = l
		}
	}
	return found, true
}

// searches remembers the answers of one image, which doesn't change: cataloguers ask
// much of the same.
type searches struct {
	mu    sync.Mutex // guards known
	known map[string][]file.Location
}

// maxSearches bounds the answers that are remembered of one image.
const maxSearches = 50_000

// get returns the answer to q. The caller may change what it gets.
func (s *searches) get(q question, ask func() ([]file.Location, error)) ([]file.Location, error) {
	if s == nil {
		return ask()
	}
	key := q.key()
	s.mu.Lock()
	out, ok := s.known[key]
	s.mu.Unlock()
	if ok {
		return clone(out), nil
	}
	out, err := ask()
	if err != nil {
		return out, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[string][]file.Location{}
	}
	if len(s.known) < maxSearches {
		s.known[key] = clone(out)
	}
	return out, nil
}

// clone copies locations with their annotations, which cataloguers add to in place.
func clone(ls []file.Location) []file.Location {
	out := slices.Clone(ls)
	for i := range out {
		out[i].Annotations = maps.Clone(out[i].Annotations)
	}
	return out
}
