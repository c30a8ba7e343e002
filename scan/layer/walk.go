package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"path"
	"strings"
)

// A walker reads the uncompressed bytes as a tar.
type walker struct {
	p *pass
	s *stream

	last    string // name of the last entry
	next    int64  // offset at which the headers of the next entry begin; -1 unknown
	headers int64  // bytes of headers so far

	// For whiteouts that hit their own layer: the paths that it holds, with those of
	// the directories above, as hashes, and the paths that its whiteouts remove.
	seed    maphash.Seed
	paths   map[uint64]struct{}
	removed []removal
	implied int // directories that entries lie in before they have one of their own
}

// A removal is the path that a whiteout removes.
type removal struct {
	hash uint64
	path string // short
}

// walk reads the stream to its end.
func (w *walker) walk() error {
	head, err := w.s.head()
	if err != nil {
		return err
	}
	isTar := len(head) == 0 || isHeader(head) || len(head) == blockSize && firstByte(head) < 0
	if !isTar {
		return w.s.drain(func(int64, []byte) {})
	}
	w.p.res.Tar = true
	w.seed, w.paths = maphash.MakeSeed(), map[uint64]struct{}{}
	if err := w.entries(tar.NewReader(w.s)); err != nil {
		return w.explain(err)
	}
	w.whiteouts()
	return w.trail()
}

// entries reads all of them.
func (w *walker) entries(tr *tar.Reader) error {
	for {
		w.s.wall = math.MaxInt64
		if w.next >= 0 && w.p.lim.Header > 0 {
			w.s.wall = w.next + w.p.lim.Header + 2*blockSize // the entry's own, or the end's two
		}
		hdr, err := tr.Next()
		switch {
		case err == io.EOF:
			w.s.wall = math.MaxInt64
			return nil
		case hdr == nil: // with a header, err is but GODEBUG's opinion of the name
			return err
		}
		if err := w.entry(hdr); err != nil {
			return err
		}
	}
}

// entry examines one.
func (w *walker) entry(hdr *tar.Header) error {
	w.last = shortPath(hdr.Name)
	if err := w.bounds(hdr); err != nil {
		return err
	}
	w.types(hdr)
	return w.names(hdr)
}

// bounds counts an entry and holds it against the limits.
func (w *walker) bounds(hdr *tar.Header) error {
	lim, res := w.p.lim, &w.p.res
	res.Entries++
	at := w.s.offset()
	if w.next >= 0 {
		w.headers += at - w.next
	}
	w.next = roundUp(at)
	switch {
	case isSparse(hdr):
		w.next = -1 // archive/tar tells the expanded size only
	case !headerOnly(hdr.Typeflag):
		w.next = roundUp(at + hdr.Size)
	}
	return errors.Join(
		past(int64(res.Entries), int64(lim.Entries), "entries", w.last),
		past(w.headers, lim.HeaderTotal, "bytes of headers", w.last),
		past(int64(max(len(hdr.Name), len(hdr.Linkname))), int64(lim.Name), "bytes of name", w.last),
		past(int64(strings.Count(clean(hdr.Name), "/")), int64(lim.Depth), "directories in a name", w.last),
		w.p.budget.draw(0, 1))
}

// types notes what archive/tar reads in its own way, or does not know.
func (w *walker) types(hdr *tar.Header) {
	t := hdr.Typeflag
	switch {
	case isSparse(hdr):
		w.p.note(SparseEntry, hdr.Name, "a sparse file: runtimes expand it, scanners don't: build the image without sparse files")
	case t == tar.TypeXGlobalHeader:
		w.globals(hdr)
	case t != tar.TypeReg && !headerOnly(t):
		w.p.note(UnknownEntryType, hdr.Name, fmt.Sprintf("the entry type %q is none that runtimes agree on", t))
	case t != tar.TypeReg && hdr.Size > 0:
		w.p.note(AmbiguousSize, hdr.Name, fmt.Sprintf("an entry of type %q claims %d bytes of contents: readers differ in whether they follow", t, hdr.Size))
	}
}

// globals notes a global header that would change what follows: Go's reader, and so
// most runtimes, pass over it, others don't.
func (w *walker) globals(hdr *tar.Header) {
	for key := range hdr.PAXRecords {
		if key == "path" || key == "linkpath" || key == "size" || strings.HasPrefix(key, sparsePrefix) {
			w.p.note(GlobalHeader, hdr.Name, fmt.Sprintf("a global header sets %q for all entries behind it: readers differ in whether it counts", shortPath(key)))
			return
		}
	}
}

const (
	sparsePrefix   = "GNU.sparse."
	whiteoutPrefix = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// names notes names that readers resolve differently, and keeps book of whiteouts.
func (w *walker) names(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name := clean(hdr.Name)
	if escapes(hdr.Name) {
		w.p.note(AmbiguousName, hdr.Name, "leads out of the root: some runtimes refuse it, some don't")
	}
	if hdr.Typeflag == tar.TypeLink && escapes(hdr.Linkname) {
		w.p.note(AmbiguousName, hdr.Name, "is a hard link to something outside of the root: some runtimes refuse it, some don't")
	}
	if name == "/" && hdr.Typeflag != tar.TypeDir {
		w.p.note(AmbiguousName, hdr.Name, "is the root and no directory")
		return nil
	}
	dir, base := path.Split(name)
	if strings.Contains(dir, "/"+whiteoutPrefix) {
		w.p.note(AmbiguousWhiteout, hdr.Name, "lies below a name that begins as a whiteout does: scanners hide it, runtimes may not")
	}
	target, isWhiteout := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !isWhiteout:
		return w.remember(name)
	case base == opaqueWhiteout:
	case target == "" || target == "." || target == "..":
		w.p.note(AmbiguousWhiteout, hdr.Name, "removes no file but a whole directory")
	default:
		w.removed = append(w.removed, removal{maphash.String(w.seed, dir+target), shortPath(dir + target)})
	}
	return w.remember(clean(dir))
}

// remember adds a path and the directories above it to those that the layer holds.
// Directories without an entry cost a scanner as much as others, and count like them:
// else one name of 255 bytes could stand for a hundred.
func (w *walker) remember(name string) error {
	for at := name; at != "/"; at = path.Dir(at) {
		h := maphash.String(w.seed, at)
		if _, ok := w.paths[h]; ok {
			break
		}
		w.paths[h] = struct{}{}
		if at == name {
			continue // counted as an entry
		}
		w.implied++
		if err := w.p.budget.draw(0, 1); err != nil {
			return err
		}
	}
	return past(int64(w.p.res.Entries+w.implied), int64(w.p.lim.Entries), "entries", w.last)
}

// whiteouts notes those that remove what their own layer holds. They are for lower
// layers, but scanners apply them in the order of names, runtimes in that of entries.
func (w *walker) whiteouts() {
	for _, r := range w.removed {
		if _, ok := w.paths[r.hash]; ok {
			w.p.note(AmbiguousWhiteout, r.path, "is in this layer together with its own whiteout: readers differ in which one counts")
		}
	}
}

// trail reads what follows the tar's end. Zeros are padding.
func (w *walker) trail() error {
	first := int64(-1)
	err := w.s.drain(func(at int64, b []byte) {
		if i := firstByte(b); i >= 0 && first < 0 {
			first = at + int64(i)
		}
	})
	if err != nil {
		return err
	}
	if first >= 0 {
		w.p.note(TrailingData, "", fmt.Sprintf("data follows the end of the tar, at byte %d of %d", first, w.s.n))
	}
	return nil
}

// explain makes an error of the walk one of this package.
func (w *walker) explain(err error) error {
	var limit *LimitError
	switch {
	case w.s.fault != nil: // in whatever clothes
		return w.s.fault
	case errors.As(err, &limit):
		return limit
	case errors.Is(err, errWall), errors.Is(err, tar.ErrFieldTooLong):
		return &LimitError{What: "bytes of headers for one entry", Limit: w.p.lim.Header, Path: w.last}
	}
	return &FormatError{What: "tar", Path: w.last, Err: unexpected(err)}
}

// clean returns name as an absolute path without dots.
func clean(name string) string { return path.Clean("/" + name) }

// escapes reports whether name leads out of the directory that it is taken from.
func escapes(name string) bool {
	name = path.Clean(name)
	return name == ".." || strings.HasPrefix(name, "../")
}

// headerOnly reports whether archive/tar takes entries of type t to have no contents.
func headerOnly(t byte) bool {
	switch t {
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
		return true
	}
	return false
}

// isSparse reports whether any reader would expand the entry, archive/tar or not.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return false
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, sparsePrefix) {
			return true
		}
	}
	return hdr.Typeflag == tar.TypeGNUSparse
}

func roundUp(n int64) int64 { return (n + blockSize - 1) / blockSize * blockSize }

// firstByte returns where b has its first byte that is not zero, or -1.
func firstByte(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return -1
}
