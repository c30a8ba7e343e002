package main

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ulikunitz/xz"
)

// epoch is the time of all that is made here.
var epoch = time.Unix(1_700_000_000, 0)

// An entry is one entry of a layer: a file, or a link, or a directory by its name's
// last slash.
type entry struct {
	name, content string
	link          string // target of a symbolic link
	hard          string // target of a hard link
}

// of fills a layer with entries.
func of(entries ...entry) filling {
	return func(w *tar.Writer) error {
		for _, e := range entries {
			h := &tar.Header{Name: e.name, Mode: 0o755, ModTime: epoch, Typeflag: tar.TypeReg, Size: int64(len(e.content))}
			switch {
			case strings.HasSuffix(e.name, "/"):
				h.Typeflag = tar.TypeDir
			case e.link != "":
				h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
			case e.hard != "":
				h.Typeflag, h.Linkname = tar.TypeLink, e.hard
			}
			if err := add(w, h, strings.NewReader(e.content)); err != nil {
				return err
			}
		}
		return nil
	}
}

// both fills a layer with one thing and then others.
func both(fills ...filling) filling {
	return func(w *tar.Writer) error {
		for _, f := range fills {
			if err := f(w); err != nil {
				return err
			}
		}
		return nil
	}
}

// disk fills a layer with a folder or file of this machine, under a name.
func disk(from, name string) filling {
	return func(w *tar.Writer) error {
		return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(from, p)
			if err != nil {
				return err
			}
			var target string
			if info.Mode()&fs.ModeSymlink != 0 {
				if target, err = os.Readlink(p); err != nil {
					return err
				}
			}
			h, err := tar.FileInfoHeader(info, target)
			if err != nil {
				return err
			}
			h.Name, h.ModTime = path.Join(name, filepath.ToSlash(rel)), epoch
			h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
			if !info.Mode().IsRegular() {
				return add(w, h, nil)
			}
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			return add(w, h, f)
		})
	}
}

func add(w *tar.Writer, h *tar.Header, r io.Reader) error {
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if r == nil || h.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(w, r)
	return err
}

// archive fills a layer with a tar archive of a root file system, as far as keep wants
// it (all where it is nil).
func archive(file string, keep func(*tar.Header) bool) filling {
	return func(w *tar.Writer) error {
		return walk(file, func(h *tar.Header, r io.Reader) error {
			if keep != nil && !keep(h) {
				return nil
			}
			return add(w, h, r)
		})
	}
}

// walk calls visit for each entry of an archive, which is uncompressed where it is
// called .xz. Names have no "./" in front.
func walk(file string, visit func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	in := io.Reader(f)
	if strings.HasSuffix(file, ".xz") {
		if in, err = xz.NewReader(f); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		h.Name = strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, "./")
		}
		if h.Name == "" {
			continue
		}
		if err := visit(h, r); err != nil {
			return err
		}
	}
}

// difference fills a layer with what turns one root file system into another, as image
// builders do: what is new or has changed, and whiteouts of what is gone.
func difference(before, after string) filling {
	return func(w *tar.Writer) error {
		old, err := fingerprints(before)
		if err != nil {
			return err
		}
		now, err := fingerprints(after)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(old)) {
			parent := path.Dir(name)
			_, parentStays := now[parent]
			if _, stays := now[name]; stays || parent != "." && !parentStays {
				continue // there still, or gone with its directory
			}
			if err := add(w, &tar.Header{Name: path.Join(parent, ".wh."+path.Base(name)), Typeflag: tar.TypeReg, ModTime: epoch}, nil); err != nil {
				return err
			}
		}
		changed := func(h *tar.Header) bool { n := path.Clean(h.Name); return old[n] != now[n] }
		return archive(after, func(h *tar.Header) bool {
			// A hard link to a file that did not change is one into a lower layer.
			return changed(h)
		})(w)
	}
}

// fingerprints returns for each path of an archive something that changes with it.
func fingerprints(file string) (map[string]string, error) {
	out := map[string]string{}
	err := walk(file, func(h *tar.Header, r io.Reader) error {
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return err
		}
		out[path.Clean(h.Name)] = fmt.Sprint(h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, h.Size, h.Devmajor, h.Devminor, string(sum.Sum(nil)))
		return nil
	})
	return out, err
}
