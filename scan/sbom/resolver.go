package sbom

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"sync"

	stereofile "github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/filetree"
	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/source"
)

// watched is a source whose resolver writes down every error that it gives.
// Cataloguers log some of these and go on as if there were no such files.
type watched struct {
	source.Source
	seen     *errorList
	searches *searches
}

func (w watched) FileResolver(scope source.Scope) (file.Resolver, error) {
	r, err := w.Source.FileResolver(scope)
	if err != nil {
		return nil, err
	}
	return watchedResolver{r, w.seen, w.searches}, nil
}

// watchedResolver passes everything on to the resolver inside. It hides
// file.OCIMediaTypeResolver, which finds nothing in an image with a root file system.
type watchedResolver struct {
	file.Resolver
	seen     *errorList
	searches *searches // nil: each search is made
}

func (r watchedResolver) FileContentsByLocation(l file.Location) (io.ReadCloser, error) {
	rc, err := r.Resolver.FileContentsByLocation(l)
	if err != nil {
		if r.hasContents(l) {
			r.seen.add(l.RealPath, fmt.Errorf("open: %w", err))
		}
		return nil, err
	}
	return watch(rc, l.RealPath, r.seen), nil
}

// hasContents reports whether l should have opened: a directory and a dangling link
// have nothing to read, and that is no error of ours.
func (r watchedResolver) hasContents(l file.Location) bool {
	m, err := r.Resolver.FileMetadataByLocation(l)
	return err != nil || m.Type == stereofile.TypeRegular
}

func (r watchedResolver) FileMetadataByLocation(l file.Location) (file.Metadata, error) {
	m, err := r.Resolver.FileMetadataByLocation(l)
	r.seen.add(l.RealPath, err)
	return m, err
}

func (r watchedResolver) FilesByPath(paths ...string) ([]file.Location, error) {
	return r.search(question{byPath, paths}, r.Resolver.FilesByPath)
}

func (r watchedResolver) FilesByGlob(patterns ...string) ([]file.Location, error) {
	return r.search(question{byGlob, patterns}, r.Resolver.FilesByGlob)
}

func (r watchedResolver) FilesByMIMEType(mimeTypes ...string) ([]file.Location, error) {
	return r.search(question{byMIME, mimeTypes}, r.Resolver.FilesByMIMEType)
}

// RelativeFileByPath drops an error of the search, which is why it is done here: in a
// squashed image it is the search by path.
func (r watchedResolver) RelativeFileByPath(_ file.Location, path string) *file.Location {
	return first(r.FilesByPath(path))
}

func first(found []file.Location, err error) *file.Location {
	if err != nil || len(found) == 0 {
		return nil
	}
	return &found[0]
}

// search makes a search that wasn't made before, and writes its error down. A link that
// leads nowhere or in a circle is a fact about the image, and hides nothing.
func (r watchedResolver) search(q question, ask func(...string) ([]file.Location, error)) ([]file.Location, error) {
	found, err := r.searches.get(q, func() ([]file.Location, error) { return ask(q.what...) })
	if err != nil && !filetree.IsUnresolvableLink(err) {
		r.seen.add("", fmt.Errorf("find files by %s %q: %w", q.by, q.what[:min(len(q.what), 3)], err))
	}
	return found, err
}

// watch returns rc with its read errors written down. What cataloguers need besides
// reading (without it they read whole files into memory) stays there.
func watch(rc io.ReadCloser, path string, seen *errorList) io.ReadCloser {
	if r, ok := rc.(readSeekerAt); ok {
		return &watchedReader{r, path, seen}
	}
	return rc
}

type readSeekerAt interface {
	io.ReadCloser
	io.ReaderAt
	io.Seeker
}

type watchedReader struct {
	readSeekerAt
	path string
	seen *errorList
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.readSeekerAt.Read(p)
	w.note(err)
	return n, err
}

func (w *watchedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.readSeekerAt.ReadAt(p, off)
	w.note(err)
	return n, err
}

// note keeps errors of the machine alone; reading past an end is how parsers find it.
func (w *watchedReader) note(err error) {
	var machine *fs.PathError
	if err != nil && errors.As(err, &machine) {
		w.seen.add(w.path, fmt.Errorf("read: %w", err))
	}
}

// An errorList keeps the first error of each path, and not more than maxProblems.
type errorList struct {
	mu     sync.Mutex // guards the map
	byPath map[string]error
}

func (e *errorList) add(path string, err error) {
	if err == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byPath == nil {
		e.byPath = map[string]error{}
	}
	if _, ok := e.byPath[path]; !ok && len(e.byPath) < maxProblems {
		e.byPath[path] = err
	}
}

// all returns what was written down so far.
func (e *errorList) all() map[string]error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.byPath)
}
