package sbom

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
)

// silences are what cataloguers read wrong or not at all and said nothing of: a reason
// for each, by the file.
type silences map[file.Coordinates][]string

// maxReasons bounds those of one file.
const maxReasons = 3

func (s silences) add(at file.Coordinates, cataloguer, format string, args ...any) {
	if len(s[at]) < maxReasons {
		s[at] = append(s[at], cataloguer+": "+fmt.Sprintf(format, args...))
	}
}

// passedOver looks for what cataloguers pass over in silence: entries of a package
// database that became no package, a Python package without a name or a version, and
// archives within archives that can't be opened. Each of them is something that was
// installed, and that nothing was matched for.
func passedOver(found *syftsbom.SBOM, files file.Resolver) silences {
	out := silences{}
	if files == nil {
		return out
	}
	for _, d := range databases {
		d.compare(found, files, out)
	}
	pythons(found, files, out)
	lookInside(found, files, out)
	return out
}

// A database is a kind of file that lists installed packages, in paragraphs of fields.
type database struct {
	kind          pkg.Type
	cataloguer    string
	globs         []string // as the cataloguer has them: each was asked for before
	name, version string   // fields
	installed     func(fields map[string]string) bool
	terminated    bool // its last line ends, or it was cut short
}

// databases lists those that are text. An rpm database that is damaged is an error of
// the library that reads it, and the cataloguer says so.
var databases = []database{
	{pkg.DebPkg, "dpkg-db-cataloger", []string{"**/lib/dpkg/status", "**/lib/dpkg/status.d/*", "**/lib/opkg/info/*.control", "**/lib/opkg/status"},
		"package", "version", onDisk, true},
	{pkg.ApkPkg, "apk-db-cataloger", []string{pkg.ApkDBGlob}, "P", "V", func(fields map[string]string) bool { return len(fields) > 0 }, false},
}

// onDisk reports whether the files of a package are there, by its state in dpkg's
// status (dpkg(1), PACKAGE STATES); the files of single packages have none. What is
// wanted of a package, such as deinstall, says nothing of that.
func onDisk(fields map[string]string) bool {
	if fields["package"] == "" && fields["version"] == "" {
		return false // a list of checksums beside the packages
	}
	status := strings.Fields(fields["status"])
	return len(status) < 3 || status[2] != "not-installed" && status[2] != "config-files"
}

// compare holds the databases of an image against the packages that were found.
func (d database) compare(found *syftsbom.SBOM, files file.Resolver, out silences) {
	known := map[string]bool{}
	for p := range found.Artifacts.Packages.Enumerate(d.kind) {
		known[p.Name+" "+strings.TrimSpace(p.Version)] = true
	}
	for _, glob := range d.globs {
		at, err := files.FilesByGlob(glob)
		if err != nil {
			continue // the resolver has written it down
		}
		for _, l := range at {
			d.compareFile(l, known, files, out)
		}
	}
}

func (d database) compareFile(l file.Location, known map[string]bool, files file.Resolver, out silences) {
	r, err := files.FileContentsByLocation(l)
	if err != nil {
		return
	}
	defer r.Close()
	listed := 0
	terminated, err := paragraphs(r, d.kind == pkg.DebPkg, func(fields map[string]string) {
		if !d.installed(fields) {
			return
		}
		listed++
		switch name, version := fields[d.name], fields[d.version]; {
		case name == "":
			out.add(l.Coordinates, d.cataloguer, "a package is listed without a name")
		case version == "":
			out.add(l.Coordinates, d.cataloguer, "%s is listed without a version", name)
		case !known[name+" "+version]:
			out.add(l.Coordinates, d.cataloguer, "%s %s is installed and was not catalogued", name, version)
		}
	})
	if err != nil {
		out.add(l.Coordinates, d.cataloguer, "it can't be read to its end: %v", err)
	} else if d.terminated && !terminated && listed > 0 {
		out.add(l.Coordinates, d.cataloguer, "its last line is cut short")
	}
}

// paragraphs calls each with the fields of each paragraph, by their names, which count
// in lower case where fold is set. Of a line no more than the first 64 KiB count, which
// no name and no version has. It reports whether the last line ended.
func paragraphs(r io.Reader, fold bool, each func(map[string]string)) (terminated bool, err error) {
	br := bufio.NewReaderSize(r, 64<<10)
	fields, terminated := map[string]string{}, true
	for {
		line, err := br.ReadSlice('\n')
		line = bytes.Clone(line)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = br.ReadSlice('\n')
		}
		if err != nil && err != io.EOF {
			return false, err
		}
		if err == nil && len(line) > 1 {
			addField(fields, string(line), fold)
			continue
		}
		if err == io.EOF && len(line) > 0 {
			addField(fields, string(line), fold)
			terminated = false
		}
		if len(fields) > 0 {
			each(fields)
			clear(fields)
		}
		if err == io.EOF {
			return terminated, nil
		}
	}
}

// addField adds the field of a line. A line that begins with white space goes on with the
// one before, of which no more is needed.
func addField(fields map[string]string, line string, fold bool) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || name[0] == ' ' || name[0] == '\t' {
		return
	}
	if fold {
		name = strings.ToLower(name)
	}
	fields[name] = strings.TrimSpace(value)
}

// pythons holds the metadata of Python's packages against those that were found.
func pythons(found *syftsbom.SBOM, files file.Resolver, out silences) {
	known := map[file.Coordinates]bool{}
	for p := range found.Artifacts.Packages.Enumerate(pkg.PythonPkg) {
		for _, l := range p.Locations.ToSlice() {
			known[l.Coordinates] = true
		}
	}
	for _, glob := range []string{"**/*dist-info/METADATA", "**/*DIST-INFO/METADATA"} {
		at, _ := files.FilesByGlob(glob) // an error is written down by the resolver
		for _, l := range at {
			if !known[l.Coordinates] {
				out.add(l.Coordinates, "python-installed-package-cataloger", "it names no package, or no version")
			}
		}
	}
}

// merged returns what cataloguers said and what they didn't.
func merged(said map[file.Coordinates][]string, s silences) map[file.Coordinates][]string {
	for at, reasons := range s {
		said[at] = slices.Concat(said[at], reasons)
	}
	return said
}
