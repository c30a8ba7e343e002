package layer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicegate/sluice/scan/hostile"
)

// Trees that come out otherwise where layers are put together otherwise are told; the
// same names in a sound order are not.
func TestLayout(t *testing.T) {
	tests := map[string]struct {
		fill func(*hostile.Tar)
		want []string // kinds
	}{
		"below a link":                      {func(b *hostile.Tar) { b.Symlink("l", "d").File("l/f", "") }, []string{AmbiguousLayout}},
		"deep below a link":                 {func(b *hostile.Tar) { b.Symlink("l", "d").File("l/a/b/f", "") }, []string{AmbiguousLayout}},
		"a whiteout below a link":           {func(b *hostile.Tar) { b.Symlink("l", "d").File("l/.wh.f", "") }, []string{AmbiguousLayout}},
		"a hidden directory that is a link": {func(b *hostile.Tar) { b.Symlink("l", "d").File("l/.wh..wh..opq", "") }, []string{AmbiguousLayout}},
		"a directory in place of a link":    {func(b *hostile.Tar) { b.Symlink("l", "d").Dir("l/").File("l/f", "") }, []string{AmbiguousLayout}},
		"below a device":                    {func(b *hostile.Tar) { b.Entry(header("n", '3'), "").File("n/f", "") }, []string{AmbiguousLayout}},
		"a link in place of what is in it":  {func(b *hostile.Tar) { b.File("d/f", "").Symlink("d", "e") }, []string{AmbiguousLayout}},
		"a file in place of what is in it":  {func(b *hostile.Tar) { b.Dir("d").File("d/f", "").File("d", "") }, []string{AmbiguousLayout}},
		"a link in place of nothing":        {func(b *hostile.Tar) { b.Dir("d/").Symlink("d", "e") }, nil},
		"a file twice":                      {func(b *hostile.Tar) { b.File("d/f", "").File("./d/f", "") }, nil},
		"a late directory":                  {func(b *hostile.Tar) { b.File("d/f", "").Dir("d/") }, nil},
		"a late directory, and once more":   {func(b *hostile.Tar) { b.File("d/e/f", "").Dir("d/").File("d/e/f", "") }, []string{AmbiguousLayout}},
		"hard link":                         {func(b *hostile.Tar) { b.File("d/f", "").Link("g", "./d/f") }, nil},
		"hard link to a link":               {func(b *hostile.Tar) { b.Symlink("f", "x").Link("g", "f") }, nil},
		"hard link to a hard link":          {func(b *hostile.Tar) { b.File("f", "").Link("g", "f").Link("h", "/g") }, nil},
		"hard link ahead of its file":       {func(b *hostile.Tar) { b.Link("g", "f").File("f", "") }, []string{AmbiguousLink}},
		"hard link to a directory":          {func(b *hostile.Tar) { b.Dir("d").Link("g", "d") }, []string{AmbiguousLink}},
		"hard link to itself":               {func(b *hostile.Tar) { b.File("f", "").Link("f", "f") }, []string{AmbiguousLink}},
		"hard link through a link":          {func(b *hostile.Tar) { b.File("d/f", "").Symlink("l", "d").Link("g", "l/f") }, []string{AmbiguousLink}},
		"the root hidden":                   {func(b *hostile.Tar) { b.File("./.wh..wh..opq", "") }, []string{AmbiguousWhiteout}},
		"hidden, after said directories":    {func(b *hostile.Tar) { b.Dir("d/").Dir("d/e/").File("d/e/f", "").File("d/.wh..wh..opq", "") }, nil},
		"hidden, after implied ones":        {func(b *hostile.Tar) { b.Dir("d/").File("d/e/f", "").File("d/.wh..wh..opq", "") }, []string{AmbiguousWhiteout}},
		"hidden, after deeper implied ones": {func(b *hostile.Tar) { b.Dir("d/").Dir("d/e/").File("d/e/g/f", "").File("d/.wh..wh..opq", "") }, []string{AmbiguousWhiteout}},
		"hidden, others implied":            {func(b *hostile.Tar) { b.Dir("d/").File("e/g/f", "").File("d/.wh..wh..opq", "") }, nil},
		"a link's mode in a file":           {func(b *hostile.Tar) { b.Entry(withMode("f", '0', "0120777"), "") }, []string{AmbiguousType}},
		"a device's mode in a directory":    {func(b *hostile.Tar) { b.Entry(withMode("d/", '5', "0060755"), "") }, []string{AmbiguousType}},
		"modes as Java writes them": {func(b *hostile.Tar) {
			b.Entry(withMode("f", '0', "0100644"), "").Entry(withMode("d/", '5', "0040755"), "").Entry(withMode("l", '2', "0100644"), "")
		}, nil},
		"a type in an attribute": {func(b *hostile.Tar) {
			b.Pax('x', "SCHILY.xattr.user.containers.override_stat=0:0:0755:symlink").File("d", "e")
		}, []string{AmbiguousLayout}},
		"a directory in place of a file": {func(b *hostile.Tar) { b.File("d", "").Dir("d/") }, []string{AmbiguousLayout}},
		"an overlay's attribute":         {func(b *hostile.Tar) { b.Pax('x', "SCHILY.xattr.user.overlay.opaque=y").Dir("d/") }, []string{AmbiguousLayout}},
		"other attributes": {func(b *hostile.Tar) {
			b.Pax('x', "SCHILY.xattr.user.overlaid=y", "SCHILY.xattr.security.capability=x").File("f", "")
		}, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b hostile.Tar
			tt.fill(&b)
			res, _, err := copyBytes(t, b.End(), DefaultLimits(), nil)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, p := range res.Problems {
				kinds = append(kinds, p.Kind)
			}
			if diff := cmp.Diff(tt.want, kinds); diff != "" {
				t.Errorf("%s %+v", diff, res.Problems)
			}
		})
	}
}

// header is of an entry without contents.
func header(name string, typ byte) []byte { return hostile.Header(name, typ, 0) }

func withMode(name string, typ byte, mode string) []byte {
	h := header(name, typ)
	copy(h[100:], mode+"\x00")
	return hostile.Sum(h)
}

// What begins as an empty tar and goes on as a file system image is not read, and so no
// readable tar.
func TestFileSystemImage(t *testing.T) {
	erofs := append(make([]byte, 1024), "\xe2\xe1\xf5\xe0 and so on"...)
	for name, blob := range map[string][]byte{"none": erofs, "gzip": gz(t, erofs), "far behind": append(make([]byte, 1<<20), 1)} {
		_, _, err := copyBytes(t, blob, DefaultLimits(), nil)
		var format *FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), "file system image") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Members with nothing in them take time all the same, and are not waited for.
func TestEmptyMembers(t *testing.T) {
	blob := bytes.Repeat(gz(t, nil), 400_000)
	lim := DefaultLimits()
	lim.Time = time.Millisecond
	src := bytes.NewReader(blob)
	_, err := Copy(t.Context(), io.Discard, src, describe(blob), lim, nil)
	var limit *LimitError
	if !errors.As(err, &limit) || limit.What != whatTime || src.Len() == 0 {
		t.Errorf("%v, with %d bytes of %d not read", err, src.Len(), len(blob))
	}
}
