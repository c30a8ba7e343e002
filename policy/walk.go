package policy

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// maxFolders is how deep folders of policies may lie in one another. A link to a folder
// above it ends there.
const maxFolders = 20

// WalkFiles calls visit for each file of a folder, in lexical order, in folders below it
// and in those that links lead to: Kubernetes mounts the folders of a ConfigMap so. Names
// that begin with a dot are skipped, as are its versions. A link to nowhere is an error.
func WalkFiles(fsys fs.FS, visit func(name string) error) error {
	return walkFiles(fsys, ".", 0, visit)
}

func walkFiles(fsys fs.FS, dir string, depth int, visit func(name string) error) error {
	if depth > maxFolders {
		return fmt.Errorf("%s: folders lie more than %d deep; does a link lead to a folder above it?", dir, maxFolders)
	}
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		info, err := fs.Stat(fsys, name) // of what a link leads to
		switch {
		case err != nil:
		case info.IsDir():
			err = walkFiles(fsys, name, depth+1, visit)
		default:
			err = visit(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
