package sbom

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/anchore/syft/syft/file"
	"github.com/anchore/syft/syft/pkg"
	syftsbom "github.com/anchore/syft/syft/sbom"
	"github.com/opencontainers/go-digest"

	"github.com/sluicegate/sluice/scan"
)

// maxProblems bounds what one image can make us write down.
const maxProblems = 100

// An excuse is for what a cataloguer says of files in which there is nothing to find. A
// file's name and contents may stand in what it says, so an excuse never looks for its
// text in the midst of that.
type excuse struct {
	cataloguer, text string                                      // all that it says
	open             bool                                        // text is only how it begins
	where            func(path string, files file.Resolver) bool // nil: anywhere
}

// excuses lists them. What is not listed is a Problem.
var excuses = []excuse{
	// An archive without a manifest or a pom: read, and nobody's package.
	{cataloguer: "java-archive-cataloger", text: "no package identified in archive"},
	// Windows programs without a resource of their version, and a project without packages.
	{cataloguer: "pe-binary-package-cataloger", text: nobody},
	{cataloguer: "php-composer-installed-cataloger", text: nobody},
	// What lies beside the packages of an image without dpkg, and a database that was
	// never written to. In any other there should have been a package.
	{cataloguer: "dpkg-db-cataloger", text: nobody, where: func(path string, files file.Resolver) bool {
		return blank(path, files) || strings.HasSuffix(path, ".md5sums")
	}},
	// Executables of a form that the loader of a Rust binary doesn't know hold no list of crates.
	{cataloguer: "cargo-auditable-binary-cataloger", text: "rust cataloger: unable to read dependency information: unknown file format"},
	// A file too short to be a kernel, whatever its name says.
	{cataloguer: "linux-kernel-cataloger", text: "unable to get magic type for file: EOF"},
	// Fixtures and templates inside JavaScript packages.
	{cataloguer: "javascript-package-cataloger", text: "failed to parse package.json file: invalid character ", open: true, where: insidePackage},
	{cataloguer: "javascript-package-cataloger", text: "failed to parse package.json file: unexpected EOF", where: insidePackage},
}

// nobody is what many cataloguers say of a file that they read and found empty.
const nobody = "unable to determine packages"

// insidePackage reports whether a package.json belongs to a JavaScript package that has
// one above it, and names none that a program could load by its name. node loads one
// that begins with a byte order mark, which syft does not read; and versions of node
// differ in what else they put up with.
func insidePackage(path string, _ file.Resolver) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	inside := false
	for i, part := range parts {
		if part != "node_modules" && part != "nodejs" {
			continue
		}
		name := 1 // elements
		if i+1 < len(parts) && strings.HasPrefix(parts[i+1], "@") {
			name = 2
		}
		inside = len(parts)-1 > i+1+name // deeper than node_modules/NAME/package.json
	}
	return inside
}

// problems turns syft's unknowns and the errors of the file system into Problems,
// sorted, at most maxProblems of them. layers maps diff IDs to compressed digests.
func problems(unknowns map[file.Coordinates][]string, errs map[string]error, layers map[string]digest.Digest) []scan.Problem {
	var out []scan.Problem
	for at, reasons := range unknowns {
		for _, reason := range reasons {
			out = append(out, scan.Problem{
				Kind: scan.KindCataloguerFailed, Layer: layers[at.FileSystemID], Path: clean(at.FullNestedPath(), 1024), Detail: clean(reason, 300),
			})
		}
	}
	for path, err := range maps.All(errs) {
		out = append(out, scan.Problem{Kind: scan.KindReadFailed, Path: clean(path, 1024), Detail: clean(err.Error(), 300)})
	}
	slices.SortFunc(out, func(a, b scan.Problem) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Detail, b.Detail))
	})
	if more := len(out) - maxProblems; more > 0 {
		out = append(out[:maxProblems], scan.Problem{Kind: scan.KindCataloguerFailed, Detail: fmt.Sprintf("and %d more", more)})
	}
	return out
}

// believed returns the unknowns without what is said of a file that is something else
// for certain. A scanner that is a Go program, and this program, has the mark of a .NET
// bundle among its constants, and what stands beside it there is no bundle's header.
func believed(found *syftsbom.SBOM) map[file.Coordinates][]string {
	out := maps.Clone(found.Artifacts.Unknowns)
	for p := range found.Artifacts.Packages.Enumerate(pkg.GoModulePkg) {
		for _, l := range p.Locations.ToSlice() {
			if reasons, ok := out[l.Coordinates]; ok {
				out[l.Coordinates] = slices.DeleteFunc(slices.Clone(reasons), func(r string) bool {
					return strings.HasPrefix(r, "dotnet-deps-binary-cataloger: ")
				})
			}
		}
	}
	return out
}

// unexcused returns the unknowns without those that hide no package.
func unexcused(unknowns map[file.Coordinates][]string, files file.Resolver) map[file.Coordinates][]string {
	out := map[file.Coordinates][]string{}
	for at, reasons := range unknowns {
		left := slices.DeleteFunc(slices.Clone(reasons), func(reason string) bool {
			cataloguer, text, _ := strings.Cut(reason, ": ")
			return slices.ContainsFunc(excuses, func(e excuse) bool {
				said := text == e.text || e.open && strings.HasPrefix(text, e.text)
				return e.cataloguer == cataloguer && said && (e.where == nil || e.where(at.FullNestedPath(), files))
			})
		})
		if len(left) > 0 {
			out[at] = left
		}
	}
	return out
}

// blank reports whether a file is there and has at most 64 KiB, all of them white space.
func blank(path string, files file.Resolver) bool {
	const most = 64 << 10
	if files == nil {
		return false
	}
	at := first(files.FilesByPath(path))
	if at == nil {
		return false
	}
	r, err := files.FileContentsByLocation(*at)
	if err != nil {
		return false
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	return err == nil && len(b) <= most && len(bytes.TrimSpace(b)) == 0
}

// clean returns s on one line of printable characters and at most limit bytes: it
// comes from a stranger's image.
func clean(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit-3], "") + "..."
	}
	return s
}
