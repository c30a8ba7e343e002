package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// debianPackages are added to a minimal Debian so that it is as large as image A, and
// holds something for each of the scanner's larger parts.
const debianPackages = "git,curl,openssh-client,python3-numpy,python3-requests,python3-yaml,python3-pip," +
	"node-semver,node-ws,node-lodash,node-yargs,node-glob,libcatalyst-perl,libdbix-class-perl,libmojolicious-perl,default-jre-headless,libspring-core-java," +
	"libjackson2-databind-java,libcommons-lang3-java,postgresql-client"

// errNoDebian says that no Debian can be made here.
var errNoDebian = errors.New("no mmdebstrap, or not root: image A gets invented contents")

// debian returns the root file system of a Debian, made with the machine's own package
// sources the first time and kept in file from then on.
func debian(ctx context.Context, file string) (string, error) {
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil || os.Geteuid() != 0 {
		return "", errNoDebian
	}
	fmt.Fprintln(os.Stderr, "making a Debian root file system, kept in", file)
	part := file + ".part.tar"
	defer os.Remove(part)
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--include="+debianPackages, "bookworm", part)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("mmdebstrap: %w; -invented does without it", err)
	}
	return file, os.Rename(part, file)
}

// shelves are the folders whose contents are a layer each, as commands of a Dockerfile
// that install one thing after the other would make them. The rest is the base.
var shelves = []string{"usr/lib/jvm/", "usr/share/", "usr/lib/python3/", "usr/bin/"}

// debianLayers parts a root file system into layers, which are compressed side by side.
func debianLayers(rootfs string) ([]*layer, error) {
	layers := make([]*layer, 1+len(shelves))
	var g errgroup.Group
	for i := range layers {
		g.Go(func() (err error) {
			layers[i], err = debianLayer(rootfs, i)
			return err
		})
	}
	return layers, g.Wait()
}

func debianLayer(rootfs string, shelf int) (*layer, error) {
	f, err := os.Open(rootfs)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := newPacker(-1)
	if err != nil {
		return nil, err
	}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return p.close()
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", rootfs, err)
		}
		h.Name = strings.TrimPrefix(h.Name, "./")
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimPrefix(h.Linkname, "./")
		}
		if h.Name == "" || strings.HasPrefix(h.Name, "dev/") || shelfOf(h) != shelf {
			continue
		}
		if err := p.add(h, tr); err != nil {
			return nil, err
		}
	}
}

// shelfOf returns the layer of an entry. A hard link lies where its target does.
func shelfOf(h *tar.Header) int {
	name := h.Name
	if h.Typeflag == tar.TypeLink {
		name = h.Linkname
	}
	for i, prefix := range shelves {
		if strings.HasPrefix(filepath.ToSlash(name), prefix) {
			return i + 1
		}
	}
	return 0
}
