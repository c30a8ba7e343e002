package vex

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds on all files together.
const (
	maxFiles = 2000
	maxBytes = 256 << 20
)

// A File is one that holds a document, as it was when it was last looked at.
type File struct {
	Name string
	info string // changes when its content does
}

// Files lists the documents that paths name: files, and all *.json in folders and those
// below them. Names in folders that begin with a dot are skipped. The list can be compared
// with an earlier one by slices.Equal.
func Files(paths []string) (files []File, err error) {
	total := int64(0)
	add := func(name string) error {
		i, err := os.Stat(name)
		if err != nil {
			return err
		}
		if !i.Mode().IsRegular() {
			return fmt.Errorf("%s: is no file", name)
		}
		if total += i.Size(); total > maxBytes || len(files) == maxFiles {
			return fmt.Errorf("%s: more than %d files or %d MiB of documents: leave out what no image here needs", name, maxFiles, maxBytes>>20)
		}
		files = append(files, File{name, fmt.Sprint(i.Size(), " ", i.ModTime().UnixNano())})
		return nil
	}
	for _, p := range paths {
		root, err := filepath.EvalSymlinks(p)
		if err != nil {
			return nil, err
		}
		i, err := os.Stat(root)
		if err != nil {
			return nil, err
		}
		if !i.IsDir() {
			if err := add(p); err != nil {
				return nil, err
			}
			continue
		}
		err = filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case name != root && strings.HasPrefix(e.Name(), "."):
				if e.IsDir() {
					return fs.SkipDir
				}
				return nil
			case e.IsDir() || !strings.EqualFold(filepath.Ext(name), ".json"):
				return nil
			}
			return add(name)
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return slices.Compact(files), nil
}

// Load reads all documents. Its error has a line for each file that is not good.
func Load(files []File) (docs []*Document, err error) {
	var errs []error
	for _, f := range files {
		d, err := load(f.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		docs = append(docs, d)
	}
	if len(errs) > 10 {
		errs = append(errs[:10], fmt.Errorf("and %d more", len(errs)-10))
	}
	return docs, errors.Join(errs...)
}

func load(name string) (*Document, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return Parse(name, data)
}
