package layer

import (
	"archive/tar"
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

const (
	sparsePrefix   = "GNU.sparse."
	xattrPrefix    = "SCHILY.xattr."
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// A book has the paths of a layer as they stand at one point of its extraction. It keeps
// hashes, so that a path takes at most 40 bytes, however long it is.
type book struct {
	seed  maphash.Seed
	marks map[uint64]mark
}

// A mark says what is known of a path.
type mark uint8

const (
	directory mark = 1 << iota // has a header that says so
	implied                    // a directory without a header so far
	other                      // a file, a link, a device
	filled                     // something lies in it
	deep                       // somewhere below it lies an implied directory
	late                       // a directory whose header came after what lies in it
	removed                    // a whiteout of the layer names it

	present = directory | implied | other
)

func newBook() book {
	return book{maphash.MakeSeed(), map[uint64]mark{}}
}

func (b *book) key(name string) uint64  { return maphash.String(b.seed, name) }
func (b *book) mark(name string) mark   { return b.marks[b.key(name)] }
func (b *book) add(name string, m mark) { b.marks[b.key(name)] |= m }

// above reports whether a directory above name has the mark m.
func (b *book) above(name string, m mark) bool {
	for at := path.Dir(name); at != "/"; at = path.Dir(at) {
		if b.mark(at)&m != 0 {
			return true
		}
	}
	return false
}

// names notes names that readers resolve differently, and keeps the book.
func (w *walker) names(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := clean(hdr.Name)
	if escapes(hdr.Name) {
		w.p.note(AmbiguousName, hdr.Name, "leads out of the root: some runtimes refuse it, some don't")
	}
	if name == "/" {
		if hdr.Typeflag != tar.TypeDir {
			w.p.note(AmbiguousName, hdr.Name, "is the root and no directory")
		}
		return nil
	}
	dir, base := path.Split(name)
	if strings.Contains(dir, "/"+whiteoutPrefix) {
		w.p.note(AmbiguousWhiteout, hdr.Name, "lies below a name that begins as a whiteout does: scanners hide it, runtimes may not")
	}
	target, isWhiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case isWhiteout && base == opaqueWhiteout:
		w.opaque(hdr.Name, clean(dir))
	case isWhiteout:
		w.whiteout(hdr.Name, dir, target)
	default:
		if hdr.Typeflag == tar.TypeLink {
			w.hardLink(hdr, name)
		}
		w.place(hdr, name)
	}
	return w.parents(hdr.Name, name)
}

// opaque notes a marker that hides all of a lower directory where it does not do so for
// every runtime.
func (w *walker) opaque(shown, dir string) {
	switch {
	case dir == "/":
		w.p.note(AmbiguousWhiteout, shown, "hides all lower layers: overlay file systems ignore that, scanners and other runtimes don't")
	case w.book.mark(dir)&deep != 0:
		w.p.note(AmbiguousWhiteout, shown, "comes after directories below it that have no entry of their own: some runtimes remove these")
	}
}

// whiteout notes one that names no file, or one of its own layer: it is for lower
// layers, but scanners apply it in the order of names, runtimes in that of entries.
func (w *walker) whiteout(shown, dir, target string) {
	if target == "" || target == "." || target == ".." {
		w.p.note(AmbiguousWhiteout, shown, "removes no file but a whole directory")
		return
	}
	if w.book.mark(dir+target)&present != 0 {
		w.ownWhiteout(dir + target)
	}
	w.book.add(dir+target, removed)
}

func (w *walker) ownWhiteout(name string) {
	w.p.note(AmbiguousWhiteout, name, "is in this layer together with its own whiteout: readers differ in which one counts")
}

// hardLink notes one whose target is not there when it is made. On an overlay file
// system it fails then; elsewhere it may lead to a file of a lower layer.
func (w *walker) hardLink(hdr *tar.Header, name string) {
	switch target := clean(hdr.Linkname); {
	case escapes(hdr.Linkname):
		w.p.note(AmbiguousName, hdr.Name, "is a hard link to something outside of the root: some runtimes refuse it, some don't")
	case target == name || w.book.mark(target)&other == 0:
		w.p.note(AmbiguousLink, hdr.Name, "is a hard link to what is no file before it in this layer: some runtimes refuse it, some link to a lower layer")
	}
}

// place puts an entry into the book, over what an earlier one put there: the last counts.
func (w *walker) place(hdr *tar.Header, name string) {
	m := w.book.mark(name)
	if m&removed != 0 {
		w.ownWhiteout(name)
	}
	isDir := hdr.Typeflag == tar.TypeDir
	switch {
	case isDir && m&implied != 0:
		m = m&^implied | directory | late
	case isDir && m&other != 0:
		w.p.note(AmbiguousLayout, hdr.Name, "is a directory, and was something else before in this layer: some runtimes lose what lower layers have in it, some don't")
		m = m&^other | directory
	case isDir:
		m |= directory
	case m&(directory|implied) != 0 && m&filled != 0:
		w.p.note(AmbiguousLayout, hdr.Name, "replaces a directory that this layer has put something into: runtimes remove it, scanners don't")
	case m&other != 0 && w.book.above(name, late):
		w.p.note(AmbiguousLayout, hdr.Name, "is there twice, with the entry of a directory above it in between: where the first went depends on the runtime")
	}
	if !isDir {
		m = m&^(directory|implied) | other
	}
	w.book.marks[w.book.key(name)] = m
}

// parents puts the directories above an entry into the book. Those without an entry cost
// a scanner as much as others, and count like them: else one name of 255 bytes could
// stand for a hundred.
func (w *walker) parents(shown, name string) error {
	var added mark // what the directories above the next one get
	for at := path.Dir(name); at != "/"; at = path.Dir(at) {
		m := w.book.mark(at)
		if m&other != 0 {
			w.p.note(AmbiguousLayout, shown, fmt.Sprintf("lies below %q, which is no directory in this layer: runtimes follow a link or refuse, scanners don't", shortPath(at)))
		}
		w.book.add(at, filled|added)
		if m&present != 0 && (added == 0 || m&deep != 0) {
			break
		}
		if m&present != 0 {
			continue // only to mark it
		}
		if m&removed != 0 {
			w.ownWhiteout(at)
		}
		w.book.add(at, implied)
		added = deep
		w.p.res.Implied++
		if err := w.p.budget.draw(0, 1); err != nil {
			return err
		}
	}
	return past(int64(w.p.res.Entries+w.p.res.Implied), int64(w.p.lim.Entries), "entries", w.last)
}

// attributes notes a mode or extended attributes that make an entry something else for
// some readers.
func (w *walker) attributes(hdr *tar.Header) {
	if want, ok := fileTypes[hdr.Typeflag]; ok && hdr.FileInfo().Mode().Type() != want {
		w.p.note(AmbiguousType, hdr.Name, fmt.Sprintf("its mode %#o is not that of its type: scanners go by the one, runtimes by the other", hdr.Mode))
	}
	for _, key := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if ok && overlayAttribute(name) {
			w.p.note(AmbiguousLayout, hdr.Name, fmt.Sprintf("has the attribute %q, by which overlay file systems show other contents", shortPath(name)))
			return
		}
	}
}

// overlayAttribute reports whether overlay file systems keep their own state under name.
func overlayAttribute(name string) bool {
	for _, prefix := range []string{"trusted.overlay.", "user.overlay.", "user.fuseoverlayfs.", "trusted.fuseoverlayfs.", "user.containers.override_stat"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// fileTypes are the types in a mode that go with those of entries.
var fileTypes = map[byte]fs.FileMode{
	tar.TypeReg:     0,
	tar.TypeDir:     fs.ModeDir,
	tar.TypeSymlink: fs.ModeSymlink,
	tar.TypeChar:    fs.ModeDevice | fs.ModeCharDevice,
	tar.TypeBlock:   fs.ModeDevice,
	tar.TypeFifo:    fs.ModeNamedPipe,
}

// clean returns name as an absolute path without dots.
func clean(name string) string { return path.Clean("/" + name) }

// escapes reports whether name leads out of the directory that it is taken from.
func escapes(name string) bool {
	name = path.Clean(name)
	return name == ".." || strings.HasPrefix(name, "../")
}
