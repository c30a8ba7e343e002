package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
)

// A walker reads the uncompressed bytes as a tar.
type walker struct {
	p *pass
	s *stream

	last    string // name of the last entry
	next    int64  // offset at which the headers of the next entry begin; -1 unknown
	headers int64  // bytes of headers so far

	book book
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
	w.book = newBook()
	if err := w.entries(tar.NewReader(w.s)); err != nil {
		return w.explain(err)
	}
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
	w.attributes(hdr)
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
	for _, key := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
		if key == "path" || key == "linkpath" || key == "size" || strings.HasPrefix(key, sparsePrefix) {
			w.p.note(GlobalHeader, hdr.Name, fmt.Sprintf("a global header sets %q for all entries behind it: readers differ in whether it counts", shortPath(key)))
			return
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
	switch {
	case first >= 0 && w.p.res.Entries == 0: // then nothing of it was read
		return &FormatError{What: "tar", Err: fmt.Errorf("it begins with zeros, and data follow at byte %d of %d: is it a file system image, such as EROFS? Build the image with tar layers", first, w.s.n)}
	case first >= 0:
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
