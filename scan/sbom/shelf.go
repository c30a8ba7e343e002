package sbom

import (
	"container/list"
	"context"
	"math"
	"os"
	"runtime/debug"
	"sync"

	stereofile "github.com/anchore/stereoscope/pkg/file"
	"github.com/anchore/stereoscope/pkg/image"
)

// Bounds of the layers whose index a Cataloguer keeps. An entry of a tar takes some 2.5 kB.
const (
	maxShelved        = 100_000 // entries
	maxShelvedLayers  = 64      // each keeps its file open
	shelvedEntryBytes = 2500
)

// An indexed is a layer that stereoscope has indexed by itself, to be used by any number
// of images at once: nothing in it changes any more.
type indexed struct {
	layer *image.Layer
	files *image.FileCatalog
	ids   []stereofile.ID // of its entries
	path  string          // where the tar was
	tar   os.FileInfo     // which it was

	users int  // guarded by the shelf's mu, as is kept
	kept  bool // it is on the shelf
}

// newIndexed indexes a layer that has landed.
func newIndexed(l *landing, tar os.FileInfo, dir string, i int) (*indexed, error) {
	x := &indexed{layer: image.NewLayer(l.still()), files: image.NewFileCatalog(), path: l.path, tar: tar, users: 1}
	if err := x.layer.Read(x.files, i, dir); err != nil {
		x.close()
		return nil, err
	}
	entries, err := x.files.GetByFileType(stereofile.AllTypes()...)
	if err != nil {
		x.close()
		return nil, err
	}
	x.ids = make([]stereofile.ID, len(entries))
	for i, e := range entries {
		x.ids[i] = e.ID()
	}
	return x, nil
}

// close closes the layer's file, which only an image can.
func (x *indexed) close() {
	img := image.Image{Layers: []*image.Layer{x.layer}}
	_ = img.Cleanup() // it was only read
}

// of reports whether it is the index of this very file, as it was.
func (x *indexed) of(tar os.FileInfo) bool {
	return os.SameFile(x.tar, tar) && x.tar.Size() == tar.Size() && x.tar.ModTime().Equal(tar.ModTime())
}

// at returns the layer as the i-th of an image.
func (x *indexed) at(i int) *image.Layer {
	l := *x.layer
	l.Metadata.Index = uint(i)
	return &l
}

// A shelf keeps the indexes of layers for the images that share them. Its zero value is
// ready; it may be used concurrently.
type shelf struct {
	mu      sync.Mutex               // guards all below
	known   map[string]*list.Element // of *indexed, by the layer's diff ID and media type
	order   list.List                // of *indexed, the one used last first
	entries int
}

func (l *landing) key() string { return l.diffID.String() + " " + string(l.mediaType) }

// borrow returns the index of a layer: one that is kept, or a new one, which it keeps.
// Whoever gets one gives it back. slots bounds how many are made at once.
func (s *shelf) borrow(ctx context.Context, l *landing, dir string, i int, slots chan struct{}) (*indexed, error) {
	if err := l.wait(); err != nil {
		return nil, err
	}
	tar, err := os.Stat(l.link) // what is read
	if err != nil {
		return nil, err
	}
	if x := s.find(l.key(), tar); x != nil {
		return x, nil
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	x, err := newIndexed(l, tar, dir, i)
	if err == nil {
		s.keep(l.key(), x)
	}
	return x, err
}

// find returns the index of a layer, where it is that of this file: that equal diff IDs
// are equal bytes is somebody else's word.
func (s *shelf) find(key string, tar os.FileInfo) *indexed {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.known[key]
	if e == nil || !e.Value.(*indexed).of(tar) {
		return nil
	}
	s.order.MoveToFront(e)
	x := e.Value.(*indexed)
	x.users++
	return x
}

// keep puts x on the shelf, unless it is there or too large, and takes others off it:
// those past the bounds, and those whose file the layer store has let go, since its bytes
// stay on the disk for as long as it is open.
func (s *shelf) keep(key string, x *indexed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, e := range s.known {
		old := e.Value.(*indexed)
		if tar, err := os.Stat(old.path); err != nil || !old.of(tar) {
			s.drop(key, e)
		}
	}
	most := shelvable()
	if s.known[key] != nil || len(x.ids) > most {
		return
	}
	if s.known == nil {
		s.known = map[string]*list.Element{}
	}
	x.kept, s.known[key] = true, s.order.PushFront(x)
	s.entries += len(x.ids)
	for s.entries > most || s.order.Len() > maxShelvedLayers {
		last := s.order.Back()
		for key, e := range s.known {
			if e == last {
				s.drop(key, e)
			}
		}
	}
}

// drop takes a layer off the shelf. s.mu is held.
func (s *shelf) drop(key string, e *list.Element) {
	x := e.Value.(*indexed)
	s.order.Remove(e)
	delete(s.known, key)
	s.entries -= len(x.ids)
	if x.kept = false; x.users == 0 {
		x.close()
	}
}

// giveBack ends the use of a layer.
func (s *shelf) giveBack(x *indexed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.users--; x.users == 0 && !x.kept {
		x.close()
	}
}

// shelvable is how many entries may be kept: a sixteenth of the memory that this process
// is told to keep within.
func shelvable() int {
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return maxShelved
	}
	return int(min(maxShelved, limit/16/shelvedEntryBytes))
}
